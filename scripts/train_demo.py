"""Train the demo network: writes edgekit/sources/demo/weights.safetensors and prints its accuracy.

    python scripts/train_demo.py [--epochs 60] [--seed 0]

Trains on the demo's training part only; the evaluation part is looked at once, after the last epoch.
Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import edgekit.sources.demo as demo
from edgekit.sources.demo.digits import digits
from edgekit.sources.demo.net import DigitsNet


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Small random rotation (12 degrees), scale (10 %) and shift (0.7 pixel), bilinear."""
    n = len(images)
    spread = torch.tensor([0.21, 0.1, 0.7 / 4, 0.7 / 4])
    angle, zoom, dx, dy = ((torch.rand(n, 4, generator=generator) * 2 - 1) * spread).T
    cos, sin = torch.cos(angle) * (1 + zoom), torch.sin(angle) * (1 + zoom)
    theta = torch.stack([torch.stack([cos, -sin, dx], 1), torch.stack([sin, cos, dy], 1)], 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    images, labels = (torch.from_numpy(a) for a in digits("train"))
    net = DigitsNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.05)
    batches = -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-3, epochs=args.epochs, steps_per_epoch=batches
    )
    started = time.perf_counter()
    for epoch in range(args.epochs):
        net.train()
        total = 0.0
        for chosen in torch.randperm(len(images), generator=generator).split(64):
            loss = F.cross_entropy(
                net(augment(images[chosen], generator)), labels[chosen], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(
            f"epoch {epoch + 1}/{args.epochs} loss {total / len(images):.4f} "
            f"{time.perf_counter() - started:.0f} s"
        )
    net.eval()
    test_images, test_labels = (torch.from_numpy(a) for a in digits("eval"))
    with torch.no_grad():
        right = int((net(test_images).argmax(1) == test_labels).sum())
    path = Path(demo.__file__).with_name("weights.safetensors")
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, path)
    print(
        f"{path}: {path.stat().st_size} bytes, "
        f"top-1 {100 * right / len(test_labels):.2f} % ({right}/{len(test_labels)})"
    )


if __name__ == "__main__":
    main()
