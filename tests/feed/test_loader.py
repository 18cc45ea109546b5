import gc
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset
from torchdata.stateful_dataloader import StatefulDataLoader

from rawnind.errors import ConfigError, DamagedShardError
from rawnind.feed.buffers import BufferPool
from rawnind.feed.sampling import epoch_order, step_count, step_size
from rawnind.training import CropDataset, CropLoader, collate, to_device


def names(dataset, batch):
    """Rows of a batch, recognised by their pixels; for data sets without augmentation and with whole crops."""
    if not hasattr(dataset, "known"):
        dataset.known = {dataset[row]["y_crops"].numpy().tobytes(): row for row in range(len(dataset))}
    return [dataset.known[y[None].numpy().tobytes()] for y in batch["y_crops"]]


@pytest.fixture(scope="module")
def dataset(folder):
    return CropDataset(folder.store.location, crop_size=64, augment=False)


@pytest.mark.parametrize("source", ["raw", "rgb"])
def test_batches_are_the_same_with_threads_without_and_from_torchs_loader(folder, source):
    dataset = CropDataset(folder.store.location, crop_size=32, num_crops=2, input=source)
    alone, threads = CropLoader(dataset, 4), CropLoader(dataset, 4, workers=2)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        batches = list(alone)
        order = epoch_order(len(dataset), dataset.options.seed, epoch)
        torchs = list(DataLoader(Subset(dataset, order), batch_size=4))
        for one, other, third in zip(batches, threads, torchs, strict=True):
            for key in one:
                assert torch.equal(one[key], other[key])
                assert torch.equal(one[key], third[key])


def test_each_epoch_gives_every_row_once_in_another_order(dataset):
    loader = CropLoader(dataset, 4)
    first, second = ([row for batch in loader for row in names(dataset, batch)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second
    assert loader.epoch == 2


def test_without_shuffling_rows_come_in_order_and_a_small_last_batch_can_be_dropped(dataset):
    loader = CropLoader(dataset, 8, shuffle=False, drop_last=True, workers=1)
    assert len(loader) == 3
    assert [row for batch in loader for row in names(dataset, batch)] == list(range(24))


runs = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(0, 2), st.integers(0, 4)), max_size=4
)


@settings(max_examples=25, deadline=None)
@given(runs=runs)
def test_resuming_after_any_batch_with_other_ranks_gives_exactly_one_epoch(dataset, runs):
    """Each run has its own number of ranks, batch size, threads, and batches until it stops; the last one ends the epoch."""
    given_out, state = [], None
    for ranks, batch_size, workers, count in [*runs, (1, 4, 0, 100)]:
        if state is not None and state["epoch"] == 1:
            break
        loaders = [
            CropLoader(dataset, batch_size, workers=workers, rank=rank, ranks=ranks) for rank in range(ranks)
        ]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(pickle.loads(pickle.dumps(state)))
            batches = iter(loader)
            for _, batch in zip(range(count), batches, strict=False):
                given_out += names(dataset, batch)
            batches.close()
        states = [loader.state_dict() for loader in loaders]
        assert all(other == states[0] for other in states)
        state = states[0]
    assert set(given_out) == set(range(30))
    assert len(given_out) - 30 <= 2  # fewer rows left than ranks


def test_an_interrupted_loop_resumes_where_it_stopped(dataset):
    loader = CropLoader(dataset, 4, workers=2)
    seen = []
    for batch in loader:
        seen += names(dataset, batch)
        if len(seen) >= 12:
            break
    seen += [row for batch in loader for row in names(dataset, batch)]
    assert sorted(seen) == list(range(30))


def test_a_state_of_other_rows_or_options_is_refused(folder, dataset):
    state = CropLoader(dataset, 4).state_dict()
    other_options = CropDataset(folder.store.location, crop_size=64, augment=False, seed=1)
    other_rows = CropDataset(folder.store.location, crop_size=64, augment=False, iso=(1, 5000), split="all")
    with pytest.raises(ConfigError, match="the options changed"):
        CropLoader(other_options, 4).load_state_dict(state)
    with pytest.raises(ConfigError, match="the manifest changed"):
        CropLoader(dataset, 4).load_state_dict({**state, "manifest": "0" * 64})
    CropLoader(other_rows, 4).load_state_dict(state)  # the same rows, chosen in another way


def test_counters_count_what_was_given(dataset):
    loader = CropLoader(dataset, 4, workers=1)
    total = sum(len(batch["x_crops"]) for batch in loader)
    assert (loader.counters.batches, loader.counters.crops, loader.counters.skipped) == (8, total, 0)
    assert total == 30
    assert loader.counters.waited > 0


def test_memory_is_reused_but_never_while_a_batch_is_held(dataset):
    loader = CropLoader(dataset, 4)
    held = next(iter(loader))
    copies = {key: value.clone() for key, value in held.items()}
    view = held["x_crops"][1:2, 0]
    for _ in range(2):
        for _batch in loader:
            pass
    assert all(torch.equal(held[key], copies[key]) for key in held)
    del held
    for _batch in loader:
        pass
    assert torch.equal(view[0], copies["x_crops"][1, 0])


def test_a_pool_reuses_memory_once_no_tensor_refers_to_it():
    pool = BufferPool()
    tensor = pool.allocate(100)
    where = tensor.data_ptr()
    half = tensor[50:].view(torch.int16)
    del tensor
    gc.collect()
    assert pool.allocate(100).data_ptr() != where
    del half
    gc.collect()
    assert pool.allocate(100).data_ptr() == where


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_is_raised_or_counted(maker, workers):
    where = maker.scene("a").scene("b").finish()
    (shard,) = (where / "shards/bayer/a").iterdir()
    shard.write_bytes(shard.read_bytes()[:500])
    dataset = CropDataset(where, crop_size=32, split="all")
    with pytest.raises(DamagedShardError, match=shard.name):
        list(CropLoader(dataset, 2, workers=workers))
    loader = CropLoader(CropDataset(where, crop_size=32, split="all", on_damage="skip"), 2, workers=workers)
    assert len(list(loader)) == 4
    assert loader.counters.skipped == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"rank": 2, "ranks": 2}, r"rank must be at least 0 and below ranks, got \(2, 2\)"),
    ],
)
def test_wrong_numbers_are_refused(dataset, options, message):
    with pytest.raises(ConfigError, match=message):
        CropLoader(dataset, **{"batch_size": 4, **options})


def test_threads_leave_torchs_number_of_cores_alone(dataset):
    before = torch.get_num_threads()
    list(CropLoader(dataset, 8, workers=2))
    assert torch.get_num_threads() == before


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 with torch 2.13
def test_torchdatas_loader_resumes_at_the_next_sample_with_the_same_number_of_workers(dataset):
    make = lambda: StatefulDataLoader(dataset, batch_size=4, num_workers=0, collate_fn=collate)  # noqa: E731
    loader = make()
    batches = iter(loader)
    seen = [row for _ in range(3) for row in names(dataset, to_device(next(batches)))]
    again = make()
    again.load_state_dict(loader.state_dict())
    seen += [row for batch in again for row in names(dataset, to_device(batch))]
    assert seen == list(np.arange(30))


@given(
    rows=st.integers(0, 60), ranks=st.integers(1, 5), batch_size=st.integers(1, 6), drop_last=st.booleans()
)
def test_an_epoch_has_as_many_steps_as_the_closed_form_says(rows, ranks, batch_size, drop_last):
    left, steps = rows, 0
    while size := step_size(left, ranks, batch_size, drop_last=drop_last):
        left, steps = left - size, steps + 1
    assert steps == step_count(rows, ranks, batch_size, drop_last=drop_last)
    assert left == (rows % (ranks * batch_size) if drop_last else 0)


def test_the_length_is_that_of_a_whole_epoch_also_in_the_middle_of_one(dataset):
    loader = CropLoader(dataset, 4, rank=1, ranks=2)
    next(iter(loader))
    assert loader.position
    assert len(loader) == len(list(CropLoader(dataset, 4, rank=1, ranks=2))) == 4


def test_other_data_sets_are_refused_with_what_to_do_instead(dataset):
    for other in (dataset + dataset, Subset(dataset, [0])):
        with pytest.raises(
            TypeError, match=r"got (ConcatDataset|Subset)\. CropDataset\(\[out1, out2\]\) joins"
        ):
            CropLoader(other, 4)
