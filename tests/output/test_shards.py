"""Shards: what goes in comes out, the bytes depend on the crops alone, and any Parquet reader opens them."""

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawnind.errors import DamagedShardError, OutputError
from rawnind.output.shards import CropPixels, crop_name, read_crop, shard_name, shard_schema, write_shard
from rawnind.output.store import Store
from rawnind.records import Cfa
from tests.output.result_maker import make_crops, make_pixels

NAME = shard_name(Cfa.BAYER, "kitchen", "aaa-bbb")


def rows(count=3, size=32, seed=0):
    return list(make_pixels("aaa-bbb", make_crops(count=count), seed=seed, size=size))


def same(one, other):
    return one.crop_id == other.crop_id and all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name == "gt_rgb")
        and getattr(one, name).dtype == getattr(other, name).dtype
        for name in ("noisy_raw", "gt_raw", "gt_rgb", "valid")
    )


def test_shards_and_crops_are_named_by_their_place():
    assert NAME == "shards/bayer/kitchen/aaa-bbb.parquet"
    assert crop_name("aaa-bbb", 4, 36) == "aaa-bbb-4-36"


@settings(max_examples=15, deadline=None)
@given(size=st.sampled_from([32, 64, 96]), count=st.integers(1, 4), seed=st.integers(0, 99))
def test_what_is_written_is_what_is_read(tmp_path_factory, size, count, seed):
    store, written = Store(str(tmp_path_factory.mktemp("shard"))), rows(count, size, seed)
    shard = write_shard(store, NAME, iter(written), size)
    assert (shard.path, shard.sha256, shard.size) == (NAME, store.digest(NAME), len(store.read(NAME)))
    for number, row in enumerate(written):
        assert same(read_crop(store, NAME, number, size), row)


def test_every_value_of_every_type_survives(store):
    size = 256
    every = np.arange(65536, dtype=np.uint16).reshape(size, size)
    rgb = np.stack([every, every[::-1], every.T]).view(np.float16)  # NaN, infinities, -0 and subnormals too
    valid = np.zeros((size, size), bool)
    valid[::3, ::7] = True
    row = CropPixels(crop_id="a", noisy_raw=every, gt_raw=every.T, gt_rgb=rgb, valid=valid)
    write_shard(store, NAME, [row], size)
    back = read_crop(store, NAME, 0, size)
    assert np.array_equal(back.noisy_raw, every)
    assert np.array_equal(back.gt_raw, every.T)
    assert back.gt_rgb.tobytes() == rgb.tobytes()
    assert np.array_equal(back.valid, valid)


def test_the_bytes_depend_on_the_crops_alone(store, tmp_path):
    other = Store(str(tmp_path / "elsewhere"))
    one = write_shard(store, NAME, rows(), 32)
    again = write_shard(other, "another/name.parquet", rows(), 32)
    assert store.read(NAME) == other.read("another/name.parquet")
    assert one.sha256 == again.sha256
    assert write_shard(store, NAME, rows(), 32) == one
    assert write_shard(store, NAME, rows(seed=1), 32).sha256 != one.sha256


def test_one_row_group_for_each_crop_and_one_plain_page_for_each_value(store):
    size, written = 64, rows(4, 64)
    write_shard(store, NAME, written, size)
    with store.open(NAME) as source, pq.ParquetFile(source) as file:
        assert file.schema_arrow.equals(shard_schema(size))
        assert file.metadata.num_row_groups == file.metadata.num_rows == 4
        data = store.read(NAME)
        for number, row in enumerate(written):
            group = file.metadata.row_group(number)
            values = (None, row.noisy_raw, row.gt_raw, row.gt_rgb, np.packbits(row.valid))
            for column, value in enumerate(values):
                chunk = group.column(column)
                assert chunk.num_values == 1
                assert chunk.compression == "UNCOMPRESSED"
                assert not chunk.has_dictionary_page
                assert not chunk.is_stats_set
                assert "PLAIN" in chunk.encodings
                end = chunk.data_page_offset + chunk.total_compressed_size
                if value is not None:  # the value lies at the end of its only page, as it lies in memory
                    assert data[end - value.nbytes : end] == value.tobytes()
                    assert chunk.total_compressed_size < value.nbytes + 64
    for field in shard_schema(size):
        assert not field.nullable


def test_pandas_duckdb_and_pyarrow_read_the_same_pixels(store):
    written = rows(3)
    write_shard(store, NAME, written, 32)
    path = str(store.local(NAME))
    with duckdb.connect() as connection:
        tables = [
            pd.read_parquet(path),
            connection.execute("SELECT * FROM read_parquet(?)", [path]).df(),
            pq.read_table(path).to_pandas(),
        ]
    for table in tables:
        assert list(table.columns) == ["crop_id", "noisy_raw", "gt_raw", "gt_rgb", "mask"]
        assert list(table.crop_id) == [row.crop_id for row in written]
        for number, row in enumerate(written):
            assert bytes(table.noisy_raw[number]) == row.noisy_raw.tobytes()
            assert bytes(table.gt_raw[number]) == row.gt_raw.tobytes()
            assert bytes(table.gt_rgb[number]) == row.gt_rgb.tobytes()
            mask = np.unpackbits(np.frombuffer(bytes(table["mask"][number]), np.uint8), bitorder="big")
            assert np.array_equal(mask.reshape(32, 32).astype(bool), row.valid)


def test_crops_are_written_one_by_one(store):
    """Never more than one is held: the second is asked for when the first has been written."""
    sizes = []

    def watched():
        for row in rows(3, 64):
            (temporary,) = store.local("shards/bayer/kitchen").iterdir() if sizes else [None]
            sizes.append(temporary.stat().st_size if temporary else 0)
            yield row

    write_shard(store, NAME, watched(), 64)
    assert sizes == sorted(sizes)
    assert sizes[2] > 64 * 64 * 10


@pytest.mark.parametrize("field", ["noisy_raw", "gt_raw", "gt_rgb", "valid"])
def test_pixels_of_another_size_are_a_bug_and_leave_nothing(store, field):
    good, bad = rows(2)[0], rows(1, 64)[0]
    values = {name: getattr(good, name) for name in ("crop_id", "noisy_raw", "gt_raw", "gt_rgb", "valid")}
    with pytest.raises(ValueError, match="has"):
        write_shard(store, NAME, [good, CropPixels(**values | {field: getattr(bad, field)})], 32)
    assert store.list("shards") == []


def test_a_folder_that_cannot_be_written_is_an_output_error(store, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError):
        write_shard(store, NAME, rows(), 32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("whole")))
    write_shard(store, NAME, rows(), 32)
    return store.read(NAME)


DAMAGES = {
    "missing": None,
    "empty": lambda _: b"",
    "nonsense": lambda data: b"x" * len(data),
    "cut in the middle": lambda data: data[: len(data) // 2],
    "cut by one byte": lambda data: data[:-1],
    "no start": lambda data: data[1:],
    "a broken footer": lambda data: data[:-408] + bytes(400) + data[-8:],
    "a name that is no text": lambda data: data.replace(b"aaa-bbb", b"\xff\xfe\xfd-bbb"),
    "a footer that is longer than the file": lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_named(store, whole, damage):
    if DAMAGES[damage]:
        store.write(NAME, DAMAGES[damage](whole))
    with pytest.raises(DamagedShardError, match="aaa-bbb"):
        read_crop(store, NAME, 1, 32)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 1 << 20) | st.integers(-900, -1), value=st.integers(1, 255))
def test_a_changed_byte_gives_other_pixels_or_a_damaged_shard_and_never_another_error(
    tmp_path_factory, whole, place, value
):
    store = Store(str(tmp_path_factory.mktemp("flip")))
    place %= len(whole)
    store.write(NAME, whole[:place] + bytes([whole[place] ^ value]) + whole[place + 1 :])
    try:
        crop = read_crop(store, NAME, 0, 32)
    except DamagedShardError:
        return
    assert crop.noisy_raw.shape == (32, 32)


@pytest.mark.parametrize(("row_group", "size"), [(3, 32), (100, 32), (-1, 32), (0, 64)])
def test_a_crop_that_is_not_there_is_a_damaged_shard(store, whole, row_group, size):
    store.write(NAME, whole)
    with pytest.raises(DamagedShardError):
        read_crop(store, NAME, row_group, size)
