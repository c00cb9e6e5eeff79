"""Detectors on scenes of digits in ONNX Runtime and OpenVINO: mAP and latency, beside peers.

python benchmarks/quantization/detectors.py yolo [--torch-pruning]
python benchmarks/quantization/detectors.py ssd

yolo: YOLOv8n of ultralytics with random weights, trained, pruned to half its MACs, fine-tuned by its own loss, int8.
With --torch-pruning also what Torch-Pruning's group-norm pruner leaves after the same fine-tuning; NNCF's int8 beside
ours. ssd: a small SSD of torchvision, its heads' outputs as one tensor; int8 of ours beside NNCF's and
onnxruntime.quantization's from the same calibration images. Each runtime runs the file that is written for it
(`export --runtime`). Latency: one image, one thread, all runtimes in turn.
"""

from __future__ import annotations

import argparse
import copy
import functools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from quantization_peers import Heads, interleaved_ms, nncf_int8, ort_int8, versions
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.utils.data import DataLoader

import compresskit
from compresskit.data.dataset import open_data
from compresskit.evaluation.metrics import make_metric

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
CALIBRATION = 128

#: a batch of images -> the graph's first output
Run = Callable[[Tensor], Tensor]


def in_onnxruntime(path: Path) -> Run:
    """A graph in ONNX Runtime, one thread."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def in_openvino(path: Path) -> Run:
    """A graph in OpenVINO, one thread, no number types of its own choice."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "EXECUTION_MODE_HINT": "ACCURACY"}
    request = core.compile_model(core.read_model(str(path)), "CPU", settings).create_infer_request()
    return lambda images: torch.from_numpy(request.infer([images.numpy()])[0].copy())


class Boxes(nn.Module):
    """What a runtime returned, as what the metric takes."""

    def __init__(self, run: Run, boxes: Callable[[Tensor, Tensor], Any]):
        super().__init__()
        self.run, self.boxes = run, boxes

    def forward(self, images: Tensor) -> Any:
        return self.boxes(self.run(images.contiguous()), images)


def map_points(module: nn.Module, batches: Any) -> float:
    """Mean average precision in points."""
    return 100 * make_metric("map")(module, batches).value


def onnx_of(model: Any, path: Path, example: Tensor, runtime: str = "onnxruntime") -> Path:
    """A model written as ONNX for a runtime, by the command's own way."""
    given = {} if isinstance(model, compresskit.Result) else {"example": example}
    compresskit.export(model, output=path, runtime=runtime, force=True, rounds=1, samples=8, cold_start="skip", **given)
    return path


def table(runs: dict[str, Run], boxes: Callable[[Tensor, Tensor], Any], batches: list[Any], rounds: int) -> None:
    """Print mAP and latency of each; the ratio is to the first of the same runtime, by the fastest tenths."""
    scores = {name: map_points(Boxes(run, boxes), batches) for name, run in runs.items()}
    times = interleaved_ms(dict(runs), batches[0][0], rounds)
    print(f"\n{'one image, one thread':50} {'mAP':>6} {'fastest tenth, ms':>18} {'median':>7} {'to float':>9}")
    for name, score in scores.items():
        first = next(other for other in runs if other.split(",")[0] == name.split(",")[0])
        ratio = times[first].fast / times[name].fast
        print(f"{name:50} {score:6.2f} {times[name].fast:18.2f} {times[name].median:7.2f} {ratio:8.2f}x", flush=True)


def singles(data: Any) -> list[Any]:
    """The test examples, one a batch."""
    return list(data.batches("test", batch_size=1))


# -- YOLO -----------------------------------------------------------------------------------------------------------


class UnsplitC2f(nn.Module):
    """ultralytics' C2f with two convolutions in the place of one whose output is split.

    Torch-Pruning cannot follow the split; its own example for YOLOv8 rewrites the module so before it prunes.
    """

    def __init__(self, old: nn.Module):
        super().__init__()
        self.i, self.f, self.type, self.cv2, self.m = old.i, old.f, old.type, old.cv2, old.m
        self.first, self.second = (half_of(old.cv1, number) for number in (0, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        maps = [self.first(inputs), self.second(inputs)]
        for block in self.m:  # type: ignore[union-attr]
            maps.append(block(maps[-1]))
        return self.cv2(torch.cat(maps, 1))  # type: ignore[operator]


def half_of(old: Any, number: int) -> nn.Module:
    """One half of the outputs of a convolution with its BatchNorm."""
    half = copy.deepcopy(old)
    count = half.conv.out_channels // 2
    rows = slice(number * count, (number + 1) * count)
    half.conv.out_channels = half.bn.num_features = count
    half.conv.weight = nn.Parameter(old.conv.weight.detach()[rows].clone())
    for name in ("weight", "bias"):
        setattr(half.bn, name, nn.Parameter(getattr(old.bn, name).detach()[rows].clone()))
    for name in ("running_mean", "running_var"):
        setattr(half.bn, name, getattr(old.bn, name)[rows].clone())
    return half


def torch_pruning_half(module: nn.Module, example: Tensor) -> nn.Module:
    """Half the MACs by Torch-Pruning: group norm, the detector's last layers left whole, as its YOLO examples do."""
    import torch_pruning
    from ultralytics.nn.modules import C2f, Detect

    small = copy.deepcopy(module)
    for parent in list(small.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, C2f):
                setattr(parent, name, UnsplitC2f(child))
    small.train()
    for parameter in small.parameters():
        parameter.requires_grad_(True)
    kept = [found for found in small.modules() if isinstance(found, Detect)]
    before, _ = torch_pruning.utils.count_ops_and_params(small, example)
    pruner = torch_pruning.pruner.GroupNormPruner(
        small, example, importance=torch_pruning.importance.GroupMagnitudeImportance(p=2), iterative_steps=50,
        pruning_ratio=0.9, ignored_layers=kept, round_to=8,
    )  # fmt: skip
    for _ in range(50):
        pruner.step()
        after, parameters = torch_pruning.utils.count_ops_and_params(small, example)
        if after <= before / 2:
            break
    print(f"Torch-Pruning: {after / before:.1%} of the MACs, {parameters:,.0f} parameters", flush=True)
    return small.eval()


def yolo(options: argparse.Namespace, folder: Path) -> None:
    """YOLOv8n: float, half its MACs, int8."""
    import detection_yolo

    from compresskit.core.types import Preprocessing
    from compresskit.core.user_code.in_memory import named_objects
    from compresskit.data.sources.images.digits_scenes import digits_detection

    size = Preprocessing(size=(options.size, options.size), channels=3)
    splits: Any = digits_detection("", size, train=options.train, test=options.test)
    loaders = tuple(
        DataLoader(detection_yolo.Scenes(split.dataset), batch_size=16, collate_fn=detection_yolo.collate)
        for split in (splits.train, splits.test)
    )
    shared: dict[str, Any] = {"data": loaders, "task_loss": "model", "metric": "map", "latency_rounds": 0}
    training: dict[str, Any] = {
        "optimizer": "adamw", "lr": 0.002, "batch_size": 16, "grad_clip": 10.0, "keep": "last", "ema": 0.99,
    }  # fmt: skip
    torch.manual_seed(0)
    tuned = {"epochs": options.epochs / 2, **training, **shared}
    full = reported(
        "float", lambda: compresskit.train(detection_yolo.make(), epochs=options.epochs, **training, **shared)
    )
    half = reported("half the MACs", lambda: compresskit.prune(full, target_macs=0.5, recover="finetune", **tuned))
    int8 = reported("half, int8", lambda: quantized(half, shared))
    full8 = reported("int8", lambda: quantized(full, shared))
    models = {"float": full, "int8": full8, "half the MACs": half, "half, int8": int8}
    if options.torch_pruning:
        plain = detection_yolo.make()
        plain.load_state_dict(full.model.state_dict())
        small = torch_pruning_half(plain, torch.rand(1, 3, options.size, options.size))
        models["half, Torch-Pruning"] = reported("half, Torch-Pruning", lambda: compresskit.train(small, **tuned))
    example = torch.rand(1, 3, options.size, options.size)
    written = {
        runtime: {
            name: onnx_of(model, folder / f"{runtime}-{name}.onnx", example, runtime) for name, model in models.items()
        }
        for runtime in ("onnxruntime", "openvino")
    }
    images = [image[None] for batch, _ in loaders[0] for image in batch]
    nncf_int8(written["onnxruntime"]["float"], folder / "nncf.xml", images[:CALIBRATION])
    with named_objects({"d": loaders}):
        batches = singles(open_data("in-memory:d"))
    runs = {f"ONNX Runtime, {name}": in_onnxruntime(path) for name, path in written["onnxruntime"].items()}
    runs |= {f"OpenVINO, {name}": in_openvino(path) for name, path in written["openvino"].items()}
    runs["OpenVINO, int8, NNCF"] = in_openvino(folder / "nncf.xml")
    runs["OpenVINO, int8, written for ONNX Runtime"] = in_openvino(written["onnxruntime"]["int8"])
    table(runs, lambda outputs, images: (outputs, {}), batches, options.rounds)


def quantized(model: Any, shared: dict[str, Any]) -> Any:
    """int8-static from the same calibration images."""
    return compresskit.quantize(model, scheme="int8-static", calibration_samples=CALIBRATION, **shared)


def reported(name: str, call: Callable[[], Any]) -> Any:
    """What a call returned; its costs and metric are printed."""
    started = time.process_time()
    result = call()
    before, after = result.report["original"], result.report["steps"][-1]["measurement"]
    print(
        f"{name}: mAP {100 * after['metric']['value']:.2f} in PyTorch, {after['macs'] / 1e6:.1f} M MACs "
        f"({after['macs'] / before['macs']:.0%}), {after['size_bytes'] / 1e6:.2f} MB; "
        f"{time.process_time() - started:.0f} s of CPU",
        flush=True,
    )
    return result


# -- SSD ------------------------------------------------------------------------------------------------------------


def ssd(options: argparse.Namespace, folder: Path) -> None:
    """The SSD of the example: float, int8 of ours, NNCF's and onnxruntime.quantization's."""
    import detection_ssd

    arguments = {"train": options.train, "test": options.test, "size": options.size}
    shared: dict[str, Any] = {"data": "digits-detection", "data_arg": arguments, "latency_rounds": 0}
    training: dict[str, Any] = {
        "optimizer": "adamw", "lr": 0.004, "batch_size": 16, "grad_clip": 5.0, "keep": "last",
    }  # fmt: skip
    torch.manual_seed(0)
    detector: Any = detection_ssd.make(12, options.size)
    if options.weights is None:
        train = functools.partial(compresskit.train, detector, epochs=options.epochs, **training, **shared)
        detector = reported("float", train).model
    else:
        load_model(detector, str(options.weights))
        detector.eval()
    data = open_data("digits-detection", args=arguments)
    batches = [(torch.stack(images), targets) for (images,), targets in singles(data)]
    calibration = [torch.stack(images) for (images,) in data.calibration(CALIBRATION, batch_size=1)]
    heads = Heads(detector).eval()
    held = {"train": torch.cat(calibration), "test": torch.cat([images for images, _ in batches[:64]])}
    int8 = compresskit.quantize(
        heads, scheme="int8-static", data=held, calibration_samples=CALIBRATION, latency_rounds=0
    )
    plain = onnx_of(heads, folder / "float.onnx", batches[0][0])
    ours = onnx_of(int8, folder / "int8.onnx", batches[0][0])
    ort_int8(plain, folder / "ort.onnx", calibration)
    nncf_int8(plain, folder / "nncf.xml", calibration)
    print(f"{CALIBRATION} calibration images", versions(), flush=True)

    def boxes(outputs: Tensor, images: Tensor) -> Any:
        found = {"bbox_regression": outputs[..., :4], "cls_logits": outputs[..., 4:]}
        shown, _ = detector.transform(list(images))
        anchors = detector.anchor_generator(shown, list(detector.backbone(images).values()))
        return detector.postprocess_detections(found, anchors, [tuple(images.shape[-2:])] * len(images))

    runs = {
        "ONNX Runtime, float": in_onnxruntime(plain),
        "ONNX Runtime, int8, compresskit": in_onnxruntime(ours),
        "ONNX Runtime, int8, onnxruntime.quantization": in_onnxruntime(folder / "ort.onnx"),
        "OpenVINO, float": in_openvino(plain),
        "OpenVINO, int8, compresskit": in_openvino(onnx_of(int8, folder / "openvino.onnx", batches[0][0], "openvino")),
        "OpenVINO, int8, NNCF": in_openvino(folder / "nncf.xml"),
    }
    table(runs, boxes, batches, options.rounds)


def main() -> None:
    """Print the table of a detector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("yolo", "ssd"))
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--train", type=int, default=1600)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--epochs", type=float, default=12)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--weights", type=Path, help="of the SSD, as benchmarks/tasks/tasks.py --rows keeps them")
    parser.add_argument("--torch-pruning", action="store_true")
    options = parser.parse_args()
    print(f"command: python benchmarks/quantization/detectors.py {' '.join(sys.argv[1:])}")
    print(versions(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        (yolo if options.what == "yolo" else ssd)(options, Path(folder))


if __name__ == "__main__":
    main()
