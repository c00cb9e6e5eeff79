"""Train the VGG-like network that decomposition_accuracy.py decomposes: five epochs on CIFAR-10.

    python benchmarks/decomposition/decomposition_checkpoint.py --cifar /path/to/cifar --output vgg.safetensors

A run that was killed goes on where it stopped when it is started again with the same arguments.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from compresskit.artifact.source import load_model
from compresskit.data.dataset import open_data
from compresskit.evaluation.metrics import make_metric
from compresskit.training.context import Context
from compresskit.training.loop import train
from compresskit.training.options import TrainOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", required=True)
    parser.add_argument("--output", type=Path, default=Path("vgg.safetensors"))
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--quick", action="store_true", help="2,000 images, one epoch")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model("builtin:cifar_vgg", model_args={"width": 32}, seed=0)
    data, metric = open_data(f"imagefolder:{arguments.cifar}", model.preprocessing), make_metric("top1")
    options = TrainOptions(
        epochs=1 if arguments.quick else arguments.epochs,
        lr=0.1,
        batch_size=128,
        lr_schedule="one-cycle",
        warmup=0.25,
        weight_decay=5e-4,
        label_smoothing=0.05,
        augment=["crop", "flip"],
        keep="last",
        train_limit=2000 if arguments.quick else None,
        checkpoint_steps=200,
    )
    folder = arguments.output.with_suffix(".training")
    facts = train(model, options, Context(model, data, metric), checkpoint_dir=folder)
    save_file({name: tensor.contiguous() for name, tensor in model.module.state_dict().items()}, arguments.output)
    score = metric(model.module, data.batches("test", batch_size=250))
    print(f"{arguments.output}: top-1 {score.value:.4f} of the test images after {facts['seconds']:.0f} s")


if __name__ == "__main__":
    main()
