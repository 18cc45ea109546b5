import json
import os
import shutil
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from ray.util.state import list_actors

from rawnind.errors import ConfigError
from rawnind.training import CropDataset, ray_dataset, train_distributed
from rawnind.training.evaluate import evaluate
from rawnind.training.loop import best_path, train
from tests.polling import poll

pytestmark = pytest.mark.ray

SMALL = {"crop_size": 32, "batch_size": 3, "funit": 4, "schedule": "constant", "warmup": 0}


def quiet(*_):
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


def test_two_workers_resume_after_a_kill_and_from_and_to_single_process_training(cluster, maker, tmp_path):
    for number in range(4):
        maker.scene(f"scene{number}", crops=6)
    where = str(maker.finish())
    alone = train(where, steps=2, progress=quiet, **SMALL)
    undisturbed = tmp_path / "undisturbed.pt"
    shutil.copy(alone.checkpoint, undisturbed)
    killed = []
    killer = threading.Thread(target=_kill_a_rank_after_a_checkpoint, args=[cluster, Path(where), killed])
    killer.start()
    report = train_distributed(
        where, steps=120, workers=2, save_every=20, progress_every=10, progress=quiet, **SMALL
    )
    killer.join()
    assert killed
    assert (report.steps, len(report.losses)) == (120, 120)
    assert 20 <= report.resumed_at < 120
    assert report.batches == 120 - report.resumed_at
    assert report.last_loss < report.first_loss
    assert report.losses[:2] == alone.losses
    whole = train(
        where,
        steps=120,
        checkpoint=undisturbed,
        progress=quiet,
        **SMALL | {"batch_size": 2 * SMALL["batch_size"]},
    )
    assert report.losses == pytest.approx(whole.losses, rel=0.05)
    ends = [evaluate(where, checkpoint=Path(each.checkpoint), split="all").total for each in (report, whole)]
    assert ends[0]["output_psnr"] == pytest.approx(ends[1]["output_psnr"], abs=0.1)
    lines = [json.loads(line) for line in maker.store.read("train/metrics.jsonl").splitlines()]
    assert [line["step"] for line in lines] == [
        2,
        *range(10, 121, 10),
    ]  # the first one is the single process's
    after = train(where, steps=122, progress=quiet, **SMALL)
    assert (after.resumed_at, after.losses[:120]) == (120, report.losses)


def test_two_workers_validate_as_one_does_with_the_same_total_batch(cluster, folder, tmp_path):
    where, options = folder.store.location, SMALL | {"validation_share": 0.5, "steps": 6, "validate_every": 3}
    alone = train(
        where, checkpoint=tmp_path / "a.pt", progress=quiet, validated=quiet, **options | {"batch_size": 4}
    )
    shown, validated = [], []
    report = train_distributed(
        where, workers=2, checkpoint=tmp_path / "b.pt", storage=tmp_path / "storage", progress_every=2,
        progress=lambda step, _: shown.append(step), validated=validated.append, **options | {"batch_size": 2},
    )  # fmt: skip
    assert report.losses == pytest.approx(alone.losses, rel=0.05)
    for name in ("output_psnr", "input_psnr"):
        assert report.scores.total[name] == pytest.approx(alone.scores.total[name], abs=0.1)
    assert shown == [2, 4, 6]
    assert [scores.step for scores in validated] == [3, 6]
    assert list((tmp_path / "storage" / "pictures").iterdir())
    assert best_path(tmp_path / "b.pt").exists()


def _kill_a_rank_after_a_checkpoint(cluster, output, killed):
    """Ray Train registers a checkpoint within two seconds; it resumes from registered ones only."""

    def registered():
        snapshots = output.glob("train/run-*/checkpoint_manager_snapshot.json")
        return any('"checkpoint_2' in snapshot.read_text() for snapshot in snapshots)

    poll(registered, timeout=250)  # Ray may take minutes to start on a busy machine
    filters = [("state", "=", "ALIVE"), ("class_name", "=", "RayTrainWorker")]
    worker = list_actors(address=cluster, filters=filters)[0]
    os.kill(worker.pid, signal.SIGKILL)
    killed.append(worker.pid)


def test_more_workers_than_the_cluster_has_are_refused_at_once(cluster, folder):
    with pytest.raises(ConfigError, match="9 CPUs are needed, the cluster has 2"):
        train_distributed(folder.store.location, steps=1, workers=9, crop_size=32, batch_size=1)


def test_too_few_crops_for_all_ranks_are_refused(cluster, folder):
    with pytest.raises(ConfigError, match="2 workers with batches of 99: 198 crops are needed, there are 30"):
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
