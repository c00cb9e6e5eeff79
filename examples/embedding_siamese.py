"""A siamese embedding of digits: two inputs, a contrastive loss and a metric of the user's own.

python examples/embedding_siamese.py
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import compresskit

MARGIN = 1.0


def pairs(count: int, seed: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Two images each, (count, 1, 8, 8), and whether they show the same digit, (count,) floats."""
    source = load_digits()
    images, labels = torch.tensor(source.images, dtype=torch.float32)[:, None] / 16, torch.tensor(source.target)
    generator = torch.Generator().manual_seed(seed)
    order = torch.argsort(labels, stable=True)
    first = torch.randint(0, len(order), (count,), generator=generator)
    near = (first + torch.randint(1, 60, (count,), generator=generator)) % len(order)
    far = torch.randint(0, len(order), (count,), generator=generator)
    second = torch.where(torch.rand(count, generator=generator) < 0.5, near, far)
    first, second = order[first], order[second]
    return (images[first], images[second]), (labels[first] == labels[second]).float()


class Siamese(nn.Module):
    """One network over both images; the distance of the two embeddings, (batch,)."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.embed = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Flatten(), nn.Linear(2 * width * 16, 32),
        )  # fmt: skip

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (self.embed(first) - self.embed(second)).square().sum(1).add(1e-6).sqrt()


def contrastive(outputs: Tensor, targets: Tensor) -> Tensor:
    """Pulls equal pairs together, and pushes others apart up to a margin (Hadsell et al., 2006)."""
    apart = F.relu(MARGIN - outputs)
    return (targets * outputs.square() + (1 - targets) * apart.square()).mean()


def told_apart(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether a pair lies on its side of half the margin, (batch,)."""
    return ((outputs < MARGIN / 2) == (targets > 0.5)).float()


vars(told_apart)["scale"] = "share"


def main(epochs: float = 6, count: int = 3000) -> dict[str, float]:
    """Run it; returns the share of pairs that are told apart, by name."""
    shared = {"data": (pairs(count, 0), pairs(count // 4, 1)), "metric": told_apart, "task_loss": contrastive}
    training = {"optimizer": "adamw", "lr": 0.003, "batch_size": 64}
    full = compresskit.train(Siamese(), epochs=epochs, latency_rounds=0, **training, **shared)
    half = compresskit.prune(
        full, target_macs=0.5, recover="finetune", epochs=epochs / 3, latency_rounds=0, **training, **shared
    )
    results = {"float": full, "half the MACs": half}
    return {name: result.report["steps"][-1]["measurement"]["metric"]["value"] for name, result in results.items()}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:.4f} of the pairs told apart")
