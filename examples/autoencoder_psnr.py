"""An autoencoder that takes noise off digits, judged by PSNR, with a guard in dB.

python examples/autoencoder_psnr.py
"""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import compresskit


class Noisy(Dataset[Any]):
    """Digits with noise on them; the target is the clean image."""

    def __init__(self, start: int, stop: int):
        self.images = torch.tensor(load_digits().images[start:stop], dtype=torch.float32)[:, None] / 16

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        clean = self.images[index]
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(index))
        return (clean + 0.2 * noise).clamp(0, 1), clean


class Autoencoder(nn.Module):
    """(batch, 1, 8, 8) -> the same, through a bottleneck of 2 x 2 places."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU()
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, 2, 2), nn.ReLU(), nn.ConvTranspose2d(width, 1, 2, 2), nn.Sigmoid()
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))


def main(epochs: float = 12, examples: int = 1400) -> dict[str, float]:
    """Run it; returns PSNR in dB by name."""
    loaders = DataLoader(Noisy(0, examples), batch_size=64, shuffle=True), DataLoader(Noisy(1400, 1797), batch_size=64)
    # floats of the outputs' own shape: the task is regression, and recover kd compares the outputs
    shared = {"data": loaders, "metric": "psnr", "latency_rounds": 0}
    training = {"optimizer": "adamw", "lr": 0.003, "batch_size": 64}
    full = compresskit.train(Autoencoder(), epochs=epochs, **training, **shared)
    half = compresskit.prune(full, target_macs=0.5, recover="kd", epochs=epochs / 3, max_drop=3.0, **training, **shared)
    int8 = compresskit.quantize(half, scheme="int8-static", **shared)
    results = {"float": full, "half the MACs": half, "half, int8": int8}
    return {name: result.report["steps"][-1]["measurement"]["metric"]["value"] for name, result in results.items()}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:.2f} dB")
