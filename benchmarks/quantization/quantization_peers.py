"""What the quantization benchmarks share: the peers' quantizers, timing in turn, and rows kept between runs."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compresskit.core.types import Loaded
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.onnx import export_onnx
from compresskit.export.runtimes.exported import Exported


def to_onnx(loaded: Loaded, path: Path) -> Exported:
    """A model written as ONNX."""
    program = export_program(loaded.module, loaded.example)
    export_onnx(program, path)
    return Exported(loaded.module, program, path, loaded.example, 1)


def ort_int8(float_path: Path, path: Path, batches: Iterable[torch.Tensor]) -> None:
    """onnxruntime.quantization: QDQ, per-channel weights in 7 bits, min-max ranges, its recommended preprocessing.

    Args:
        float_path: the float model as ONNX.
        path: where its int8 model is written.
        batches: calibration inputs.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, name: str):
            self.batches = iter([{name: batch.numpy()} for batch in batches])

        def get_next(self):
            return next(self.batches, None)

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(float_path), str(prepared))
    name = onnx.load(prepared).graph.input[0].name
    quantize_static(
        str(prepared), str(path), Reader(name), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


def nncf_int8(float_path: Path, path: Path, images: Iterable[torch.Tensor]) -> None:
    """NNCF's default post-training quantization of the OpenVINO model.

    Args:
        float_path: the float model as ONNX.
        path: where its int8 model is written, ending in .xml.
        images: calibration inputs of one image each.
    """
    import nncf
    import openvino as ov

    arrays = [image.numpy() for image in images]
    model = ov.Core().read_model(str(float_path))
    ov.save_model(
        nncf.quantize(model, nncf.Dataset(arrays), subset_size=len(arrays)), str(path), compress_to_fp16=False
    )


class Milliseconds(NamedTuple):
    """Latency of one forward over many runs: the fastest tenth's end, the median, and the slowest quarter's start."""

    fast: float
    median: float
    slow: float


def interleaved_ms(runners: dict[str, Callable], inputs: torch.Tensor, rounds: int) -> dict[str, Milliseconds]:
    """Latency of each runner, all timed in turn, forwards and backwards.

    Ratios are best taken of the fastest tenths: other work on the machine slows single runs, and never speeds them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    with torch.inference_mode():
        for runner in runners.values():
            for _ in range(5):
                runner(inputs)
        for number in range(rounds):
            for name in list(runners) if number % 2 == 0 else list(runners)[::-1]:
                start = time.perf_counter()
                runners[name](inputs)
                seconds[name].append(time.perf_counter() - start)
    cuts = {name: statistics.quantiles(values, n=20) for name, values in seconds.items()}
    return {name: Milliseconds(1e3 * cut[1], 1e3 * cut[9], 1e3 * cut[14]) for name, cut in cuts.items()}


def versions() -> str:
    """Versions of everything that computes here, and the processor's architecture."""
    names = ("torch", "onnxruntime", "openvino", "nncf")
    installed = [f"{name} {version(name)}" for name in names if find_spec(name) is not None]
    return ", ".join(installed) + f", {platform.machine()}, one thread"


class Rows:
    """Finished measurements in a file of JSON lines, so that a run cut short goes on where it stopped.

    Args:
        path: the file, or None to keep nothing.
    """

    def __init__(self, path: Path | None):
        self.path = path
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        self.found = {record["key"]: record["row"] for record in map(json.loads, lines)}

    def get(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The row of a key: read if it is there, else measured and written."""
        if key not in self.found:
            self.found[key] = measure()
            if self.path is not None:
                with self.path.open("a") as file:
                    file.write(json.dumps({"key": key, "row": self.found[key]}) + "\n")
        return self.found[key]


class Heads(nn.Module):
    """A torchvision SSD from images to its heads' outputs: (batch, anchors, 4 + classes)."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images: Tensor) -> Tensor:
        found = self.head(list(self.backbone(images).values()))  # type: ignore[operator]
        return torch.cat([found["bbox_regression"], found["cls_logits"]], 2)
