"""Kinds of layers in int8 in ONNX Runtime and OpenVINO: what each computes in there, why, and how fast beside float.

    python benchmarks/quantization/deployment_kinds.py [KIND ...] [--rounds 12]

Each kind is a small network of random weights, quantized with int8-static on random inputs and exported as users do,
with `keep` "integers", the default, and "fastest". Latency: one input, one thread, float and int8 in turn.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from deployment import Examples, Network
from quantization_peers import versions
from torch import Tensor, nn
from torch.nn import functional as F

from compresskit.core.types import Loaded
from compresskit.export.lowering import export
from compresskit.export.options import ExportOptions
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context


class Functional(nn.Module):
    """Convolutions called as functions of parameters, between two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.kernel = nn.Parameter(torch.randn(32, 32, 3, 3) / 17)

    def forward(self, values: Tensor) -> Tensor:
        return self.last(F.relu(F.conv2d(F.relu(self.first(values)), self.kernel, padding=1))).mean((2, 3))


class Shared(nn.Module):
    """One convolution that runs three times."""

    def __init__(self):
        super().__init__()
        self.first, self.shared = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        values = F.relu(self.first(values))
        for _ in range(3):
            values = F.relu(self.shared(values))
        return values.mean((2, 3))


class Attention(nn.Module):
    """Self-attention of nn.MultiheadAttention between two linear layers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 128), nn.Linear(128, 10)
        self.attention = nn.MultiheadAttention(128, 4, batch_first=True)

    def forward(self, values: Tensor) -> Tensor:
        values = self.first(values)
        return self.last(self.attention(values, values, values, need_weights=False)[0])


class Tables(nn.Module):
    """Embeddings, and a linear layer over them."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(5000, 128), nn.Embedding(64, 128), nn.Linear(128, 128)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.words(ids) + self.places(torch.arange(ids.shape[1])))


def stack(kind: type[nn.Module], channels: int = 32, **last: int) -> nn.Module:
    """Three layers of a kind with activations between them."""
    first, second, third = kind(3, channels, 3), kind(channels, channels, 3), kind(channels, channels, 3, **last)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


def drawn(*shape: int):
    """Inputs of one shape."""
    return lambda generator: (torch.randn(*shape, generator=generator),)


KINDS = {
    "Conv1d": Network(lambda: stack(nn.Conv1d), drawn(1, 3, 1024)),
    "Conv2d": Network(lambda: stack(nn.Conv2d), drawn(1, 3, 48, 48)),
    "Conv3d": Network(lambda: stack(nn.Conv3d), drawn(1, 3, 14, 14, 14)),
    "Conv3d, 16 x 112 x 112": Network(lambda: stack(nn.Conv3d, 16), drawn(1, 3, 16, 112, 112)),
    "ConvTranspose1d": Network(lambda: stack(nn.ConvTranspose1d), drawn(1, 3, 1024)),
    "ConvTranspose2d": Network(lambda: stack(nn.ConvTranspose2d), drawn(1, 3, 48, 48)),
    "ConvTranspose3d": Network(lambda: stack(nn.ConvTranspose3d), drawn(1, 3, 14, 14, 14)),
    "functional convolution": Network(Functional, drawn(1, 3, 48, 48)),
    "shared convolution": Network(Shared, drawn(1, 3, 48, 48)),
    "MultiheadAttention": Network(Attention, drawn(1, 128, 64)),
    "Embedding": Network(Tables, lambda generator: (torch.randint(0, 5000, (1, 64), generator=generator),)),
}


def main() -> None:
    """Print a table of all kinds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--keep", nargs="+", default=["integers", "fastest"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    command = " ".join(sys.argv[1:])
    print(f"command: python benchmarks/quantization/deployment_kinds.py {command}", versions(), flush=True)
    print("| kind | runtime | keep | float ms | int8 ms | to float | largest difference | layers, why float |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind in options.kinds:
        torch.manual_seed(0)
        network = KINDS[kind]
        examples = Examples(network)
        loaded = Loaded(network.make().eval(), {}, examples.singles(1)[0])
        context = Context(loaded, data=examples)  # type: ignore[arg-type]
        quantize(loaded, QuantizeOptions(scheme="int8-static", calibration_samples=16), context)
        for runtime in ("onnxruntime", "openvino"):
            for keep in options.keep:
                with tempfile.TemporaryDirectory() as folder:
                    chosen = ExportOptions(format="onnx", runtime=runtime, keep=keep, rounds=options.rounds,
                                           cold_start="skip")  # fmt: skip
                    facts = export(loaded, chosen, Context(loaded), Path(folder) / "m.onnx")
                layers = "; ".join(
                    f"{row['layer']} {row['operation']}: {row['runs_in']}{', ' + row['why'] if row['why'] else ''}"
                    for row in facts.get("layers", [])
                )
                print(
                    f"| {kind} | {runtime} | {keep} | {facts['float_latency_ms']:.3f} | {facts['latency_ms']:.3f} "
                    f"| {facts['speedup']:.2f}x | {facts['largest_difference']:.2g} | {layers} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
