"""Trains a model of your own in plain PyTorch: python train_torch.py OUT STEPS; torchrun starts it on several processes."""

import os
import sys

import torch
from torch import nn

from rawnind.training import CropDataset, CropLoader, masked_l1, to_rec2020


def main(output: str, steps: int) -> None:
    """Trains for some steps on the folder that `rawnind prepare` wrote."""
    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    model: nn.Module = nn.Sequential(  # packed Bayer (n, 4, h, w) to camera RGB (n, 3, 2h, 2w)
        nn.Conv2d(4, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 12, 3, padding=1), nn.PixelShuffle(2)
    )
    if ranks > 1:
        torch.distributed.init_process_group("gloo")
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    loader = CropLoader(CropDataset(output, crop_size=64), batch_size=4, workers=2, rank=rank, ranks=ranks)
    step = 0
    while step < steps:
        for batch in loader:
            prediction = to_rec2020(model(batch["y_crops"]), batch["rgb_xyz_matrix"])
            loss = masked_l1(prediction, batch["x_crops"], batch["mask_crops"])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            print(f"step {step}: loss {loss.item():.4f}")
            if step == steps:
                break


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
