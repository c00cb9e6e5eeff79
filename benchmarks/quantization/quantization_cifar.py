"""CIFAR-10 accuracy of quantized ResNets, with ONNX Runtime's and NNCF's quantizers on the same data.

    python benchmarks/quantization/quantization_cifar.py --models ../shared/models --data /path/to/cifar [--net \
        20|56] [--quick]

Prints top-1 on the test split for static int8 in ONNX Runtime and OpenVINO, with latency, beside the peers' int8 and
both runtimes' float, and for weight-only 4, 3 and 2 bits by rounding method. With --rows FILE, finished rows are kept
there and not run again.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from quantization_peers import Rows, interleaved_ms, nncf_int8, ort_int8, to_onnx, versions
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.core.types import Loaded
from compresskit.data.dataset import Data, open_data
from compresskit.evaluation.metrics import make_metric
from compresskit.export.runtimes.exported import Exported
from compresskit.export.runtimes.onnxruntime import onnxruntime
from compresskit.export.runtimes.openvino import openvino
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

STATIC = {
    "compresskit": {},
    "compresskit, GPTQ + bias correction": {"rounding": "gptq", "bias_correction": True},
}
#: a few hundred steps of 128 images, with the float model as teacher
_QAT = {"qat": "kd", "epochs": 1, "train_limit": 25_600, "lr": 5e-4, "norm_batches": 0}
WEIGHT_ONLY = {
    "nearest, min-max": {"weight_search": "minmax"},
    "nearest, least error": {},
    "+ bias correction": {"bias_correction": True},
    "equalized + bias correction": {"equalize": True, "bias_correction": True},
    "AWQ scaling": {"awq": True},
    "AdaRound + bias correction": {"rounding": "adaround", "bias_correction": True},
    "GPTQ + bias correction": {"rounding": "gptq", "bias_correction": True},
    "QAT (LSQ) with distillation, 200 steps": _QAT,
}


class Setting(NamedTuple):
    net: str
    loaded: Loaded
    data: Data
    test: list  # (inputs, targets), decoded once
    limit: int | None
    calibration: int


@torch.inference_mode()
def all_logits(setting: Setting, module: nn.Module) -> torch.Tensor:
    """Logits of the test images."""
    return torch.cat([module.eval()(inputs) for inputs, _ in setting.test])


def quantized(setting: Setting, seed: int, **options) -> tuple[Loaded, dict]:
    """The model quantized with the given options, and the step's facts."""
    if options.get("scheme") == "int8-static" or QuantizeOptions(**options).needs_data():
        options = options | {"calibration_samples": setting.calibration}
    loaded = setting.loaded.clone()
    context = Context(setting.loaded, data=setting.data, seed=seed, metric=make_metric("top1"))
    result = quantize(loaded, QuantizeOptions(**options), context)
    return result.loaded, result.facts


def score(setting: Setting, module: nn.Module, float_logits: torch.Tensor) -> dict[str, float]:
    """Top-1, and how near the logits stay to the float model's; the latter tells more than a few images do."""
    logits = all_logits(setting, module)
    targets = torch.cat([targets for _, targets in setting.test])
    return {
        "top1": 100 * float((logits.argmax(1) == targets).float().mean()),
        "agreement": 100 * float((logits.argmax(1) == float_logits.argmax(1)).float().mean()),
        "squared_error": float((logits - float_logits).square().mean()),
    }


def export_all(setting: Setting, folder: Path, seed: int) -> dict[str, nn.Module]:
    """Float, ours and the peers' int8 in both runtimes, calibrated on the images that the seed draws."""
    float_export = to_onnx(setting.loaded, folder / "float.onnx")
    batches = setting.data.calibration(setting.calibration, seed=seed)
    ort_int8(folder / "float.onnx", folder / "ort.onnx", batches)
    images = setting.data.calibration(setting.calibration, batch_size=1, seed=seed)
    nncf_int8(folder / "float.onnx", folder / "nncf.xml", images)

    def at(name: str) -> Exported:
        return Exported(setting.loaded.module, float_export.program, folder / name, setting.loaded.example, 1)

    runners = {"ONNX Runtime, float": onnxruntime(float_export), "OpenVINO, float": openvino(float_export)}
    for number, (name, options) in enumerate(STATIC.items()):
        model, _ = quantized(setting, seed, scheme="int8-static", **options)
        ours = to_onnx(model, folder / f"ours{number}.onnx")
        runners[f"ONNX Runtime, {name}"], runners[f"OpenVINO, {name}"] = onnxruntime(ours), openvino(ours)
    runners["ONNX Runtime, onnxruntime.quantization"] = onnxruntime(at("ort.onnx"))
    runners["OpenVINO, NNCF"] = openvino(at("nncf.xml"))
    return dict(sorted(runners.items()))


def static_int8(setting: Setting, rows: Rows, seeds: list[int], rounds: int) -> None:
    """Static int8 in both runtimes beside the peers, for each draw of calibration images; then latency."""

    def measure(seed: int) -> dict[str, dict[str, float]]:
        with tempfile.TemporaryDirectory() as folder:
            runners = export_all(setting, Path(folder), seed)
            float_logits = all_logits(setting, setting.loaded.module)
            found = {name: score(setting, runner, float_logits) for name, runner in runners.items()}
            times = interleaved_ms(runners, setting.loaded.example, rounds)
        return {name: found[name] | {"fast_ms": times[name].fast, "median_ms": times[name].median} for name in found}

    key = f"static, ResNet-{setting.net}, {setting.limit or 'all'} images, {setting.calibration} to calibrate"
    by_seed = [rows.get(f"{key}, seed {seed}", lambda seed=seed: measure(seed)) for seed in seeds]
    print(f"\nStatic int8, means over calibration seeds {', '.join(map(str, seeds))}\n")
    print("| runtime, model | top-1 of each seed | top-1 | agreement with float | squared error | ms, fastest tenth |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in by_seed[0]:
        each = ", ".join(f"{found[name]['top1']:.2f}" for found in by_seed)
        means = {kind: sum(found[name][kind] for found in by_seed) / len(by_seed) for kind in by_seed[0][name]}
        print(
            f"| {name} | {each} | {means['top1']:.2f} | {means['agreement']:.2f} | {means['squared_error']:.4f} "
            f"| {means['fast_ms']:.3f} |",
            flush=True,
        )


def weight_only(setting: Setting, rows: Rows, bits: list[int], methods: list[str]) -> None:
    """Weight-only rounding methods, and training with learned steps; first and last layer in 8 bits."""
    print("\n| weights | method | top-1 | tensor bytes | ratio |\n| --- | --- | --- | --- | --- |")

    def measure(width: int, options: dict) -> dict[str, float]:
        model, facts = quantized(setting, 0, scheme=f"int{width}-weight", **options)
        logits = all_logits(setting, model.module)
        targets = torch.cat([targets for _, targets in setting.test])
        right = float((logits.argmax(1) == targets).float().mean())
        return {"top1": 100 * right, "bytes": facts["tensor_bytes"], "ratio": facts["compression_ratio"]}

    for width in bits:
        for name, options in WEIGHT_ONLY.items():
            if (methods and not any(word in name for word in methods)) or ("QAT" in name and width > 3):
                continue
            key = f"int{width}, {name}, ResNet-{setting.net}, {setting.limit or 'all'} images, {setting.calibration}"
            row = rows.get(key, lambda width=width, options=options: measure(width, options))
            print(
                f"| int{width} | {name} | {row['top1']:.2f} | {row['bytes']} | {row['ratio']:.2f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--net", default="20", choices=["20", "56"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="draws of calibration images")
    parser.add_argument("--rows", type=Path, help="file that keeps finished rows")
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
    test = list(data.batches("test", batch_size=250, limit=limit))
    setting = Setting(arguments.net, loaded, data, test, limit, 128 if arguments.quick else 512)
    images = limit or data.size("test")
    print(f"ResNet-{arguments.net}, {images} test images, {setting.calibration} calibration images; {versions()}")
    rows = Rows(arguments.rows)
    if arguments.part != "weights":
        static_int8(setting, rows, arguments.seeds[:1] if arguments.quick else arguments.seeds, 100)
    if arguments.part != "static":
        weight_only(setting, rows, [4] if arguments.quick else arguments.bits, arguments.methods)


if __name__ == "__main__":
    main()
