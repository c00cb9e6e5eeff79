"""Float and int8 of many networks in ExecuTorch (XNNPACK), beside XNNPACK's own quantizer of torchao.

    python benchmarks/quantization/deployment_executorch.py ROW ... [--rounds 12] [--keep FILE] [--no-peer]

Networks, inputs and timing are those of deployment.py. The peer is XNNPACKQuantizer (symmetric, a scale a channel) with
prepare_pt2e and convert_pt2e, calibrated on the same inputs. "To eager" is the largest difference between the file and
the same quantized model in eager PyTorch, as a share of the largest output. --no-peer leaves the peer out, which writes
every step of a recurrent layer out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from deployment import CALIBRATION, COMPARED, NETWORKS, Examples, Network, Run, attempted, made
from quantization_peers import Rows, versions
from torch import Tensor, nn

from compresskit.analysis.measure.latency import take_turns
from compresskit.core.types import Loaded, main_output
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.phones.executorch import executorch
from compresskit.export.options import ExportOptions
from compresskit.export.runtimes.exported import Exported
from compresskit.export.tables import RUNTIMES
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

_OPTIONS = ExportOptions(format="executorch")


def ours(loaded: Loaded, path: Path) -> list[str]:
    """A model written by our exporter, for one input."""
    return executorch(export_program(loaded.module, loaded.example, [{} for _ in loaded.example]), path, _OPTIONS)


def theirs(loaded: Loaded, path: Path, inputs: list[tuple[Tensor, ...]]) -> None:
    """The float model quantized by XNNPACKQuantizer."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        prepared = prepare_pt2e(torch.export.export(loaded.module, loaded.example).module(), quantizer)
        for example in inputs:
            prepared(*example)
        program = torch.export.export(convert_pt2e(prepared), loaded.example)
        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        path.write_bytes(edge.to_executorch().buffer)


def running(loaded: Loaded, path: Path) -> Run:
    """A file in ExecuTorch, one thread."""
    runner = RUNTIMES.load("executorch")(Exported(loaded.module, None, path, loaded.example, 1))
    return lambda inputs: main_output(runner(*inputs))


def differences(wanted: list[Tensor], found: list[Tensor]) -> tuple[float, float]:
    """The largest difference as a share of the largest output, and the relative error."""
    scale = max(float(one.abs().max()) for one in wanted)
    largest = max(float((a - b).abs().max()) for a, b in zip(wanted, found, strict=True))
    error = sum(float((a - b).square().sum()) for a, b in zip(wanted, found, strict=True))
    return largest / scale, (error / sum(float(one.square().sum()) for one in wanted)) ** 0.5


@torch.no_grad()
def outputs_of(run: nn.Module | Run, compared: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """Outputs of inputs, those of a module called with each."""
    return [main_output(run(*one)) if isinstance(run, nn.Module) else run(one) for one in compared]


def measure(name: str, rounds: int, *, peer: bool = True) -> dict[str, Any]:
    """All figures of a network."""
    network: Network = NETWORKS[name]
    started, loaded, examples = time.process_time(), made(network), Examples(network)
    singles, compared = examples.singles(CALIBRATION), examples.singles(COMPARED, seed=1)
    int8 = loaded.clone()
    context = Context(loaded, data=examples)  # type: ignore[arg-type]
    # XNNPACK's kernels do not saturate, and need no margin in the codes
    given = QuantizeOptions(scheme="int8-static", calibration_samples=CALIBRATION, code_range="full")
    quantize(int8, given, context)
    runs: dict[str, Run] = {}
    facts: dict[str, dict[str, Any]] = {}
    wanted, eager = outputs_of(loaded.module, compared), outputs_of(int8.module, compared)
    with tempfile.TemporaryDirectory() as folder:
        for label, model, write in (
            ("float", loaded, partial(ours, loaded)),
            ("int8-static, compresskit", int8, partial(ours, int8)),
            *([("int8, XNNPACKQuantizer", loaded, partial(theirs, loaded, inputs=singles))] if peer else []),
        ):
            path = Path(folder) / f"{len(facts)}.pte"
            notes: list[str] = []
            if attempted(label, lambda write=write, path=path, notes=notes: notes.extend(write(path=path) or [])):
                continue
            if attempted(label, lambda label=label, model=model, path=path: runs.update({label: running(model, path)})):
                continue
            found = outputs_of(runs[label], compared)
            largest, error = differences(wanted, found)
            facts[label] = {"size_mb": path.stat().st_size / 1e6, "largest": largest, "error": error, "notes": notes}
            if model is int8:
                facts[label]["to_eager"] = differences(eager, found)[0]
        example = compared[0]
        turns = [partial(run, example) for run in runs.values()]
        times = dict(zip(runs, take_turns(turns, rounds=rounds, turn_seconds=0.02, clock="wall"), strict=True))
    peers = times.get("int8, XNNPACKQuantizer")
    for label, own in times.items():
        facts[label] |= {"best_ms": own.best_ms, "median_ms": own.median_ms}
        if "float" in times:
            facts[label]["to_float"] = statistics.median(times["float"].over(own))
        if peers is not None and label.endswith("compresskit"):
            facts[label]["to_peer"] = statistics.median(peers.over(own))
    return {"rows": facts, "cpu_seconds": time.process_time() - started, "says": network.says}


def lines(name: str, found: dict[str, Any]) -> list[str]:
    """A network's table."""
    text = [
        "", f"### {name} ({found['says']}; {found['cpu_seconds']:.0f} s of CPU)", "",
        "| one input, one thread | best ms | median | to float | to the peer | largest difference | relative error "
        "| to eager | MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for label, row in found["rows"].items():
        ratios = [f"{row[key]:.2f}x" if key in row else "" for key in ("to_float", "to_peer")]
        eager = f"{row['to_eager']:.4f}" if "to_eager" in row else ""
        text.append(
            f"| {label} | {row['best_ms']:.2f} | {row['median_ms']:.2f} | {ratios[0]} | {ratios[1]} "
            f"| {row['largest']:.4f} | {row['error']:.4f} | {eager} | {row['size_mb']:.2f} |"
        )
    return [*text, *(f"{label}: {note}" for label, row in found["rows"].items() for note in row["notes"])]


def main() -> None:
    """Print the tables of the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", choices=(*NETWORKS, "all"))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--keep", type=Path, help="file that keeps finished rows")
    parser.add_argument("--no-peer", action="store_true", help="leave XNNPACKQuantizer out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(options.keep)
    command = " ".join(sys.argv[1:])
    print(f"command: python benchmarks/quantization/deployment_executorch.py {command}", versions(), flush=True)
    for name in NETWORKS if "all" in options.rows else options.rows:
        measured = partial(measure, name, options.rounds, peer=not options.no_peer)
        try:
            print("\n".join(lines(name, rows.get(f"{name}, {options.rounds}", measured))))
        except Exception as error:  # the next row may do better
            print(f"\n### {name}: {type(error).__name__}: {str(error).splitlines()[0][:300]}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
