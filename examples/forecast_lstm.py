"""An LSTM that forecasts a series read from a csv file, distilled to half its width and quantized to int8 weights.

python examples/forecast_lstm.py
"""

from __future__ import annotations

import csv
import math
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import compresskit

WINDOW = 24  # hours that are looked at


def write_series(path: Path, hours: int) -> None:
    """A load with a daily and a weekly rhythm, a window of past values and the next one a row."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(hours, generator=generator)
    series = [
        math.sin(t / 24 * 2 * math.pi) + 0.5 * math.sin(t / 168 * 2 * math.pi) + float(noise[t]) for t in range(hours)
    ]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"hour{-WINDOW + lag}" for lag in range(WINDOW)), "target"])
        writer.writerows(series[start : start + WINDOW + 1] for start in range(hours - WINDOW))


class Forecaster(nn.Module):
    """(batch, WINDOW) -> (batch,), the next value."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.rnn = nn.LSTM(1, width, batch_first=True)
        self.hidden, self.head = nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, past: Tensor) -> Tensor:
        return self.head(self.hidden(self.rnn(past.unsqueeze(-1))[0][:, -1]).relu())


def main(epochs: float = 10, hours: int = 2000) -> dict[str, float]:
    """Run it; returns the mean squared error by name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "load.csv"
        write_series(path, hours)
        # floats as targets: the task is regression, its metric mse; a drop of 5% is one of 5% of the error, since it
        # is no share
        shared = {"data": f"csv:{path}", "latency_rounds": 0}
        training = {"optimizer": "adamw", "lr": 0.005, "batch_size": 64}
        full = compresskit.train(Forecaster(), epochs=epochs, task_loss="huber", **training, **shared)
        half = compresskit.distill(
            full, student=Forecaster(16), teacher=full, loss="outputs", epochs=epochs, **training, **shared
        )
        int8 = compresskit.quantize(half, scheme="int8-weight", max_drop="5%", **shared)
        results = {"float": full, "half the width": half, "half, int8": int8}
        return {name: result.report["steps"][-1]["measurement"]["metric"]["value"] for name, result in results.items()}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: MSE {value:.4f}")
