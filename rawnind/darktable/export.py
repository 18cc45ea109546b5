"""Exports checkpoints to a .dtmodel, which gets its name after its networks were compared with torch and the archive was checked."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from rawnind.darktable.check import check_dtmodel
from rawnind.darktable.contract import (
    CONFIG,
    INPUT_SIZES,
    ONNX_FILES,
    SUFFIX,
    Attributes,
    BayerVariant,
    Config,
    LinearVariant,
    Variants,
)
from rawnind.darktable.model_card import UNKNOWN, TrainingData, describe_data, model_card
from rawnind.darktable.onnx_graph import compare, encode_onnx
from rawnind.documents import SETTINGS
from rawnind.errors import ConfigError, OutputError, printable
from rawnind.feed.crop_options import Input
from rawnind.output.atomic_file import TEMPORARY, atomic_file
from rawnind.output.manifest import MANIFEST
from rawnind.training.checkpoint import load_network

_BAYER = BayerVariant(
    onnx=ONNX_FILES["bayer"],
    input_kind="bayer_v1",
    bayer_orientation="force_rggb",
    edge_pad="mirror_cropped",
    wb_norm="none",
    output_scale="match_gain",
)
_LINEAR = LinearVariant(
    onnx=ONNX_FILES["linear"],
    input_kind="linear_v1",
    input_colorspace="lin_rec2020",
    wb_norm="none",
    output_scale="match_gain",
    target_mean=None,
)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's first; equal checkpoints give equal archives


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """What was written.

    Attributes:
        path: of the archive.
        size: in bytes.
        differences: of each variant: the largest difference between onnxruntime's output and torch's.
        unknown: fields of the model card that say unknown.
    """

    path: Path
    size: int
    differences: dict[str, float]
    unknown: tuple[str, ...]

    def __str__(self) -> str:
        compared = ", ".join(
            f"{name} within {value:.1e} of torch" for name, value in self.differences.items()
        )
        card = f"; the model card says unknown for: {', '.join(self.unknown)}" if self.unknown else ""
        return f"wrote {self.path}, {self.size / 1e6:.1f} MB: {compared}; passed the check{card}"


def export_model(
    checkpoints: Sequence[str | Path],
    to: str | Path,
    *,
    data: str | Path | None = None,
    card: str | Path | None = None,
) -> ExportReport:
    """Writes a .dtmodel with one network per checkpoint.

    Args:
        checkpoints: one that was trained with `--input raw`, one with `--input rgb`, or both.
        to: a new file, `NAME.dtmodel`.
        data: folder of the training data, for the model card; None: the first checkpoint's own folder, where it has a manifest.
        card: YAML with fields of the model card, such as `author` and `license`, which replace what is found.

    Raises:
        ConfigError: A checkpoint, the card or the name is wrong, two checkpoints are of one kind, or a network cannot be exported.
        ManifestError: The folder of the training data is damaged.
        OutputError: The file cannot be written.

    Examples:
        >>> export_model(["bayer.pt", "rgb.pt"], "rawdenoise-mine.dtmodel", data="out")  # doctest: +SKIP
    """
    target = Path(to)
    _check_target(target)
    stated = _read_card(Path(card)) if card is not None else b""
    described = describe_data(_data_folder(Path(checkpoints[0]), data))
    files, differences = _networks([Path(path) for path in checkpoints])
    config = _config(target.stem, sorted(files), described, stated)
    content = {ONNX_FILES[variant]: network for variant, network in files.items()}
    size = _publish(target, {CONFIG: _encoded(config), **content})
    fields = config.model_card.model_dump()
    return ExportReport(
        path=target,
        size=size,
        differences=differences,
        unknown=tuple(name for name, text in fields.items() if text.startswith(UNKNOWN)),
    )


def _check_target(target: Path) -> None:
    if target.suffix != SUFFIX:
        raise ConfigError(f"{target} must end in {SUFFIX}")
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} exists already; choose another name or remove it")
    if not target.parent.is_dir():
        raise ConfigError(f"the folder of {target} does not exist; make it first")


def _read_card(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(SETTINGS)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _data_folder(checkpoint: Path, data: str | Path | None) -> str | None:
    if data is not None:
        return str(data)
    folder = checkpoint.absolute().parent
    return str(folder) if (folder / MANIFEST).is_file() else None


def _networks(checkpoints: Sequence[Path]) -> tuple[dict[str, bytes], dict[str, float]]:
    """The ONNX file of each variant, and its difference from torch."""
    files: dict[str, bytes] = {}
    differences: dict[str, float] = {}
    for path in checkpoints:
        network, _ = load_network(path)
        variant, option = ("bayer", "raw") if network.config.input is Input.RAW else ("linear", "rgb")
        if variant in files:
            raise ConfigError(f"{path} is a second network for --input {option}; give at most one of each")
        try:
            files[variant] = encode_onnx(network)
            differences[variant] = compare(network, files[variant])
        except ConfigError as error:
            raise ConfigError(f"{path} cannot be exported: {error}") from error
    return files, differences


def _config(name: str, variants: Sequence[str], data: TrainingData, stated: bytes) -> Config:
    kinds = {"bayer": "Bayer mosaics", "linear": "linear Rec.2020"}
    description = f"U-Net raw denoiser for {' and '.join(kinds[variant] for variant in variants)}"
    try:
        return Config(
            id=name,
            name=name.replace("-", " "),
            description=description,
            task="rawdenoise",
            arch="utnet2",
            backend="onnx",
            version="1.0",
            model_card=model_card(data, description, stated),
            attributes=Attributes(
                input_sizes=list(INPUT_SIZES),
                variants=Variants(
                    bayer=_BAYER if "bayer" in variants else None,
                    linear=_LINEAR if "linear" in variants else None,
                ),
            ),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"the name {printable(name)} of the model is wrong: {first['msg']}") from error


def _encoded(config: Config) -> bytes:
    """`config.json`, as UTF-8; a variant that is not there is left out."""
    value = config.model_dump()
    variants = value["attributes"]["variants"]
    value["attributes"]["variants"] = {name: each for name, each in variants.items() if each is not None}
    return (json.dumps(value, ensure_ascii=False, indent=4) + "\n").encode()


def _publish(target: Path, files: Mapping[str, bytes]) -> int:
    """Writes the archive beside its place, checks it, and gives it its name; its size in bytes."""
    try:
        with TemporaryDirectory(prefix=TEMPORARY, dir=target.parent) as folder:
            draft = Path(folder) / target.name
            with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, data in files.items():
                    entry = zipfile.ZipInfo(f"{target.stem}/{name}", _EPOCH)
                    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                    archive.writestr(entry, data)
            if problems := check_dtmodel(draft):
                raise ConfigError(f"the export does not pass its own check: {'; '.join(problems)}")
            with atomic_file(target, replace=False) as file:
                file.write(draft.read_bytes())
            return draft.stat().st_size
    except FileExistsError:
        raise ConfigError(f"{target} exists already; choose another name or remove it") from None
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}") from error
