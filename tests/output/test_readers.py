"""The real output in the readers that people have: every table and every pixel, with each of them."""

from pathlib import Path

import duckdb
import mlcroissant
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from datasets import config, disable_progress_bars, load_dataset

from rawnind.output.verify import verify
from rawnind.records import Cfa
from tests.feed.folder_maker import FolderMaker

TABLES = {"crops": "manifest.parquet", "pairs": "pairs.parquet", "pixels": "shards/*/*/*.parquet"}
KEYS = {"crops": "crop_id", "pairs": "pair_id", "pixels": "crop_id"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two cameras, Bayer and X-Trans, one scene of the test reserve, one photo of unknown ISO."""
    maker = FolderMaker(tmp_path_factory.mktemp("readers") / "out")
    maker.scene("a", crops=2, photos=2).scene("b", cfa=Cfa.X_TRANS, crops=1, camera="Fujifilm X-T30", iso=800)
    maker.scene("c", crops=1, test=True, iso=None)
    maker.finish()
    return maker


@pytest.fixture(scope="module")
def out(made):
    return Path(made.store.location)


def expected(out, table):
    files = sorted(out.glob(TABLES[table]))
    return sorted(key for path in files for key in pq.read_table(path)[KEYS[table]].to_pylist())


READERS = {
    "pandas": lambda files, key: pd.concat([pd.read_parquet(path) for path in files])[key].tolist(),
    "duckdb": lambda files, key: [row[0] for row in duckdb.read_parquet(files).project(key).fetchall()],
    "polars": lambda files, key: pl.concat([pl.read_parquet(path) for path in files])[key].to_list(),
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("reader", READERS)
def test_every_table_opens_in_every_reader_of_parquet(out, reader, table):
    files = [str(path) for path in sorted(out.glob(TABLES[table]))]
    assert sorted(READERS[reader](files, KEYS[table])) == expected(out, table)


@pytest.mark.parametrize("table", TABLES)
def test_hugging_face_datasets_reads_the_folder_by_its_card(made, out, table, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    disable_progress_bars()
    rows = load_dataset(str(out), table, split="unsplit", cache_dir=str(tmp_path))
    assert sorted(rows[KEYS[table]]) == expected(out, table)
    if table == "pixels":
        first = rows[0]
        assert first["noisy_raw"] == made.pixels[first["crop_id"]].noisy_raw.tobytes()


def test_the_first_config_is_that_of_the_crops(out, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    assert len(load_dataset(str(out), cache_dir=str(tmp_path))["unsplit"]) == len(expected(out, "crops"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlcroissant uses what rdflib and pandas deprecate
@pytest.mark.parametrize("table", TABLES)
def test_croissant_is_valid_and_gives_the_rows(made, out, table):
    dataset = mlcroissant.Dataset(str(out / "croissant.json"))
    assert not dataset.metadata.issues.errors
    rows = list(dataset.records(table))
    assert sorted(row[f"{table}/{KEYS[table]}"].decode() for row in rows) == expected(out, table)
    columns = {name.split("/")[1] for name in rows[0]}
    assert columns == set(pq.read_schema(next(out.glob(TABLES[table]))).names)
    if table == "pixels":
        written = made.pixels[rows[0]["pixels/crop_id"].decode()]
        for name, array in (
            ("noisy_raw", written.noisy_raw),
            ("gt_raw", written.gt_raw),
            ("gt_rgb", written.gt_rgb),
            ("mask", np.packbits(written.valid)),
        ):
            stored = np.frombuffer(rows[0][f"pixels/{name}"], array.dtype).reshape(array.shape)
            assert np.array_equal(stored, array), name


def test_the_card_says_what_is_there_and_invents_no_licence(out):
    text = (out / "README.md").read_text()
    assert "license: unknown" in text
    assert "6 crops of 64 x 64 sites from 4 pairs" in text
    for row in (
        "| Fujifilm X-T30 | 800 | 1 | 1 |",
        "| Sony A7 | 3200 | 2 | 4 |",
        "| Sony A7 | unknown | 1 | 1 |",
    ):
        assert row in text
    assert "| test | 1 | 1 |" in text
    assert "Scenes are not chosen by their ISO." in text
    assert "| 3200 | 4 | 0 | 0 |" in text
    assert "| unknown | 0 | 0 | 1 |" in text
    assert 'with `split_by="camera"` val has' in text


def test_a_card_that_someone_changed_is_kept_and_ours_is_replaced(tmp_path):
    maker = FolderMaker(tmp_path / "out").scene("a", crops=1)
    card, croissant = maker.finish() / "README.md", tmp_path / "out" / "croissant.json"
    ours, described = card.read_bytes(), croissant.read_bytes()
    maker.finish()
    assert (card.read_bytes(), croissant.read_bytes()) == (ours, described)
    maker.scene("b", crops=1).finish()
    assert b"2 crops of" in card.read_bytes()
    card.write_bytes(card.read_bytes().replace(b"license: unknown", b"license: cc-by-sa-4.0"))
    maker.scene("c", crops=1).finish()
    assert b"cc-by-sa-4.0" in card.read_bytes()
    assert b"2 crops of" in card.read_bytes()


def test_verify_misses_a_card_and_sees_one_of_another_manifest(prepared_card):
    out, maker = prepared_card
    assert not [problem for problem in verify(maker.store) if "README" in problem or "croissant" in problem]
    (out / "README.md").write_text("my own words")
    (out / "croissant.json").unlink()
    problems = [problem for problem in verify(maker.store) if "README" in problem or "croissant" in problem]
    assert problems == ["croissant.json is missing"]


@pytest.fixture
def prepared_card(tmp_path):
    maker = FolderMaker(tmp_path / "out").scene("a", crops=1)
    return maker.finish(), maker
