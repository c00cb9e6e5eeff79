"""A network of 1-D convolutions that tells sounds apart, read from WAV files; cut to half its MACs, int8 weights.

python examples/audio_commands.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from scipy.io import wavfile
from torch import nn

import compresskit

RATE = 4000


def write_sounds(folder: Path, examples: int) -> None:
    """Half a second each of a rising, a falling, a steady and a trembling tone under noise, as CLASS/FILE.wav."""
    generator = np.random.default_rng(0)
    time = np.arange(RATE // 2) / RATE
    for name in ("falling", "rising", "steady", "trembling"):
        (folder / name).mkdir(parents=True)
        for number in range(examples // 4):
            start, slope = generator.uniform(200, 600), generator.uniform(600, 1200)
            slope *= {"rising": 1, "falling": -1}.get(name, 0)
            tremble = 4 * np.sin(2 * np.pi * 20 * time) if name == "trembling" else 0
            phase = 2 * np.pi * ((start - min(slope, 0) / 2) * time + slope * time**2 / 2) + tremble
            sound = 0.5 * np.sin(phase) + 0.1 * generator.standard_normal(len(time))
            wavfile.write(folder / name / f"{number:04}.wav", RATE, (sound.clip(-1, 1) * 32767).astype(np.int16))


class M5(nn.Sequential):
    """Samples (batch, 1, samples) -> (batch, classes), after Dai et al., "Very Deep CNNs for Raw Waveforms", 2017."""

    def __init__(self, classes: int = 4, width: int = 32):
        layers: list[nn.Module] = []
        inputs = 1
        for outputs, size, stride in ((width, 16, 4), (width, 3, 1), (2 * width, 3, 1), (2 * width, 3, 1)):
            layers += [nn.Conv1d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm1d(outputs)]
            layers += [nn.ReLU(), nn.MaxPool1d(4)]
            inputs = outputs
        super().__init__(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(inputs, classes))


def main(epochs: float = 8, width: int = 32, examples: int = 1200) -> dict[str, float]:
    """Run it; returns the top-1 accuracy by name.

    Args:
        epochs: of the first training; recovery takes a quarter of them.
        width: channels of the first two convolutions.
        examples: sounds; a fifth of them is for the test.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_sounds(Path(folder), examples)
        shared = {"data": f"audio:{folder}", "latency_rounds": 0}
        training = {"optimizer": "adamw", "lr": 0.003, "batch_size": 32}
        full = compresskit.train(M5(width=width), epochs=epochs, **training, **shared)
        half = compresskit.prune(full, target_macs=0.5, recover="kd", epochs=epochs / 4, **training, **shared)
        int8 = compresskit.quantize(half, scheme="int8-weight", **shared)
        results = {"float": full, "half the MACs": half, "half, int8": int8}
        return {name: result.report["steps"][-1]["measurement"]["metric"]["value"] for name, result in results.items()}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: top1 {value:.4f}")
