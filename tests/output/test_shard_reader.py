import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rawnind.errors import DamagedShardError
from rawnind.output.footer import parse_footer
from rawnind.output.shard_reader import ShardReader
from rawnind.output.shards import CropPixels, read_crop, write_shard
from rawnind.output.store import Store
from rawnind.recipe import Compression

SIZE = 32
NAME = "shards/bayer/kitchen/ab.parquet"


class RemoteStore(Store):
    """Reads through pyarrow.fs alone, as from an object store."""

    def __init__(self, location):
        super().__init__(location)
        self.is_local = False


def crops(count, size=SIZE):
    rng = np.random.default_rng(count)
    return [
        CropPixels(
            crop_id=f"ab-{number**3}-0",  # names of several lengths
            noisy_raw=rng.integers(0, 1 << 16, (size, size)).astype(np.uint16),
            gt_raw=rng.integers(0, 1 << 16, (size, size)).astype(np.uint16),
            gt_rgb=rng.normal(0.5, 1, (3, size, size)).astype(np.float16),
            valid=rng.random((size, size)) < 0.5,
        )
        for number in range(count)
    ]


@pytest.fixture
def shard(tmp_path):
    store = Store(str(tmp_path))
    write_shard(store, NAME, crops(5), SIZE)
    return store


def agrees(stored, pixels):
    valid = np.unpackbits(stored.mask, axis=1).view(np.bool_)
    return all(
        np.array_equal(one, other)
        for one, other in [
            (stored.noisy_raw, pixels.noisy_raw),
            (stored.gt_raw, pixels.gt_raw),
            (stored.gt_rgb, pixels.gt_rgb),
            (valid, pixels.valid),
        ]
    )


@pytest.mark.parametrize("kind", [Store, RemoteStore])
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(number=st.integers(0, 4))
def test_a_crop_is_what_the_parquet_reader_gives(shard, kind, number):
    with ShardReader(kind(shard.location)) as reader:
        stored = reader.crop(NAME, number, f"ab-{number**3}-0", SIZE, "")
    assert agrees(stored, read_crop(shard, NAME, number, SIZE))
    assert agrees(stored, crops(5)[number])


def test_a_compressed_shard_holds_the_same_crops(shard):
    write_shard(shard, "zstd.parquet", crops(5), SIZE, compression=Compression.ZSTD)
    with pq.ParquetFile(io.BytesIO(shard.read("zstd.parquet"))) as file:
        assert file.metadata.row_group(3).column(1).compression == "ZSTD"
    assert agrees(ShardReader(shard).crop("zstd.parquet", 3, "ab-27-0", SIZE, ""), crops(5)[3])


def test_few_shards_stay_open_and_many_threads_read_them(tmp_path):
    store = Store(str(tmp_path))
    names = [f"shards/bayer/kitchen/{number}.parquet" for number in range(6)]
    for name in names:
        write_shard(store, name, crops(3), SIZE)
    reader = ShardReader(store, keep=2)
    expected = crops(3)[2]
    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(reader.crop, name, 2, "ab-8-0", SIZE, "") for name in names * 20]
        assert all(agrees(job.result(), expected) for job in jobs)


def test_the_memory_of_footers_is_bounded_and_no_shard_is_hashed_twice(tmp_path):
    store = Store(str(tmp_path))
    names = [f"shards/bayer/kitchen/{number}.parquet" for number in range(6)]
    for name in names:
        write_shard(store, name, crops(3), SIZE)
    reader = ShardReader(store, verify=True, keep=2, keep_layouts=3)
    digest = store.digest(names[0])
    for name in names:
        reader.crop(name, 2, "ab-8-0", SIZE, digest)
    assert len(pickle.dumps(reader)) < 1000
    assert agrees(reader.crop(names[0], 1, "ab-1-0", SIZE, "not compared again"), crops(3)[1])
    assert len(reader._layouts) == 3


def test_views_outlive_the_reader(shard):
    reader = ShardReader(shard)
    stored = reader.crop(NAME, 1, "ab-1-0", SIZE, "")
    reader.close()
    del reader
    assert agrees(stored, crops(5)[1])


def test_writing_into_a_view_leaves_the_file_alone(shard):
    ShardReader(shard).crop(NAME, 1, "ab-1-0", SIZE, "").noisy_raw[:] = 0
    assert agrees(ShardReader(shard).crop(NAME, 1, "ab-1-0", SIZE, ""), crops(5)[1])


def test_an_unpickled_reader_opens_its_files_again(shard):
    reader = ShardReader(shard, verify=True)
    reader.crop(NAME, 0, "ab-0-0", SIZE, shard.digest(NAME))
    there = pickle.loads(pickle.dumps(reader))
    assert agrees(there.crop(NAME, 4, "ab-64-0", SIZE, shard.digest(NAME)), crops(5)[4])


@pytest.mark.parametrize(
    ("row_group", "crop_id", "size", "message"),
    [
        (1, "ab-2-0", SIZE, "row group 1 does not hold ab-2-0"),
        (1, "b-1-0", SIZE, "row group 1 does not hold b-1-0"),
        (5, "ab-1-0", SIZE, "has 5 crops, the manifest names number 5"),
        (-1, "ab-64-0", SIZE, "has 5 crops"),
        (1, "ab-1-0", 64, "not a shard of 64-pixel crops"),
    ],
)
def test_what_the_manifest_says_must_stand_in_the_file(shard, row_group, crop_id, size, message):
    with pytest.raises(DamagedShardError, match=f"{NAME}: {message}"):
        ShardReader(shard).crop(NAME, row_group, crop_id, size, "")


def test_a_shard_that_was_replaced_is_looked_at_again(shard):
    reader = ShardReader(shard, keep=1)
    reader.crop(NAME, 4, "ab-64-0", SIZE, "")
    write_shard(shard, "shards/bayer/other/cd.parquet", crops(1), SIZE)
    write_shard(shard, NAME, crops(2), SIZE)
    reader.crop("shards/bayer/other/cd.parquet", 0, "ab-0-0", SIZE, "")
    assert agrees(reader.crop(NAME, 1, "ab-1-0", SIZE, ""), crops(2)[1])
    with pytest.raises(DamagedShardError, match="has 2 crops"):
        reader.crop(NAME, 4, "ab-64-0", SIZE, "")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@example(where=0.51953125, bit=1)  # an offset that named another crop's chunk
def test_a_flipped_bit_outside_the_pixels_gives_an_error_or_right_pixels(shard, where, bit):
    """Never the pixels of another place. Bits within pixels are what verify=True is for."""
    whole = bytearray(shard.read(NAME))
    footer = 8 + int.from_bytes(whole[-8:-4], "little")
    place = len(whole) - footer + int(where * footer)
    whole[place] ^= 1 << bit
    shard.write("damaged.parquet", bytes(whole), replace=True)
    try:
        stored = ShardReader(shard).crop("damaged.parquet", 2, "ab-8-0", SIZE, "")
    except DamagedShardError:
        return
    assert agrees(stored, crops(5)[2])


@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_footer_or_a_value_error(data):
    try:
        found = parse_footer(data)
    except ValueError:
        return
    assert all(isinstance(number, int) for number in found)


@pytest.mark.parametrize("nested", [b"\x1c", b"\x19\x19", b"\x19" + b"\x19" * 5000])
def test_a_footer_that_is_nested_without_end_is_a_value_error(nested):
    with pytest.raises(ValueError, match=r"nested too deeply|ends too early"):
        parse_footer(nested * 3000)


def test_verifying_compares_the_whole_file(shard):
    with pytest.raises(DamagedShardError, match="SHA-256"):
        ShardReader(shard, verify=True).crop(NAME, 0, "ab-0-0", SIZE, "0" * 64)
