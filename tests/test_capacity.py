"""How many workers have room in the memory of machines."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawnind.capacity import Node, PhotoSize, find_pool, this_machine
from rawnind.memory import kept_truths, worker_bytes
from rawnind.options import Options
from rawnind.records import Cfa, ImageRef
from rawnind.source.decode import FrameSize


def photo(megapixels, truths=1):
    ref = ImageRef(
        cfa=Cfa.BAYER, scene="a", ground_truth=True, iso=100, sha1="0" * 40, filename="a.dng", path="/a.dng"
    )
    height, width = 1000, round(megapixels * 1000)
    size = FrameSize(height=height, width=width, raw_height=height, raw_width=width)
    return PhotoSize(photo=ref, truths=truths, size=size)


NODES = st.lists(
    st.builds(Node, cpus=st.integers(0, 64).map(float), memory=st.floats(2e9, 200e9)),
    min_size=1,
    max_size=4,
)
SIZES = st.lists(st.builds(photo, st.floats(1, 2000), st.integers(1, 12)), max_size=5)


@given(nodes=NODES, sizes=SIZES, scenes=st.integers(1, 100))
def test_all_workers_together_never_have_more_memory_than_there_is(nodes, sizes, scenes):
    pool = find_pool(nodes, Options(), scenes=scenes, noisy=300, sizes=sizes)
    assert 1 <= pool.workers <= scenes
    assert pool.workers == 1 or pool.workers * pool.needed <= sum(node.worker_memory for node in nodes)
    if pool.workers > 1:
        assert pool.memory >= pool.needed
    assert pool.memory <= max(node.worker_memory for node in nodes)


def test_too_many_workers_for_the_memory_are_reduced_with_a_sentence():
    node = Node(cpus=16, memory=13.1e9)
    pool = find_pool([node], Options(), scenes=100, noisy=100, sizes=[photo(24), photo(100)])
    assert worker_bytes(100_000_000) == 3.75e9
    assert pool.workers == 3
    assert pool.reduced == (
        "3 of 16 workers, because memory is short: the largest scene needs 3.8 GB (a.dng, 100000 x 1000 pixels), and all "
        "workers together have 12.0 GB."
    )
    assert not find_pool([node], Options(), scenes=100, noisy=100, sizes=[photo(6)]).reduced
    assert not find_pool([node], Options(max_scenes=3), scenes=100, noisy=100, sizes=[photo(100)]).reduced


def test_a_photo_that_no_machine_can_hold_leaves_the_workers_of_the_others():
    node = Node(cpus=8, memory=13.1e9)
    sane, both = (
        find_pool([node], Options(), scenes=100, noisy=100, sizes=sizes)
        for sizes in ([photo(24)], [photo(24), photo(1000)])
    )
    assert sane == both
    assert sane.workers == 8


def test_a_cluster_that_grows_has_workers_for_every_scene_up_to_what_a_driver_feeds():
    none = Node(cpus=0, memory=math.inf)
    for nodes in ([none], [Node(cpus=16, memory=32e9)]):
        for scenes, options, workers in (
            (300, Options(), 300),
            (20_000, Options(), 1000),
            (300, Options(max_scenes=5), 5),
        ):
            pool = find_pool(nodes, options, scenes=scenes, noisy=2 * scenes, sizes=[photo(24)], grows=True)
            assert (pool.workers, pool.needed, pool.reduced) == (workers, worker_bytes(24_000_000), "")
    assert find_pool([none], Options(), scenes=300, noisy=600, sizes=[photo(24)]).workers == 1


@pytest.mark.parametrize(("truths", "kept"), [(2e9, 4), (1.5e9, 2), (1.0e9, 1), (0, 1)])
def test_fewer_ground_truths_are_kept_where_memory_is_short(truths, kept):
    assert kept_truths(24_000_000, truths) == kept


def test_a_scene_of_many_ground_truths_needs_no_more_than_one_of_five():
    assert worker_bytes(20_000_000, 5) == worker_bytes(20_000_000, 100) > worker_bytes(20_000_000, 1)


def test_this_machine_leaves_memory_to_rays_object_store():
    found = this_machine()
    assert found.cpus >= 1
    assert 0 < found.worker_memory < found.memory


def test_photos_that_only_the_workers_can_open_may_be_large():
    assert find_pool([Node(cpus=16, memory=99e9)], Options(), scenes=9, noisy=9, sizes=[]).workers == 9


@pytest.mark.parametrize(
    ("noisy", "megapixels", "workers"),
    [
        (1, 24, 1),
        (2, 24, 1),
        (3, 24, 2),
        (24, 24, 16),
        (24, 0.1, 1),
        (1000, 0.1, 16),
        (3, 100, 9),
        (0, 24, 1),
    ],
)
def test_a_worker_is_started_where_it_has_as_much_to_do_as_its_start_takes(noisy, megapixels, workers):
    node = Node(cpus=16, memory=200e9)
    for sizes in ([photo(megapixels)], [photo(megapixels)] * 4):
        assert find_pool([node], Options(), scenes=100, noisy=noisy, sizes=sizes).workers == workers
        many = find_pool([node], Options(max_scenes=9), scenes=100, noisy=noisy, sizes=sizes)
        assert many.workers == 9
