"""The model card of an export: what the network was trained on, as far as the folder of the training data says it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
from pydantic import ValidationError

from rawnind.darktable.contract import ModelCard
from rawnind.documents import SETTINGS, read_yaml
from rawnind.errors import ConfigError, ManifestError, printable
from rawnind.output.manifest import MANIFEST, read_head
from rawnind.output.store import Store
from rawnind.output.tables import open_table, require_sealed, require_sound
from rawnind.words import counted

UNKNOWN = "unknown"
DATA_CARD = "README.md"
"""Of the folder of the training data, as Hugging Face defines it: YAML between two lines of dashes, with `license`."""

_UNKNOWN_LICENSE = f"{UNKNOWN}: the folder of the training data has no {DATA_CARD} that states a license"
_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---\s*(?:\n|\Z)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """What a folder says of itself.

    Attributes:
        text: counts, cameras and ISO values, in a sentence.
        license: of the photos, as the data card has it.
    """

    text: str
    license: str


def describe_data(location: str | None) -> TrainingData:
    """Reads the manifest and the data card of the folder that a network was trained on.

    Args:
        location: of the folder; None: it is not known.

    Raises:
        NotPreparedError: The folder holds no result of `rawnind prepare`.
        ManifestError: It is damaged.
    """
    if location is None:
        return TrainingData(
            text=f"{UNKNOWN}: the folder of the training data was not at hand", license=_UNKNOWN_LICENSE
        )
    store = Store(location)
    card = _data_card(store)
    title = card.get("pretty_name")
    parts = [*([printable(title)] if isinstance(title, str) else []), _counts(store)]
    return TrainingData(text="; ".join(parts), license=_license(card))


def _license(card: Mapping[str, Any]) -> str:
    """One licence or several, as a data card states them; `rawnind prepare` writes `unknown`."""
    stated = card.get("license")
    names = stated if isinstance(stated, list) else [stated]
    known = [printable(name) for name in names if isinstance(name, str) and name not in {"", UNKNOWN}]
    return ", ".join(known) if known else _UNKNOWN_LICENSE


def _data_card(store: Store) -> dict[str, Any]:
    """The front matter of the folder's data card; empty where there is none."""
    try:
        text = store.read(DATA_CARD, SETTINGS).decode("utf-8", "replace")
    except FileNotFoundError:
        return {}
    match = _FRONT_MATTER.match(text)
    if match is None:
        return {}
    found = read_yaml(match[1].encode(), f"{DATA_CARD} in {store.location}", ManifestError)
    return found if isinstance(found, dict) else {}


_COUNTED = ["scene", "pair_id", "camera", "iso"]


def _counts(store: Store) -> str:
    """Crops, pairs, scenes, cameras and ISO values of a manifest, in one sentence."""
    try:
        head = read_head(store)
    except FileNotFoundError:
        raise ConfigError(
            f"{store.location} has no manifest; name the folder that `rawnind prepare` wrote with --data"
        ) from None
    require_sealed(store)
    with open_table(store, MANIFEST, _COUNTED) as file:
        table = file.read(_COUNTED)
    require_sound(table, MANIFEST, store.location)
    cameras = sorted(pc.unique(table["camera"]).drop_null().to_pylist())
    isos = pc.min_max(table["iso"]).as_py()
    pairs, scenes = (pc.count_distinct(table[name]).as_py() for name in ("pair_id", "scene"))
    named = ", ".join(printable(camera) for camera in cameras if camera) or UNKNOWN
    return (
        f"{counted(table.num_rows, 'crop')} of {counted(pairs, 'noisy photo')} in {counted(scenes, 'scene')}, ISO {isos['min']} to {isos['max']}, "
        f"cameras: {named}; prepared by rawnind with recipe {head['recipe'].get('digest', UNKNOWN)}"
    )


def model_card(data: TrainingData, description: str, stated: bytes = b"") -> ModelCard:
    """The card of an export; what only its author can say is marked as unknown unless it is stated.

    Args:
        data: what the network was trained on.
        description: of the network.
        stated: YAML with fields of `ModelCard`, which replace what is found.

    Raises:
        ConfigError: The YAML is damaged, or has something else than these fields.
    """
    found = {
        "long_description": description,
        "scope": "raw and linear RGB image denoising",
        "author": f"{UNKNOWN}: whoever trained it",
        "source": "trained with rawnind (Apache-2.0)",
        "paper": "https://arxiv.org/abs/2501.08924 (network and data set; not these weights)",
        "license": f"{UNKNOWN}: to be chosen by whoever trained it",
        "training_data": data.text,
        "training_data_license": data.license,
        "notes": "exported by rawnind; the output's brightness is matched to the input's by the caller",
    }
    given = read_yaml(stated, "the model card", ConfigError) or {}
    fields = ", ".join(ModelCard.model_fields)
    if not isinstance(given, dict) or not given.keys() <= found.keys():
        raise ConfigError(f"the model card must be a mapping with fields of these: {fields}")
    try:
        return ModelCard.model_validate(found | given)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"the model card: {first['loc'][0]}: {first['msg']}") from error
