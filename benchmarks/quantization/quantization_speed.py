"""Latency of int8 exports of ImageNet-sized networks beside the runtimes' own quantizers.

    python benchmarks/quantization/quantization_speed.py [--nets NET ...] [--inductor] [--quick]

Structure only: weights are random (BatchNorm statistics settled on random images), so this says nothing about accuracy.
For each runtime: its float, our export in int8, and the peer's int8, timed in turn in one process on one thread; ratios
against float PyTorch in eager mode and against the peer.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from quantization_peers import Milliseconds, Rows, interleaved_ms, nncf_int8, ort_int8, to_onnx, versions
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.core.types import Loaded
from compresskit.export.exporters.export_program import export_program
from compresskit.export.lowering import compare
from compresskit.export.runtimes.exported import Exported, Runner
from compresskit.export.runtimes.inductor import inductor
from compresskit.export.runtimes.onnxruntime import onnxruntime
from compresskit.export.runtimes.openvino import openvino
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

_CALIBRATION = 16


class RandomImages:
    """Calibration images from a seeded generator."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def calibration(self, samples: int, *, batch_size: int = 8, seed: int = 0) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        sizes = [min(batch_size, samples - start) for start in range(0, samples, batch_size)]
        return [torch.randn(size, *self.shape, generator=generator) for size in sizes]


def settled(loaded: Loaded, images: RandomImages) -> Loaded:
    """Random weights with BatchNorm statistics of random images, so that activations keep their scale."""
    loaded.module.train()
    with torch.no_grad():
        for batch in images.calibration(_CALIBRATION):
            loaded.module(batch)
    loaded.module.eval()
    return loaded


def onnx_runners(loaded: Loaded, int8: Loaded, images: RandomImages, folder: Path) -> dict[str, nn.Module]:
    program = to_onnx(loaded, folder / "float.onnx").program
    to_onnx(int8, folder / "ours.onnx")
    singles = images.calibration(_CALIBRATION, batch_size=1)
    ort_int8(folder / "float.onnx", folder / "ort.onnx", singles)
    nncf_int8(folder / "float.onnx", folder / "nncf.xml", singles)

    def at(name: str) -> Exported:
        return Exported(loaded.module, program, folder / name, loaded.example, 1)

    return {
        "ONNX Runtime float": onnxruntime(at("float.onnx")),
        "ONNX Runtime int8, compresskit": onnxruntime(at("ours.onnx")),
        "ONNX Runtime int8, onnxruntime.quantization": onnxruntime(at("ort.onnx")),
        "OpenVINO float": openvino(at("float.onnx")),
        "OpenVINO int8, compresskit": openvino(at("ours.onnx")),
        "OpenVINO int8, NNCF": openvino(at("nncf.xml")),
    }


def inductor_runners(loaded: Loaded, int8: Loaded) -> dict[str, nn.Module]:
    compiled = torch.compile(loaded.module)
    program = export_program(int8.module, int8.example)
    return {
        "inductor float": Runner(lambda inputs: compiled(*inputs)),
        "inductor int8, compresskit": inductor(Exported(int8.module, program, Path("model.pt2"), int8.example, 1)),
    }


def measure(net: str, with_inductor: bool, rounds: int) -> dict[str, dict]:
    """Latencies of every runner, and how far ours lie from the fake-quantized model."""
    torch.manual_seed(0)
    loaded = load_model(net)
    images = RandomImages(tuple(loaded.example.shape[1:]))
    settled(loaded, images)
    int8 = loaded.clone()
    options = QuantizeOptions(scheme="int8-static", calibration_samples=_CALIBRATION, observer="minmax")
    quantize(int8, options, Context(loaded, data=images))
    differences = {}
    with tempfile.TemporaryDirectory() as folder:
        runners = {"PyTorch eager float": loaded.module} | onnx_runners(loaded, int8, images, Path(folder))
        if with_inductor:
            runners |= inductor_runners(loaded, int8)
        batches = images.calibration(4, batch_size=1, seed=1)
        for name in [name for name in runners if "compresskit" in name]:
            found = compare(int8.module, runners[name], batches)
            differences[name] = found["largest_difference"] / found["output_scale"]
        times = interleaved_ms(runners, loaded.example, rounds)
    return {"differences": differences, "times": times}


def report(times: dict[str, Milliseconds]) -> None:
    """A table of medians, quartiles and ratios."""
    eager = times["PyTorch eager float"][0]
    print("| one image, one thread | fastest tenth, ms | median | slowest quarter | against eager | against the peer |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (fast, middle, slow) in times.items():
        runtime = name.split(" int8")[0]
        peers = [
            value[0]
            for other, value in times.items()
            if other.startswith(f"{runtime} int8,") and "compresskit" not in other
        ]
        against = f"{peers[0] / fast:.2f}x" if peers and "compresskit" in name else ""
        print(f"| {name} | {fast:.2f} | {middle:.2f} | {slow:.2f} | {eager / fast:.2f}x | {against} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=["torchvision:mobilenet_v2", "torchvision:resnet50"])
    parser.add_argument(
        "--inductor", action="store_true", help="compile with inductor too (a minute or more a network)"
    )
    parser.add_argument("--rows", type=Path, help="file that keeps finished rows")
    parser.add_argument("--quick", action="store_true", help="MobileNetV2 only, few rounds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(arguments.rows)
    print(versions())
    for net in arguments.nets[:1] if arguments.quick else arguments.nets:
        rounds = 15 if arguments.quick else 60
        key = f"{net}, {rounds} rounds{', inductor' if arguments.inductor else ''}"
        row = rows.get(key, lambda net=net, rounds=rounds: measure(net, arguments.inductor, rounds))
        print(f"\n## {net}\n", flush=True)
        for name, share in row["differences"].items():
            print(f"{name}: largest difference to the fake-quantized model {share:.4f} of the largest output\n")
        report({name: Milliseconds(*times) for name, times in row["times"].items()})


if __name__ == "__main__":
    main()
