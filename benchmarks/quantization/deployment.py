"""Float and int8 of many networks in ONNX Runtime and OpenVINO, beside the runtimes' own quantizers.

    python benchmarks/quantization/deployment.py ROW ... [--write benchmarks/results/deployment.md]

Peers: onnxruntime.quantization (static QDQ; for language models and recurrent ones the better of that and its dynamic
form) and NNCF (its transformer setting for transformers). All are calibrated on the same inputs. Weights are random,
with the statistics of BatchNorm taken from random images, except where a row says otherwise: such rows say nothing
about accuracy. Latency: one input, one thread, everything in turn in one process; ratios are medians over the rounds of
float time / int8 time of the same round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from quantization_peers import Heads, Rows, versions
from torch import Tensor, nn

from compresskit.analysis.measure.latency import take_turns
from compresskit.core.types import Loaded, main_output
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.onnx import export_onnx
from compresskit.export.integers.compute_nodes import ComputeNode, compute_nodes
from compresskit.export.integers.kernels import Kernel, onnxruntime_kernels, openvino_kernels
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

SHARED = Path(__file__).resolve().parents[3] / "shared"
CALIBRATION, COMPARED = 16, 8


class First(nn.Module):
    """A model that returns the first tensor of what another returns: what all runtimes compare."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> Tensor:
        return main_output(self.inner(*inputs))


@dataclass
class Network:
    """One row: how the model is made, what it takes, how it is quantized."""

    make: Callable[[], nn.Module]
    example: Callable[[torch.Generator], tuple[Tensor, ...]]
    schemes: tuple[str, ...] = ("int8-static",)
    transformer: bool = False
    says: str = "random weights"
    options: Mapping[str, Any] = field(default_factory=dict)


def image(size: int) -> Callable[[torch.Generator], tuple[Tensor, ...]]:
    """One normalized image of random pixels."""
    return lambda generator: (torch.randn(1, 3, size, size, generator=generator),)


def ids(length: int, vocabulary: int) -> Callable[[torch.Generator], tuple[Tensor, ...]]:
    """One sequence of random tokens."""
    return lambda generator: (torch.randint(0, vocabulary, (1, length), generator=generator),)


def of_torchvision(name: str) -> Callable[[], nn.Module]:
    """A network of torchvision with random weights."""

    def make() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None)

    return make


def vit_small() -> nn.Module:
    """ViT-S/16 of timm."""
    import timm

    return timm.create_model("vit_small_patch16_224", pretrained=False)


def yolo() -> nn.Module:
    """YOLOv8n of ultralytics: boxes and scores of all anchors."""
    from ultralytics.nn.tasks import DetectionModel

    return First(DetectionModel("yolov8n.yaml", nc=80, verbose=False))


def ssdlite() -> nn.Module:
    """SSDlite320 with MobileNetV3-Large."""
    import torchvision

    return Heads(torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None))


def unet() -> nn.Module:
    """A U-Net with transposed convolutions, concatenations and SiLU."""

    def block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        )  # fmt: skip

    class UNet(nn.Module):
        def __init__(self, width: int = 32):
            super().__init__()
            self.down = nn.ModuleList([block(3, width), block(width, 2 * width), block(2 * width, 4 * width)])
            self.up = nn.ModuleList(
                [nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)]
            )
            self.merge = nn.ModuleList([block(4 * width, 2 * width), block(2 * width, width)])
            self.head, self.pool = nn.Conv2d(width, 4, 1), nn.MaxPool2d(2)

        def forward(self, images: Tensor) -> Tensor:
            first = self.down[0](images)
            second = self.down[1](self.pool(first))
            values = self.down[2](self.pool(second))
            values = self.merge[0](torch.cat([self.up[0](values), second], 1))
            return self.head(self.merge[1](torch.cat([self.up[1](values), first], 1)))

    return UNet()


class Recurrent(nn.Module):
    """Two recurrent layers over 100 steps of 64 features, and a linear layer."""

    def __init__(self, kind: type[nn.RNNBase]):
        super().__init__()
        self.layers, self.head = kind(64, 256, 2, batch_first=True), nn.Linear(256, 10)  # type: ignore[call-arg]

    def forward(self, values: Tensor) -> Tensor:
        return self.head(self.layers(values)[0][:, -1])


def bert() -> nn.Module:
    """BERT-base of transformers with 6 of its 12 layers."""
    from transformers import BertConfig, BertModel

    return First(BertModel(BertConfig(num_hidden_layers=6, attn_implementation="sdpa"), add_pooling_layer=False))


def tinylm() -> nn.Module:
    """The language model of ../shared with its own weights."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(SHARED / "models" / "tinylm")
    model.config.use_cache = False
    return model  # as it is: options differ for causal language models


def sequence(generator: torch.Generator) -> tuple[Tensor, ...]:
    """One sequence of random features."""
    return (torch.randn(1, 100, 64, generator=generator),)


NETWORKS = {
    "resnet50": Network(of_torchvision("resnet50"), image(224)),
    "mobilenet_v2": Network(of_torchvision("mobilenet_v2"), image(224)),
    "mobilenet_v3_large": Network(of_torchvision("mobilenet_v3_large"), image(224)),
    "efficientnet_b0": Network(of_torchvision("efficientnet_b0"), image(224)),
    "vit_small": Network(vit_small, image(224), transformer=True),
    "yolov8n": Network(yolo, image(320)),
    "ssdlite": Network(ssdlite, image(320)),
    "unet": Network(unet, image(128)),
    "gru": Network(partial(Recurrent, nn.GRU), sequence),
    "lstm": Network(partial(Recurrent, nn.LSTM), sequence),
    "bert": Network(bert, ids(128, 30000), ("int8-static", "int8-dynamic"), transformer=True),
    "tinylm": Network(
        tinylm,
        ids(128, 256),
        ("int8-static", "int8-dynamic", "int8-dynamic, a range a tensor"),
        transformer=True,
        says="trained weights, random tokens",
    ),
}


class Examples:
    """Calibration inputs, always the same."""

    def __init__(self, network: Network):
        self.network = network

    def calibration(self, samples: int, *, batch_size: int = 8, seed: int = 0) -> list[Any]:
        singles = self.singles(samples, seed)
        return [
            tuple(torch.cat(parts) for parts in zip(*singles[start : start + batch_size], strict=True))
            for start in range(0, samples, batch_size)
        ]

    def singles(self, samples: int, seed: int = 0) -> list[tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(seed)
        return [self.network.example(generator) for _ in range(samples)]


def made(network: Network) -> Loaded:
    """The model with BatchNorm settled on random inputs."""
    torch.manual_seed(0)
    module = network.make().eval()
    examples = Examples(network)
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules()):
        for layer in module.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.train()
                layer.momentum = None
            else:
                layer.training = False
        with torch.no_grad():
            for batch in examples.calibration(CALIBRATION):
                module(*batch)
    return Loaded(module.eval(), {}, examples.singles(1)[0])


# -- runtimes and peers ---------------------------------------------------------------------------------------------

Run = Callable[[tuple[Tensor, ...]], Tensor]


def in_onnxruntime(path: Path) -> Run:
    """A graph in ONNX Runtime, one thread."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return lambda inputs: torch.from_numpy(
        session.run(None, dict(zip(names, [one.numpy() for one in inputs], strict=True)))[0]
    )


def compiled(path: Path) -> Any:
    """A graph compiled by OpenVINO, one thread, no number types of its own choice."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "EXECUTION_MODE_HINT": "ACCURACY"}
    return core.compile_model(core.read_model(str(path)), "CPU", settings)


def in_openvino(model: Any) -> Run:
    """A compiled model."""
    request = model.create_infer_request()
    return lambda inputs: torch.from_numpy(request.infer([one.numpy() for one in inputs])[0].copy())


def feeds(path: Path, inputs: list[tuple[Tensor, ...]]) -> list[dict[str, Any]]:
    """Inputs by the graph's names."""
    import onnx

    names = [entry.name for entry in onnx.load(path, load_external_data=False).graph.input]
    return [dict(zip(names, [one.numpy() for one in given], strict=True)) for given in inputs]


def ort_static(source: Path, path: Path, inputs: list[tuple[Tensor, ...]]) -> None:
    """onnxruntime.quantization, QDQ, min-max, per channel, 7-bit weights as ours (both are made for any x86)."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, batches: list[dict[str, Any]]):
            self.batches = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared), str(path), Reader(feeds(prepared, inputs)), quant_format=QuantFormat.QDQ, per_channel=True,
        reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


def ort_dynamic(source: Path, path: Path) -> None:
    """onnxruntime.quantization, dynamic."""
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_dynamic(str(prepared), str(path), per_channel=True, reduce_range=True)


def nncf_static(source: Path, path: Path, inputs: list[tuple[Tensor, ...]], transformer: bool) -> None:
    """NNCF's post-training quantization of the OpenVINO model, with its setting for transformers where it is one."""
    import nncf
    import openvino

    given = [[one.numpy() for one in example] for example in inputs]
    dataset = nncf.Dataset(given, lambda example: example[0] if len(example) == 1 else tuple(example))
    kind = {"model_type": nncf.ModelType.TRANSFORMER} if transformer else {}
    found = nncf.quantize(openvino.Core().read_model(str(source)), dataset, subset_size=len(given), **kind)
    openvino.save_model(found, str(path), compress_to_fp16=False)


# -- a row ----------------------------------------------------------------------------------------------------------


def exported(loaded: Loaded, path: Path, runtime: str) -> Path:
    """A model written as ONNX for a runtime."""
    export_onnx(export_program(loaded.module, loaded.example), path, runtime=runtime)
    return path


def integer_share(nodes: list[ComputeNode], kernels: Mapping[str, Kernel]) -> float:
    """The share of a graph's MACs whose kernels multiply integers."""
    found = {node: kernels.get(node.name) or kernels.get(node.output) for node in nodes}
    integers = sum(node.macs for node, kernel in found.items() if kernel is not None and kernel.integers)
    return integers / max(sum(node.macs for node in nodes), 1)


def share_of(path: Path, example: tuple[Tensor, ...], model: Any = None) -> float:
    """The share of the MACs of an ONNX file that run in integers, in OpenVINO where a compiled model is given."""
    names = list(feeds(path, [example])[0])
    nodes = compute_nodes(path, dict(zip(names, example, strict=True)))
    return integer_share(nodes, openvino_kernels(path, model) if model is not None else onnxruntime_kernels(path, 1))


def attempted(name: str, call_: Callable[[], Any]) -> str:
    """Why something failed, "" if it did not."""
    try:
        call_()
    except Exception as error:  # a peer's own failure is a result
        print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}", flush=True)
        return f"{type(error).__name__}"
    return ""


def size_mb(path: Path) -> float:
    """Megabytes of a file and what belongs to it."""
    others = [path.with_suffix(".bin"), path.with_name(f"{path.name}.data")]
    return sum(one.stat().st_size for one in (path, *others) if one.exists()) / 1e6


def measure(name: str, rounds: int) -> dict[str, Any]:
    """All figures of a row."""
    network = NETWORKS[name]
    started = time.process_time()
    loaded = made(network)
    examples = Examples(network)
    singles, compared = examples.singles(CALIBRATION), examples.singles(COMPARED, seed=1)
    runs: dict[str, Run] = {}
    facts: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        plain = exported(loaded, base / "float.onnx", "onnxruntime")
        runs["ONNX Runtime, float"] = in_onnxruntime(plain)
        runs["OpenVINO, float"] = in_openvino(compiled(plain))
        facts["ONNX Runtime, float"] = {"size_mb": size_mb(plain)}
        facts["OpenVINO, float"] = {"size_mb": size_mb(plain)}
        for scheme in network.schemes:
            int8 = loaded.clone()
            named, _, ranges = scheme.partition(", a range a ")  # of int8-dynamic, what has a range of its own
            given = {"calibration_samples": CALIBRATION, **network.options} if scheme == "int8-static" else {}
            given |= {"dynamic_ranges": ranges} if ranges else {}
            context = Context(loaded, data=examples if scheme == "int8-static" else None)  # type: ignore[arg-type]
            quantize(int8, QuantizeOptions(scheme=named, **given), context)  # type: ignore[arg-type]
            for runtime in ("onnxruntime", "openvino"):
                path = exported(int8, base / f"{scheme}-{runtime}.onnx", runtime)
                label = f"{'ONNX Runtime' if runtime == 'onnxruntime' else 'OpenVINO'}, {scheme}, compresskit"
                if runtime == "onnxruntime":
                    runs[label], share = in_onnxruntime(path), share_of(path, compared[0])
                else:
                    model = compiled(path)
                    runs[label], share = in_openvino(model), share_of(path, compared[0], model)
                facts[label] = {"size_mb": size_mb(path), "integer_macs": share}
        peers: dict[str, tuple[Path, Callable[[Path], None]]] = {
            "ONNX Runtime, static, onnxruntime.quantization": (
                base / "ort.onnx", lambda path: ort_static(plain, path, singles)
            ),
            "OpenVINO, static, NNCF": (
                base / "nncf.xml", lambda path: nncf_static(plain, path, singles, network.transformer)
            ),
        }  # fmt: skip
        if network.transformer or name in ("gru", "lstm"):
            peers["ONNX Runtime, dynamic, onnxruntime.quantization"] = (
                base / "dynamic.onnx", lambda path: ort_dynamic(plain, path)
            )  # fmt: skip
        for label, (path, write) in peers.items():
            if attempted(label, partial(write, path)):
                continue
            if attempted(
                label,
                lambda path=path, label=label: runs.__setitem__(
                    label, in_openvino(compiled(path)) if path.suffix == ".xml" else in_onnxruntime(path)
                ),
            ):
                continue
            facts[label] = {"size_mb": size_mb(path)}
            if path.suffix == ".onnx":
                attempted(
                    label, lambda path=path, label=label: facts[label].update(integer_macs=share_of(path, compared[0]))
                )
        with torch.no_grad():
            wanted = [main_output(loaded.module(*inputs)) for inputs in compared]
        for label, run in runs.items():
            found = [run(inputs) for inputs in compared]
            largest = max(float((a - b).abs().max()) for a, b in zip(wanted, found, strict=True))
            scale = max(float(a.abs().max()) for a in wanted)
            error = sum(float((a - b).square().sum()) for a, b in zip(wanted, found, strict=True))
            facts[label]["largest_difference"] = largest / scale
            facts[label]["relative_error"] = (error / sum(float(a.square().sum()) for a in wanted)) ** 0.5
        example = compared[0]
        times = take_turns(
            [partial(run, example) for run in runs.values()], rounds=rounds, turn_seconds=0.02, clock="wall"
        )
    by_name = dict(zip(runs, times, strict=True))
    for label, own in by_name.items():
        first = by_name[f"{label.split(',')[0]}, float"]
        facts[label] |= {
            "best_ms": own.best_ms,
            "median_ms": own.median_ms,
            "against_float": statistics.median(first.over(own)),
            "best_against_float": first.best_ms / own.best_ms,
        }
        runtime = label.split(",")[0]
        own_rows = ("compresskit", "float")
        peers_here = [other for other in by_name if other.startswith(runtime) and not other.endswith(own_rows)]
        if label.endswith("compresskit") and peers_here:
            fastest = min(peers_here, key=lambda other: by_name[other].best_ms)
            facts[label]["against_peer"] = statistics.median(by_name[fastest].over(own))
            facts[label]["best_against_peer"] = by_name[fastest].best_ms / own.best_ms
    return {"says": network.says, "facts": facts, "cpu_s": time.process_time() - started}


def lines(name: str, row: dict[str, Any]) -> list[str]:
    """The row as Markdown."""
    found = [
        f"\n## {name} ({row['says']}; {row['cpu_s']:.0f} s of CPU)\n",
        "| one input, one thread | integer MACs | best ms | median | to float | to the peer | largest difference | "
        "relative error | MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for label, facts in row["facts"].items():
        share = f"{facts['integer_macs']:.1%}" if "integer_macs" in facts else ""
        peer = f"{facts['against_peer']:.2f}x ({facts['best_against_peer']:.2f}x)" if "against_peer" in facts else ""
        found.append(
            f"| {label} | {share} | {facts['best_ms']:.2f} | {facts['median_ms']:.2f} | {facts['against_float']:.2f}x "
            f"({facts['best_against_float']:.2f}x) | {peer} | {facts['largest_difference']:.4f} | "
            f"{facts['relative_error']:.4f} | {facts['size_mb']:.2f} |"
        )
    return found


def main() -> None:
    """Print the tables of the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", choices=(*NETWORKS, "all"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--keep", type=Path, help="file that keeps finished rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(options.keep)
    print(f"command: python benchmarks/quantization/deployment.py {' '.join(sys.argv[1:])}", versions(), flush=True)
    for name in NETWORKS if "all" in options.rows else options.rows:
        row = rows.get(f"{name}, {options.rounds}", partial(measure, name, options.rounds))
        print("\n".join(lines(name, row)), flush=True)


if __name__ == "__main__":
    main()
