"""CIFAR-10 accuracy of quantized ResNets, with ONNX Runtime's and NNCF's quantizers on the same data.

    python benchmarks/quantization_cifar.py --models ../shared/models --data /path/to/cifar [--net 20|56] [--quick]

Prints top-1 on the test split for float, static int8 (also run in ONNX Runtime and OpenVINO, with latency beside the
peers' int8 and both runtimes' float), and weight-only 4, 3 and 2 bits by rounding method.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from compresskit.core.data import Data, open_data
from compresskit.core.source import load_model
from compresskit.core.types import Context, Loaded
from compresskit.quantization.lowering import export_onnx
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.program import export_program
from compresskit.quantization.quantize import quantize
from compresskit.quantization.runtimes import Exported, onnxruntime, openvino

WEIGHT_ONLY = {
    "nearest, min-max": {"weight_search": "minmax"},
    "nearest, least error": {},
    "+ bias correction": {"bias_correction": True},
    "equalized + bias correction": {"equalize": True, "bias_correction": True},
    "AWQ scaling": {"awq": True},
    "AdaRound + bias correction": {"rounding": "adaround", "bias_correction": True},
    "GPTQ + bias correction": {"rounding": "gptq", "bias_correction": True},
}


class Setting(NamedTuple):
    loaded: Loaded
    data: Data
    limit: int | None
    calibration: int


def top1(setting: Setting, module: nn.Module, batch_size: int = 250) -> float:
    """Percent of the test split."""
    hits = total = 0
    module.eval()
    with torch.inference_mode():
        for inputs, targets in setting.data.batches("test", batch_size=batch_size, limit=setting.limit):
            hits += int((module(inputs).argmax(1) == targets).sum())
            total += len(targets)
    return 100 * hits / total


def quantized(setting: Setting, **options) -> tuple[Loaded, dict]:
    """The model quantized with the given options, and the step's facts."""
    if options.get("scheme") == "int8-static" or QuantizeOptions(**options).needs_data():
        options = options | {"calibration_samples": setting.calibration}
    loaded = setting.loaded.clone()
    result = quantize(loaded, QuantizeOptions(**options), Context(setting.loaded, data=setting.data))
    return result.loaded, result.facts


def to_onnx(loaded: Loaded, path: Path) -> Exported:
    program = export_program(loaded.module, loaded.example)
    export_onnx(program, path)
    return Exported(loaded.module, program, path, loaded.example, 1)


def ort_peer(setting: Setting, float_path: Path, path: Path) -> None:
    """onnxruntime.quantization: QDQ, per-channel weights in 7 bits, min-max ranges, its recommended preprocessing."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, name: str):
            self.batches = iter([{name: batch.numpy()} for batch in setting.data.calibration(setting.calibration)])

        def get_next(self):
            return next(self.batches, None)

    import onnx

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(float_path), str(prepared))
    name = onnx.load(prepared).graph.input[0].name
    quantize_static(
        str(prepared), str(path), Reader(name), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


def nncf_peer(setting: Setting, float_path: Path, path: Path) -> None:
    """NNCF's default post-training quantization of the OpenVINO model."""
    import nncf
    import openvino as ov

    model = ov.Core().read_model(str(float_path))
    batches = setting.data.calibration(setting.calibration, batch_size=1)
    dataset = nncf.Dataset([batch.numpy() for batch in batches])
    ov.save_model(nncf.quantize(model, dataset, subset_size=setting.calibration), str(path), compress_to_fp16=False)


def interleaved_ms(runners: dict[str, nn.Module], inputs: torch.Tensor, rounds: int) -> dict[str, float]:
    """Latency of each runner, the fastest tenth of its runs: all timed in turn, on a machine with other work."""
    for runner in runners.values():
        for _ in range(5):
            runner(inputs)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds):
        names = list(runners) if number % 2 == 0 else list(runners)[::-1]
        for name in names:
            start = time.perf_counter()
            runners[name](inputs)
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.quantiles(values, n=10)[0] for name, values in seconds.items()}


def static_int8(setting: Setting, rounds: int) -> None:
    """Static int8 in eager PyTorch and in both runtimes, beside the peers."""
    print("\n| static int8 | top-1 | in ONNX Runtime | in OpenVINO |\n| --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        float_export = to_onnx(setting.loaded, base / "float.onnx")
        model, _ = quantized(setting, scheme="int8-static", observer="mse")
        ours = to_onnx(model, base / "ours.onnx")
        ort_peer(setting, base / "float.onnx", base / "ort.onnx")
        nncf_peer(setting, base / "float.onnx", base / "nncf.xml")

        def at(name: str) -> Exported:
            return Exported(setting.loaded.module, float_export.program, base / name, setting.loaded.example, 1)

        runners = {
            "float, ONNX Runtime": onnxruntime(float_export),
            "compresskit int8, ONNX Runtime": onnxruntime(ours),
            "onnxruntime.quantization int8, ONNX Runtime": onnxruntime(at("ort.onnx")),
            "float, OpenVINO": openvino(float_export),
            "compresskit int8, OpenVINO": openvino(ours),
            "NNCF int8, OpenVINO": openvino(at("nncf.xml")),
        }
        scores = {name: top1(setting, runner) for name, runner in runners.items()}
        eager = top1(setting, model.module)
        eager_float = top1(setting, setting.loaded.module)
        in_runtimes = f"{scores['float, ONNX Runtime']:.2f} | {scores['float, OpenVINO']:.2f}"
        print(f"| float | {eager_float:.2f} | {in_runtimes} |")
        print(
            f"| compresskit | {eager:.2f} (fake-quantized) | {scores['compresskit int8, ONNX Runtime']:.2f} "
            f"| {scores['compresskit int8, OpenVINO']:.2f} |"
        )
        print(f"| onnxruntime.quantization | | {scores['onnxruntime.quantization int8, ONNX Runtime']:.2f} | |")
        print(f"| NNCF | | | {scores['NNCF int8, OpenVINO']:.2f} |")
        times = interleaved_ms(runners, setting.loaded.example, rounds)
        print("\n| one image, one thread | ms | against the runtime's float |\n| --- | --- | --- |")
        for name, milliseconds in times.items():
            base_ms = times["float, ONNX Runtime" if "ONNX" in name else "float, OpenVINO"]
            print(f"| {name} | {milliseconds:.3f} | {base_ms / milliseconds:.2f}x |")


def weight_only(setting: Setting, bits: list[int], methods: list[str]) -> None:
    """Weight-only rounding methods; first and last layer in 8 bits."""
    print("\n| weights | method | top-1 | tensor bytes | ratio |\n| --- | --- | --- | --- | --- |")
    for width in bits:
        for name, options in WEIGHT_ONLY.items():
            if methods and not any(word in name for word in methods):
                continue
            model, facts = quantized(setting, scheme=f"int{width}-weight", **options)
            score = top1(setting, model.module)
            print(
                f"| int{width} | {name} | {score:.2f} | {facts['tensor_bytes']} | {facts['compression_ratio']:.2f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--net", default="20", choices=["20", "56"])
    parser.add_argument("--part", default="all", choices=["all", "static", "weights"])
    parser.add_argument("--limit", type=int, help="use only this many test images")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--methods", nargs="*", default=[], help="words of the rounding methods to run; none: all")
    parser.add_argument("--quick", action="store_true", help="1,000 test images, 128 calibration images, 4 bits only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    np.random.seed(0)
    weights = arguments.models / f"resnet{arguments.net}_cifar10.safetensors"
    loaded = load_model(f"builtin:cifar_resnet{arguments.net}", weights=str(weights))
    data = open_data(f"imagefolder:{arguments.data}", loaded.preprocessing)
    limit = 1000 if arguments.quick else arguments.limit
    setting = Setting(loaded, data, limit, 128 if arguments.quick else 512)
    images = limit or data.size("test")
    print(f"ResNet-{arguments.net}, {images} test images, {setting.calibration} calibration images")
    print(f"torch {torch.__version__}, {platform.machine()}, one thread")
    if arguments.part != "weights":
        static_int8(setting, 60 if arguments.quick else 300)
    if arguments.part != "static":
        weight_only(setting, [4] if arguments.quick else arguments.bits, arguments.methods)


if __name__ == "__main__":
    main()
