import multiprocessing
import pickle

import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from rawnind.feed import shared_memory
from rawnind.training import CropDataset, collate, to_device


@pytest.fixture(scope="module")
def dataset(folder):
    return CropDataset(folder.store.location, crop_size=32, augment=False)


def loader(dataset, **options):
    return DataLoader(
        dataset,
        batch_size=2,
        num_workers=1,
        multiprocessing_context="fork",
        **{"collate_fn": collate} | options,
    )


def expected(dataset):
    return [to_device(dataset.native(range(first, first + 2)))["y_crops"] for first in range(0, 30, 2)]


def test_memory_is_reused_but_never_while_a_batch_or_a_part_of_it_is_held(dataset):
    loaded = loader(dataset, persistent_workers=True)
    batches = iter(loaded)
    held, part = next(batches), next(batches).tensors.y[1]
    copy = part.clone()
    seen = {batch.memory.data_ptr() for _ in range(3) for batch in loaded}
    assert len(seen) <= 8  # of 45 batches
    assert torch.equal(to_device(held)["y_crops"], expected(dataset)[0])
    assert torch.equal(part, copy)


def test_batches_that_are_all_kept_stay_intact(dataset):
    loaded = loader(dataset, persistent_workers=True)
    for _ in range(2):
        batches = list(loaded)
        got = [to_device(batch)["y_crops"] for batch in batches]
        assert all(torch.equal(*pair) for pair in zip(got, expected(dataset), strict=True))


def blocks_after_converting(samples):
    """What a user may do in a worker: the native batch is never sent."""
    gain = to_device(collate(samples))["gain"]
    return gain, len(shared_memory._worker_blocks)


def test_a_batch_that_a_worker_does_not_send_frees_its_memory(dataset):
    assert {count for _, count in loader(dataset, collate_fn=blocks_after_converting)} == {1}


def brighter(samples):
    """A collate function of a user's own, on top of torch's."""
    batch = default_collate(samples)
    batch["y_crops"] = batch["y_crops"] * 2
    return batch


def test_a_collate_function_on_top_of_torchs_sees_and_changes_plain_batches(dataset):
    got = [batch["y_crops"] for batch in loader(dataset, collate_fn=brighter)]
    assert all(torch.equal(one, 2 * other) for one, other in zip(got, expected(dataset), strict=True))


def test_blocks_of_workers_that_ended_are_unmapped(dataset):
    for _ in range(3):
        list(loader(dataset))
    ends = {int(shared_memory._header(block)[2]) for block in shared_memory._mapped_blocks.values()}
    assert len(ends) <= 1


def test_a_received_batch_can_be_sent_and_pickled(dataset):
    batch = next(iter(loader(dataset)))
    queue = multiprocessing.get_context("fork").Queue()
    queue.put(batch)
    for copy in (queue.get(timeout=20), pickle.loads(pickle.dumps(batch))):
        assert torch.equal(to_device(copy)["x_crops"], to_device(batch)["x_crops"])
    queue.close()
