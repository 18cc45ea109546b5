"""Checks a .dtmodel against the contract, by running its networks: what passes, darktable loads."""

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors
from pydantic import TypeAdapter, ValidationError

from rawnind.darktable.contract import (
    CONFIG,
    HEIGHT,
    INPUT,
    OPSET,
    OUTPUT,
    SUFFIX,
    TENSORS,
    WIDTH,
    Config,
    Tensors,
)
from rawnind.documents import SETTINGS
from rawnind.errors import ConfigError, printable

SIZES = ((32, 32), (64, 48), (16, 96))
"""Heights and widths on which every network is run: square, upright and flat."""

_MOST_BYTES = 1 << 30
"""Of an unpacked file; the largest network of this kind has 0.13 GB."""

_CONFIG = TypeAdapter(Config)
_RUNTIME = (
    runtime_errors.Fail, runtime_errors.InvalidArgument, runtime_errors.InvalidGraph, runtime_errors.InvalidProtobuf,
    runtime_errors.NotImplemented, runtime_errors.RuntimeException,
)  # fmt: skip
"""What onnxruntime raises for a file that it cannot load or run."""


class Package(NamedTuple):
    """An archive that follows the contract so far as `config.json` says it.

    Attributes:
        config: `config.json`.
        networks: the ONNX file of each variant.
    """

    config: Config
    networks: dict[str, bytes]


class _Broken(Exception):  # noqa: N818
    """The rest cannot be checked."""


def check_dtmodel(path: Path) -> list[str]:
    """What keeps darktable from using a .dtmodel as it is meant; empty where nothing does.

    Every network is run at three sizes.

    Args:
        path: of the archive.

    Returns:
        One sentence per problem, each with the file that it is about.
    """
    try:
        package = _read(path)
    except _Broken as broken:
        return list(broken.args)
    return [
        f"{path.name}: {problem}"
        for variant, data in package.networks.items()
        for problem in _network_problems(variant, data)
    ]


def read_dtmodel(path: Path) -> Package:
    """The content of a .dtmodel; its networks are not run.

    Raises:
        ConfigError: It breaks the contract.
    """
    try:
        return _read(path)
    except _Broken as broken:
        raise ConfigError("; ".join(broken.args)) from None


def load_session(data: bytes, *, cores: int = 0) -> onnxruntime.InferenceSession:
    """A network that runs on this machine's CPU.

    Args:
        data: the ONNX file.
        cores: that one operation uses; 0: all. With few pixels, or on a busy machine, one is faster.

    Raises:
        ConfigError: onnxruntime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal: what it would print, it also raises
    options.intra_op_num_threads = cores
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # waiting threads would take whole cores
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except _RUNTIME as error:
        raise ConfigError(f"onnxruntime cannot load it: {printable(' '.join(str(error).split()))}") from error


def _read(path: Path) -> Package:
    """The content of an archive.

    Raises:
        _Broken: With the problems.
    """
    if not path.is_file():
        raise _Broken(f"{path} does not exist or is no file; name a {SUFFIX} file")
    if path.suffix != SUFFIX:
        raise _Broken(f"{path.name}: its name must end in {SUFFIX}; rename it")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(path, archive)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError, ValueError) as error:
        raise _Broken(f"{path.name}: it is not a readable zip archive: {printable(str(error))}") from error


def _read_archive(path: Path, archive: zipfile.ZipFile) -> Package:
    _require(f"{path.name}: {problem}" for problem in _layout_problems(path, archive))
    if damaged := archive.testzip():
        raise _Broken(f"{path.name}: {printable(damaged)} is damaged")
    config = _config(path, archive.read(f"{path.stem}/{CONFIG}"))
    chosen = {
        name: variant.onnx
        for name, variant in (
            ("bayer", config.attributes.variants.bayer),
            ("linear", config.attributes.variants.linear),
        )
        if variant is not None
    }
    inside = set(archive.namelist())
    missing = [file for file in chosen.values() if f"{path.stem}/{file}" not in inside]
    _require(f"{path.name}: {CONFIG} names {file}, which is not in the archive" for file in missing)
    if not chosen:
        raise _Broken(f"{path.name}: {CONFIG} has neither variants.bayer nor variants.linear")
    return Package(config, {name: archive.read(f"{path.stem}/{file}") for name, file in chosen.items()})


def _require(problems: Iterable[str]) -> None:
    if found := list(problems):
        raise _Broken(*found)


def _layout_problems(path: Path, archive: zipfile.ZipFile) -> Iterator[str]:
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    for entry in entries:
        name = printable(entry.filename)
        parts = PurePosixPath(entry.filename).parts
        if "\\" in entry.filename or entry.filename.startswith("/") or ".." in parts:
            yield f"{name} would be unpacked outside of the model's folder"
        elif parts[0] != path.stem:
            yield f"{name} must lie in the folder {path.stem}/, which is named like the archive"
        elif entry.flag_bits & 1:
            yield f"{name} is encrypted"
        elif entry.file_size > _MOST_BYTES:
            yield f"{name} has {entry.file_size} bytes, more than the {_MOST_BYTES} that are read"
    if len(set(names)) < len(names):
        yield "a file is in it twice"
    config = f"{path.stem}/{CONFIG}"
    if config not in names:
        yield f"{config} is missing"
    elif archive.getinfo(config).file_size > SETTINGS:
        yield f"{config} has more than {SETTINGS} bytes"


def _config(path: Path, data: bytes) -> Config:
    try:
        config = _CONFIG.validate_json(data)
    except ValidationError as error:
        raise _Broken(*(f"{path.name}: {CONFIG}: {_sentence(each)}" for each in error.errors())) from error
    if config.id != path.stem:
        raise _Broken(
            f"{path.name}: {CONFIG}: id is {config.id}, and must be {path.stem} as the archive is named"
        )
    return config


def _sentence(error: object) -> str:
    """One of pydantic's errors: where it is and what it is."""
    found = TypeAdapter(dict[str, object]).validate_python(error)
    place = ".".join(str(part) for part in found["loc"])  # type: ignore[attr-defined]
    return printable(f"{place or 'the document'}: {found['msg']}")


def _network_problems(variant: str, data: bytes) -> Iterator[str]:
    expected, name = TENSORS[variant], f"the network of variants.{variant}"
    try:
        session = load_session(data, cores=1)
    except ConfigError as error:
        yield f"{name}: {error}"
        return
    opsets = {each.domain: each.version for each in onnx.ModelProto.FromString(data).opset_import}
    if opsets.get("") != OPSET:
        yield f"{name} has opset {opsets.get('', 'none')}, and must have {OPSET}"
    signature = list(_signature_problems(session, expected))
    yield from (f"{name}: {problem}" for problem in signature)
    if not signature:
        yield from (f"{name}: {problem}" for problem in _run_problems(session, expected))


def _signature_problems(session: onnxruntime.InferenceSession, expected: Tensors) -> Iterator[str]:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    for what, found, wanted in (("input", inputs, INPUT), ("output", outputs, OUTPUT)):
        names = [each.name for each in found]
        if names != [wanted]:
            yield f"its {what}s are {names}, and must be {[wanted]}"
        elif found[0].type != "tensor(float)":
            yield f"its {what} has the type {found[0].type}, and must be float32, tensor(float)"
    if len(inputs) == 1 and inputs[0].shape not in (
        [1, expected.channels, HEIGHT, WIDTH],
        ["batch", expected.channels, HEIGHT, WIDTH],
        ["batch_size", expected.channels, HEIGHT, WIDTH],
    ):
        wanted_shape = [1, expected.channels, HEIGHT, WIDTH]
        yield f"its input has the shape {inputs[0].shape}, and must have {wanted_shape}, height and width dynamic"


def _run_problems(session: onnxruntime.InferenceSession, expected: Tensors) -> Iterator[str]:
    rng = np.random.default_rng(0)
    for height, width in SIZES:
        levels = rng.random((1, expected.channels, height, width), np.float32)
        try:
            (out,) = session.run([OUTPUT], {INPUT: levels})
        except _RUNTIME as error:
            yield f"it cannot process {width} x {height}: {printable(' '.join(str(error).split()))}"
            continue
        wanted = (1, 3, expected.scale * height, expected.scale * width)
        if out.shape != wanted:
            yield f"for {width} x {height} its output has the shape {out.shape}, and must have {wanted}"
        elif not np.isfinite(out).all():
            yield f"for {width} x {height} its output has values that are not finite"
