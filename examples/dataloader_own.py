"""DataLoaders of the user's own: series of several lengths, padded by a collate function, drawn by a weighted sampler.

python examples/dataloader_own.py
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

import compresskit

CLASSES = 3  # sine, square and sawtooth; there are few sawtooths


class Waves(Dataset[Any]):
    """Noisy waves of 40 to 80 samples, and which kind each is."""

    def __init__(self, count: int, first: int):
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(self.first + index)
        kind = self.kind(index)
        length = int(torch.randint(40, 81, (), generator=generator))
        start, period = torch.rand(2, generator=generator).tolist()
        phase = (torch.arange(length) / (8 + 12 * period) + start) % 1
        wave = [(2 * math.pi * phase).sin(), (phase < 0.5).float() * 2 - 1, 2 * phase - 1][kind]
        return wave + 0.4 * torch.randn(length, generator=generator), kind

    def kind(self, index: int) -> int:
        return (0, 1, 0, 1, 0, 1, 2)[index % 7]


def collate(examples: list[tuple[Tensor, int]]) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs by name, padded to the longest: signal (batch, longest) and lengths (batch,); kinds (batch,)."""
    signals = [signal for signal, _ in examples]
    padded = nn.utils.rnn.pad_sequence(signals, batch_first=True)
    inputs = {"signal": padded, "lengths": torch.tensor([len(signal) for signal in signals])}
    return inputs, torch.tensor([kind for _, kind in examples])


class Recognizer(nn.Module):
    """Convolutions over time, and a mean over the samples that are no padding."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.first, self.second = nn.Conv1d(1, width, 7, padding=3), nn.Conv1d(width, width, 7, padding=3)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, signal: Tensor, lengths: Tensor) -> Tensor:
        real = (torch.arange(signal.shape[1], device=signal.device) < lengths[:, None])[:, None].float()
        maps = self.first(signal[:, None]).relu() * real
        maps = self.second(maps).relu() * real
        return self.head(maps.sum(2) / real.sum(2))


def main(epochs: float = 4, count: int = 2100) -> dict[str, float]:
    """Run it; returns the share of waves that are told right, by name."""
    train = Waves(count, 0)
    weights = [1 / (1 if train.kind(index) == 2 else 3) for index in range(count)]
    sampler = WeightedRandomSampler(weights, count)
    # collate function and sampler are the loader's own; order, augmentation and batch size follow the run's options
    loaders = {
        "train": DataLoader(train, batch_size=64, sampler=sampler, collate_fn=collate),
        "test": DataLoader(Waves(count // 3, count), batch_size=64, collate_fn=collate),
    }
    shared = {"data": loaders, "latency_rounds": 0}
    training = {"optimizer": "adamw", "lr": 0.003, "batch_size": 32}
    full = compresskit.train(Recognizer(), epochs=epochs, **training, **shared)
    half = compresskit.prune(full, target_macs=0.5, recover="kd", epochs=epochs / 2, **training, **shared)
    int8 = compresskit.quantize(half, scheme="int8-static", **shared)
    results = {"float": full, "half the MACs": half, "half, int8": int8}
    return {name: result.report["steps"][-1]["measurement"]["metric"]["value"] for name, result in results.items()}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:.4f} of the waves told right")
