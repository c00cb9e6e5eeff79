"""Every example runs: a small part of it in tests, which says nothing of how good its models become."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
#: arguments that make an example small, and the packages that it needs
SMALL = {
    "audio_commands": ({"epochs": 0.2, "width": 8, "examples": 80}, ()),
    "autoencoder_psnr": ({"epochs": 0.2, "examples": 200}, ()),
    "dataloader_own": ({"epochs": 0.5, "count": 280}, ()),
    "detection_ssd": ({"epochs": 0.5, "width": 4, "limit": 24}, ("torchvision", "pycocotools")),
    "detection_yolo": (
        {"epochs": 0.5, "limit": 24, "width": 0.0625, "rounds": 0},
        ("ultralytics", "pycocotools", "onnx", "onnxruntime"),
    ),
    "embedding_siamese": ({"epochs": 0.2, "count": 300}, ()),
    "forecast_lstm": ({"epochs": 0.2, "hours": 300}, ()),
    "segmentation_unet": ({"epochs": 0.5, "width": 8, "limit": 32}, ("torchmetrics",)),
    "transcription_crnn": ({"epochs": 0.2, "count": 300}, ("torchmetrics",)),
}


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SMALL)


@pytest.mark.slow
# ultralytics keeps its anchors in plain attributes, which torch's exporter remarks on
@pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export")
@pytest.mark.parametrize("name", SMALL)
def test_an_example_gives_figures(name, tmp_path, monkeypatch):
    arguments, packages = SMALL[name]
    for package in packages:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    figures = loaded(name).main(**arguments)
    assert len(figures) > 1 and all(math.isfinite(value) and abs(value) < 200 for value in figures.values())
