"""Bytes of ONNX files beside the artifacts of the same models, and how near ONNX Runtime is to the model.

python benchmarks/quantization/onnx_bytes.py --out benchmarks/results/onnx_bytes.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import nn

from compresskit.analysis.measure.costs.counted import stored_bytes
from compresskit.artifact.source import load_model
from compresskit.core.types import Loaded, main_output
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.onnx import export_onnx
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

TINYLM = "../shared/models/tinylm"


class Recurrent(nn.Module):
    """An embedding, two recurrent layers and a classifier."""

    def __init__(self, kind: type[nn.RNNBase]):
        super().__init__()
        self.table = nn.Embedding(2000, 128)
        self.rnn = kind(128, 256, 2, batch_first=True)
        self.head = nn.Linear(256, 10)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.table(ids))[0][:, -1])


def sparse_classifier() -> nn.Module:
    """Two linear layers of which nine weights in ten are zero."""
    net = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight[torch.rand_like(layer.weight) < 0.9] = 0
    return net


def loaded_of(name: str) -> Loaded:
    """A model by its name in ROWS."""
    torch.manual_seed(0)
    ids = torch.randint(0, 2000, (1, 16))
    if name in ("GRU", "LSTM"):
        return Loaded(Recurrent(getattr(nn, name)).eval(), {}, ids, name=name)
    if name == "sparse":
        loaded = Loaded(sparse_classifier().eval(), {}, torch.randn(1, 784), name=name)
        loaded.storage |= {"0.weight": "bitmap", "2.weight": "bitmap"}
        return loaded
    return load_model(name)


ROWS: list[tuple[str, dict[str, Any]]] = [
    ("GRU", {"scheme": "int8-weight"}),
    ("GRU", {"scheme": "int4-weight"}),
    ("LSTM", {"scheme": "int8-weight"}),
    ("LSTM", {"scheme": "int4-weight"}),
    ("sparse", {}),
    *[("torchvision:resnet18", {"scheme": scheme}) for scheme in ("codebook", "nf4", "float8-weight")],
    *[(f"hf:{TINYLM}", {"scheme": scheme}) for scheme in ("int8-weight", "int4-weight", "codebook", "nf4", "mxfp4")],
    (f"hf:{TINYLM}", {}),
]


@torch.no_grad()
def measure(name: str, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One row: bytes of the file and of the artifact, the largest difference, and milliseconds to load the file."""
    loaded = loaded_of(name)
    if options:
        quantize(loaded, QuantizeOptions(first_last="same", **options), Context(original=loaded.clone()))
    row = {"model": name.rpartition("/")[2], "scheme": options.get("scheme", "float"), "artifact": stored_bytes(loaded)}
    path = folder / "model.onnx"
    before = time.process_time()
    export_onnx(export_program(loaded.module, loaded.example), path)
    row |= {"file": path.stat().st_size, "export_cpu_s": round(time.process_time() - before, 1)}
    before = time.process_time()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    row["load_cpu_ms"] = round(1e3 * (time.process_time() - before))
    example = loaded.example if isinstance(loaded.example, dict) else {"": loaded.example}
    names = [entry.name for entry in session.get_inputs()]
    feed = {key: tensor.numpy() for key, tensor in zip(names, example.values(), strict=True)}
    found = torch.from_numpy(session.run(None, feed)[0])
    wanted = main_output(loaded.module(**example) if "" not in example else loaded.module(example[""]))
    return row | {"difference": float((found - wanted).abs().max()), "scale": float(wanted.abs().max())}


def main() -> None:
    """Write each row as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="*", help="only these models")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, options in ROWS:
            if given.models and not any(one in name for one in given.models):
                continue
            try:
                rows.append(measure(name, options, Path(folder)))
            except Exception as error:  # a row of an older version that does not export
                rows.append({"model": name, **options, "error": str(error)[:100]})
            print(json.dumps(rows[-1]), flush=True)
            given.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
