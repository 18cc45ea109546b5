import json
import os
import signal
import threading
import time
from collections import Counter

import pytest
import torch
from ray.util.state import list_actors

from rawnind.errors import ConfigError
from rawnind.training import CropDataset, ray_dataset, train_distributed
from rawnind.training.loop import train

pytestmark = pytest.mark.ray

SMALL = {"crop_size": 32, "batch_size": 3, "width": 4}


def quiet(_step, _loss):
    pass


def by_content(batches):
    return Counter(sample.numpy().tobytes() for batch in batches for sample in batch["y_crops"])


@pytest.fixture(scope="module")
def dataset(cluster, folder):
    return ray_dataset(folder.store.location, crop_size=32, seed=3).materialize()


def test_ray_data_gives_what_the_data_set_gives(dataset, folder):
    crops = CropDataset(folder.store.location, crop_size=32, seed=3)
    batches = list(dataset.iter_torch_batches(batch_size=7))
    assert {name: value.dtype for name, value in batches[0].items()} == {
        "x_crops": torch.float32,
        "y_crops": torch.float32,
        "mask_crops": torch.bool,
        "rgb_xyz_matrix": torch.float32,
        "gain": torch.float32,
    }
    assert batches[0]["mask_crops"].shape == (7, 3, 32, 32)
    assert by_content(batches) == by_content([crops[index] for index in range(len(crops))])


def test_a_streaming_split_shares_an_epoch(dataset):
    parts = dataset.streaming_split(2, equal=True)
    got = [[], []]

    def read(number):
        got[number] = list(parts[number].iter_torch_batches(batch_size=4))

    threads = [threading.Thread(target=read, args=[number]) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [sum(len(batch["gain"]) for batch in part) for part in got] == [15, 15]
    assert by_content([*got[0], *got[1]]) == by_content(dataset.iter_torch_batches(batch_size=9))


def test_two_workers_train_and_go_on_after_one_was_killed(cluster, maker):
    for number in range(4):
        maker.scene(f"scene{number}", crops=6)
    where = str(maker.finish())
    killer = threading.Thread(target=_kill_a_rank_after_a_checkpoint, args=[cluster, maker.store])
    killer.start()
    report = train_distributed(where, steps=60, workers=2, save_every=5, progress=quiet, **SMALL)
    killer.join()
    assert (report.steps, len(report.losses)) == (60, 60)
    assert 5 <= report.resumed_at < 60
    assert report.batches == 60 - report.resumed_at
    assert report.last_loss < report.first_loss
    lines = [json.loads(line) for line in maker.store.read("train/metrics.jsonl").splitlines()]
    assert [line["step"] for line in lines] == list(range(5, 61, 5))
    alone = train(where, steps=62, progress=quiet, **SMALL)
    assert alone.resumed_at == 60
    again = train_distributed(where, steps=64, workers=2, progress=quiet, **SMALL)
    assert (again.resumed_at, again.steps) == (62, 64)
    assert again.losses[:62] == alone.losses


def _kill_a_rank_after_a_checkpoint(cluster, store):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if store.exists("train/metrics.jsonl") and store.read("train/metrics.jsonl").count(b"\n") >= 2:
            break
        time.sleep(0.02)
    workers = list_actors(
        address=cluster, filters=[("state", "=", "ALIVE"), ("class_name", "=", "RayTrainWorker")]
    )
    os.kill(workers[0].pid, signal.SIGKILL)


def test_more_workers_than_the_cluster_has_are_refused_at_once(cluster, folder):
    with pytest.raises(ConfigError, match="9 CPUs are needed, the cluster has 2"):
        train_distributed(folder.store.location, steps=1, workers=9, crop_size=32, batch_size=1)


def test_too_few_crops_for_all_ranks_are_refused(cluster, folder):
    with pytest.raises(ConfigError, match="2 workers with batches of 99 need 198 crops, there are 30"):
        train_distributed(folder.store.location, steps=1, workers=2, crop_size=32, batch_size=99)


def test_the_order_is_another_in_each_epoch(folder, cluster):
    orders = [
        [
            row["x_crops"].tobytes()
            for row in ray_dataset(
                folder.store.location, crop_size=64, augment=False, epoch=epoch
            ).iter_rows()
        ]
        for epoch in (0, 1)
    ]
    assert orders[0] != orders[1]
    assert Counter(orders[0]) == Counter(orders[1])
