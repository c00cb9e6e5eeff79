"""CIFAR-10 accuracy of number formats, weights only and rounded to nearest: integers, NF4, MXFP4, float8, codebooks.

    python benchmarks/quantization/quantization_formats.py --models ../shared/models --data /path/to/cifar [--net 20|56]

Prints for each format the bits a weight with scales and all, as stored, the signal to noise ratio of the weights, top-1
on the test split, and how near the logits stay to the float model's. Nothing here is calibrated on data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from quantization_cifar import Setting, all_logits, quantized, score

from compresskit.artifact.source import load_model
from compresskit.data.dataset import open_data
from compresskit.quantization.formats.uniform import sqnr_db
from compresskit.quantization.layers.quantized_layer import quantized_layers
from compresskit.quantization.transforms.folding import fold_batchnorm

GROUPS = {"granularity": "group", "group_size": 32}
FORMATS = {
    "float8-weight": {"scheme": "float8-weight"},
    "float8-e5m2": {"scheme": "float8-e5m2"},
    "int4-weight": {"scheme": "int4-weight"},
    "int4-weight, groups of 32": {"scheme": "int4-weight", **GROUPS},
    "int4-weight, groups of 32, min-max": {"scheme": "int4-weight", "weight_search": "minmax", **GROUPS},
    "nf4 (blocks of 64)": {"scheme": "nf4"},
    "nf4, blocks of 32": {"scheme": "nf4", "group_size": 32},
    "nf4-double": {"scheme": "nf4-double"},
    "mxfp4 (blocks of 32)": {"scheme": "mxfp4"},
    "codebook, 4 bits": {"scheme": "codebook"},
}


def measure(setting: Setting, options: dict, float_logits: torch.Tensor) -> dict[str, float]:
    """One format: bits a weight, noise of the weights, and the network's outputs."""
    loaded, facts = quantized(setting, 0, first_last="same", **options)
    layers = quantized_layers(loaded.module)
    reference = setting.loaded.clone()
    fold_batchnorm(reference)
    pairs = [
        (reference.module.get_submodule(name).weight, layer.dequantized("weight")) for name, layer in layers.items()
    ]
    before, after = (torch.cat([pair[side].detach().flatten() for pair in pairs]) for side in (0, 1))
    stored = sum(facts[f"{kind}_bytes"] for kind in ("values", "scales", "codebooks"))
    return {
        "bits": 8 * stored / len(before),
        "weights_db": sqnr_db(before, after),
        **score(setting, loaded.module, float_logits),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--net", default="20", choices=("20", "56"))
    parser.add_argument("--limit", type=int, default=None, help="use only this many test images")
    arguments = parser.parse_args()
    loaded = load_model(
        f"builtin:cifar_resnet{arguments.net}",
        weights=str(arguments.models / f"resnet{arguments.net}_cifar10.safetensors"),
    )
    data = open_data(f"imagefolder:{arguments.data}", loaded.preprocessing)
    test = list(data.batches("test", batch_size=250, limit=arguments.limit))
    setting = Setting(arguments.net, loaded, data, test, arguments.limit, 512)
    float_logits = all_logits(setting, loaded.module)
    whole = score(setting, loaded.module, float_logits)
    images = sum(len(targets) for _, targets in test)
    print(f"ResNet-{arguments.net}, {images:,} test images, float {whole['top1']:.2f} %; torch {torch.__version__}\n")
    print("| format | bits a weight | weights' SQNR, dB | top-1 | agreement with float | squared error of logits |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, options in FORMATS.items():
        row = measure(setting, options, float_logits)
        print(
            f"| {name} | {row['bits']:.3f} | {row['weights_db']:.2f} | {row['top1']:.2f} | {row['agreement']:.2f} | "
            f"{row['squared_error']:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
