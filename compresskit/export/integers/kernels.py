"""What a runtime made of an exported model's nodes, from its own optimized graph."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...core.errors import require
from .compute_nodes import origins, plain_name

#: ONNX Runtime's operators that compute in integers; all that begin with QLinear do so, too
_INTEGER = (
    "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM",
    "QAttention",
)  # fmt: skip
_FEW_BIT_WEIGHTS = "MatMulNBits"


class Kernel(NamedTuple):
    """What runs in the place of a node: the runtime's name of it, and the number type that it multiplies."""

    name: str
    number_type: str

    @property
    def integers(self) -> bool:
        """Whether it multiplies integers."""
        return self.number_type in ("int8", "uint8")


def onnxruntime_kernels(path: Path, threads: int) -> dict[str, Kernel]:
    """The kernel of each computing node, from the graph that ONNX Runtime saves after its optimizations.

    Args:
        path: an ONNX file.
        threads: as in the session whose kernels are asked for.
    """
    onnx, runtime = require("onnx", "onnx"), require("onnxruntime", "onnx")
    with tempfile.TemporaryDirectory() as folder:
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads, settings.log_severity_level = threads, 4
        settings.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        # weights of large models stand in a file of their own
        settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
        runtime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        graph = onnx.load(settings.optimized_model_filepath, load_external_data=False).graph
    ran = {node.name or node.output[0]: node for node in graph.node}
    found = origins(path, {name: list(node.output) for name, node in ran.items()})
    return {node.name: Kernel(ran[name].op_type, _type_in_onnxruntime(ran[name])) for name, node in found.items()}


def _type_in_onnxruntime(node: Any) -> str:
    if node.op_type.startswith("QLinear") or node.op_type in _INTEGER:
        return "int8"
    return "float32, weights in 4 bits" if node.op_type == _FEW_BIT_WEIGHTS else "float32"


#: OpenVINO's names of number types
_OPENVINO_TYPES = {"u8": "uint8", "i8": "int8", "f32": "float32", "f16": "float16", "bf16": "bfloat16"}


#: its layers that multiply and sum
_OPENVINO_COMPUTES = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "Subgraph")


def openvino_kernels(path: Path, compiled: Any) -> dict[str, Kernel]:
    """The kernel of each node, from OpenVINO's execution graph.

    Args:
        path: the ONNX file that was compiled.
        compiled: the compiled model.
    """
    found: dict[str, Kernel] = {}
    computing: dict[str, tuple[list[str], Kernel]] = {}
    for operation in compiled.get_runtime_model().get_ordered_ops():
        facts: Mapping[str, Any] = operation.get_rt_info()
        layer, precision, names = (
            facts[key].astype(str) for key in ("layerType", "runtimePrecision", "originalLayersNames")
        )
        kernel = Kernel(layer, str(_OPENVINO_TYPES.get(precision, precision)))
        if layer in _OPENVINO_COMPUTES:
            first, *others = names.split(",")
            computing[first] = (others, kernel)
        for name in names.split(","):
            if layer not in ("Const", "Reorder", "Convert"):
                found.setdefault(plain_name(name), kernel)
    for name, node in origins(path, {first: others for first, (others, _) in computing.items()}).items():
        found.setdefault(node.name, computing[name][1])  # one that goes by what it was merged with
    return found
