"""Trains a model of your own with Ray's TorchTrainer: python train_ray.py OUT EPOCHS WORKERS."""

import sys
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device, prepare_model
from torch import nn

from rawnind.training import CropDataset, CropLoader, masked_l1, to_rec2020


def train_rank(config: dict[str, Any]) -> None:
    """What each worker runs."""
    context = ray.train.get_context()
    model = prepare_model(  # packed Bayer (n, 4, h, w) to camera RGB (n, 3, 2h, 2w)
        nn.Sequential(
            nn.Conv2d(4, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 12, 3, padding=1), nn.PixelShuffle(2)
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    place = {"rank": context.get_world_rank(), "ranks": context.get_world_size()}
    loader = CropLoader(
        CropDataset(config["output"], crop_size=64), batch_size=4, workers=1, device=get_device(), **place
    )
    for epoch in range(config["epochs"]):
        for batch in loader:
            prediction = to_rec2020(model(batch["y_crops"]), batch["rgb_xyz_matrix"])
            loss = masked_l1(prediction, batch["x_crops"], batch["mask_crops"])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        ray.train.report({"epoch": epoch, "loss": loss.item(), "crops": loader.counters.crops})


if __name__ == "__main__":
    settings = {
        "output": sys.argv[1],
        "epochs": int(sys.argv[2]),
    }  # every node reads the folder under this name
    scaling = ray.train.ScalingConfig(num_workers=int(sys.argv[3]), use_gpu=torch.cuda.is_available())
    print(TorchTrainer(train_rank, train_loop_config=settings, scaling_config=scaling).fit())
