"""Indexes that are Parquet files: the same scenes as in YAML."""

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from rawnind.cli import main
from rawnind.errors import IndexInvalidError
from rawnind.source.index import load_index
from rawnind.source.parquet_index import write_parquet_index
from tests.source.index_maker import entry, lay_out, listed, name, sha1

rows = st.fixed_dictionaries(
    {
        "cfa": st.sampled_from(["Bayer", "X-Trans", "Foveon"]),
        "scene": st.sampled_from(["a", "TEST_b", "UNK_c d", "../e", "\x1b"]),
        "number": st.integers(1, 5),
        "gt": st.booleans(),
        "iso": st.sampled_from(["100", "Hi 3200", "Unknown"]),
    }
)


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(rows, min_size=1, max_size=6), own=st.booleans())
def test_an_index_survives_parquet(tmp_path_factory, rows, own):
    folder = tmp_path_factory.mktemp("listed")
    layout = {"Bayer": {"always": entry(noisy=[name("always", 9)])}}
    for row in rows:
        scene = layout.setdefault(row["cfa"], {}).setdefault(row["scene"], entry(test_reserve=row["gt"]))
        images = scene["clean_images" if row["gt"] else "noisy_images"]
        if own:
            images.append(
                {"filename": f"x/{row['number']}.arw", "sha1": sha1(row["number"]), "iso": row["number"]}
            )
        else:
            parts = {key: row[key] for key in ("number", "gt", "iso", "cfa")}
            images.append({"filename": name(row["scene"], **parts), "sha1": sha1(row["number"])})
    index = load_index(listed(folder, layout))
    path = folder / "elsewhere" / "index.parquet"
    path.parent.mkdir()
    with path.open("wb") as file:
        write_parquet_index(file, index, path.parent)
    again = load_index(path)
    assert again.scenes == index.scenes
    assert again.root == index.root


def test_the_command_writes_parquet_that_other_columns_and_orders_do_not_change(tmp_path):
    lay_out(tmp_path, "nested")
    path = tmp_path / "index.parquet"
    assert CliRunner().invoke(main, ["index", str(tmp_path), "-o", str(path)]).exit_code == 0
    index = load_index(tmp_path)
    assert load_index(path).scenes == index.scenes
    table = pq.read_table(path)
    shuffled = table.take(list(range(table.num_rows))[::-1]).append_column("why", [["by hand"] * len(table)])
    pq.write_table(shuffled, path)
    assert load_index(path).scenes == index.scenes


def test_a_parquet_file_that_is_no_index_is_said_to_be_none(tmp_path):
    path = tmp_path / "index.parquet"
    index = load_index(listed(tmp_path, {"Bayer": {"a": entry(noisy=[name("a", 9)])}}))
    with path.open("wb") as file:
        write_parquet_index(file, index, tmp_path)
    sound = path.read_bytes()
    lacking = pq.read_table(path).drop_columns(["scene"])
    pq.write_table(lacking, path)
    lacking = path.read_bytes()
    for damaged in (b"", b"PAR1", sound[:-9], b"\0" * len(sound), lacking):
        path.write_bytes(damaged)
        with pytest.raises(IndexInvalidError, match=r"index\.parquet is not an index: ") as error:
            load_index(path)
        assert str(error.value).isprintable()
