"""YOLOv8n of ultralytics on digits: its own loss, half its MACs, fine-tuned, int8, and written as ONNX.

python examples/detection_yolo.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import compresskit
from compresskit.core.types import Preprocessing
from compresskit.data.sources.images.digits_scenes import digits_detection


class Scenes(torch.utils.data.Dataset[Any]):
    """Digits on canvases, with classes that count from 0, as ultralytics has them."""

    def __init__(self, scenes: Any):
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, target = self.scenes[index]
        return image.float() / 255, {"boxes": target["boxes"], "labels": target["labels"] - 1}


def collate(examples: list[tuple[Tensor, dict[str, Tensor]]]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """One tensor of images, since YOLO takes no list, and a list of targets."""
    return torch.stack([image for image, _ in examples]), [target for _, target in examples]


def make(classes: int = 10, width: float = 0.25) -> nn.Module:
    """The detector with random weights; a width of 0.25 is YOLOv8n, 0.5 YOLOv8s."""
    from ultralytics.nn.tasks import DetectionModel, yaml_model_load

    config = yaml_model_load("yolov8n.yaml")
    depth, _, most = config["scales"]["n"]
    return DetectionModel({**config, "scales": {"n": [depth, width, most]}}, nc=classes, verbose=False)


def main(
    epochs: float = 10, limit: int = 1400, width: float = 0.25, onnx: str | None = "yolo-int8.onnx", rounds: int = 12
) -> dict[str, float]:
    """Run it; returns mAP by name.

    Args:
        epochs: of the first training; fine-tuning takes half of them.
        limit: training examples, and a quarter of them for the test.
        width: of the detector.
        onnx: where the int8 model is written; None leaves that out.
        rounds: that the written model is timed for beside its float twin; 0 leaves that out.
    """
    splits: Any = digits_detection("", Preprocessing(size=(64, 64), channels=3), train=limit, test=max(limit // 4, 1))
    train, test = (
        DataLoader(Scenes(split.dataset), batch_size=16, collate_fn=collate) for split in (splits.train, splits.test)
    )
    # one mapping of boxes an image: the task is detection, and the model's own loss is that of ultralytics
    shared = {"data": (train, test), "task_loss": "model", "metric": "map", "latency_rounds": 0}
    training = {"optimizer": "adamw", "lr": 0.001, "batch_size": 16, "grad_clip": 10.0}
    full = compresskit.train(make(width=width), epochs=epochs, **training, **shared)
    half = compresskit.prune(full, target_macs=0.5, recover="finetune", epochs=epochs / 2, **training, **shared)
    int8 = compresskit.quantize(half, scheme="int8-static", **shared)
    if onnx is not None:
        compresskit.export(int8, output=Path(onnx), rounds=rounds, force=True)
    results = {"float": full, "half the MACs": half, "half, int8": int8}
    return {name: result.report["steps"][-1]["measurement"]["metric"]["value"] for name, result in results.items()}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: mAP {value:.4f}")
