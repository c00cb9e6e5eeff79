"""A CRNN that reads strips of digits, trained with CTC; cut by a third and judged by its character error rate.

python examples/transcription_crnn.py
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import compresskit

LONGEST = 4  # digits in a strip


def strips(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (count, 1, 8, 8 * LONGEST) and labels (count, LONGEST): classes 1 to 10, padded with the blank, 0."""
    source = load_digits()
    images, labels = torch.tensor(source.images, dtype=torch.float32) / 16, torch.tensor(source.target)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(0, len(images), (count, LONGEST), generator=generator)
    there = torch.arange(LONGEST) < torch.randint(1, LONGEST + 1, (count, 1), generator=generator)
    drawn = images[chosen] * there[:, :, None, None]
    return drawn.movedim(1, 2).flatten(2).unsqueeze(1), (labels[chosen] + 1) * there


class CRNN(nn.Module):
    """(batch, 1, 8, width) -> (batch, width / 2, 11) logits, class 0 being the blank."""

    def __init__(self, width: int = 24):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(2 * width)])
        self.pool = nn.MaxPool2d(2)
        self.rnn = nn.GRU(2 * width, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, 11)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.pool(self.norms[0](self.first(images)).relu())
        maps = self.norms[1](self.second(maps)).relu().amax(2)
        return self.head(self.rnn(maps.transpose(1, 2))[0])


def main(epochs: float = 12, count: int = 3000) -> dict[str, float]:
    """Run it; returns the character error rate by name."""
    # padded labels (batch, 4) against 16 frames: the task is transcription, its loss ctc, its metric cer
    shared = {"data": (strips(count, 0), strips(count // 4, 1)), "latency_rounds": 0}
    training = {"optimizer": "adamw", "lr": 0.005, "batch_size": 64}
    full = compresskit.train(CRNN(), epochs=epochs, **training, **shared)
    less = compresskit.prune(full, ratio=0.33, recover="kd", epochs=epochs / 4, **training, **shared)
    results = {"float": full, "a third less": less}
    return {name: result.report["steps"][-1]["measurement"]["metric"]["value"] for name, result in results.items()}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: CER {value:.4f}")
