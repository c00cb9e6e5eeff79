"""The pictures of the README and of docs/concepts, drawn from a report, from benchmarks/results, and by the tracer.

python benchmarks/person/pictures.py [--report REPORT.json] [--out docs/pictures]

`--report` is the report of `compresskit run configs/quickstart.yaml --json`; its figures are kept in
benchmarks/results/quickstart.json, from which the README's picture is drawn when no report is given.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
COLORS = ["#3b6ea8", "#d98032", "#4f9a5c", "#9a5a9f"]
GREY = "#8a8f98"  # readable on white and on black
STEP_NAMES = {"train": "trained", "prune": "pruned", "decompose": "factored", "quantize": "quantized"}


def table_rows(page: str, heading: str) -> list[list[str]]:
    """Cells of the first table behind a heading of a page in benchmarks/results, its header first."""
    text = (RESULTS / page).read_text()
    block = re.search(rf"{re.escape(heading)}\b.*?\n((?:\|[^\n]*\n)+)", text, re.DOTALL)
    if block is None:
        raise SystemExit(f"{page}: no table behind {heading!r}")
    lines = [line for line in block[1].splitlines() if not re.fullmatch(r"[|\s-]+", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def number(cell: str) -> float:
    """The first number of a cell."""
    found = re.search(r"-?\d+(?:\.\d+)?", cell.replace(",", ""))
    if found is None:
        raise SystemExit(f"no number in {cell!r}")
    return float(found[0])


def figures_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What the README's picture shows of a report: one record a model, the first one the trained original."""
    rows = [{"step": step["technique"], **step["measurement"]} for step in report["steps"]]
    keys = ("step", "macs", "size_bytes")
    return [
        {**{key: row[key] for key in keys}, "metric": row["metric"]["value"], "speedup": row["latency"]["speedup"]}
        for row in rows
    ]


def readme(rows: list[dict[str, Any]]) -> Any:
    """Bars of bytes, multiply-accumulates, latency and accuracy after each step, as shares of the trained model."""
    from matplotlib import pyplot as plt

    first = rows[0]
    shares = {
        "bytes": [row["size_bytes"] / first["size_bytes"] for row in rows],
        "multiply-accumulates": [row["macs"] / first["macs"] for row in rows],
        "latency": [1.0, *(1 / row["speedup"] for row in rows[1:])],  # the trained model is what is timed beside them
        "top-1 accuracy": [row["metric"] for row in rows],
    }
    figure, axes = plt.subplots(2, 2, figsize=(6.5, 3.6), sharey=True)
    names = [STEP_NAMES[row["step"]] for row in rows]
    for axis, (title, values) in zip(axes.flat, shares.items(), strict=True):
        bars = axis.barh(names, [100 * value for value in values], color=COLORS[0], height=0.62)
        bars[0].set_color(GREY)
        for name, value in zip(names, values, strict=True):
            axis.text(100 * value + 3, name, f"{100 * value:.1f} %" if title == "top-1 accuracy" else f"{value:.0%}",
                      va="center")  # fmt: skip
        axis.set_title(title)
        axis.set_xlim(0, 145)
        axis.set_xticks([])
        axis.spines["bottom"].set_visible(False)
    axes[0, 0].invert_yaxis()
    return figure


def pruning() -> Any:
    """Grouped bars: ResNet-56 at half of its MACs after the cut, with batch norms estimated again, refitted."""
    rows = [
        row
        for row in table_rows("pruning_resnet56.md", "# ResNet-56, CIFAR-10, 50 % of the MACs")[1:]
        if row[-1] != "not offered"
    ]
    picked = [row for row in rows if row[0] in ("L2, local, inside blocks", "L2, local, shortcuts too",
                                                "reconstruction, inside blocks")]  # fmt: skip
    labels = ["l2, inside blocks", "l2, shortcuts too", "reconstruction,\ninside blocks"]
    values = [[number(row[column]) for row in picked] for column in (3, 4, 5)]
    legend = ["cut", "batch norms estimated again", "layers refitted"]
    return grouped(labels, values, legend, label="top-1, %", top=118, line=(90.10, "before: 90.10 %"))


def groups() -> Any:
    """Which layers of a ResNet-20 make, and which read, the channels of each group: a run of the tracer."""
    from matplotlib import pyplot as plt

    from compresskit.artifact.source import load_model
    from compresskit.pruning.dependency.graph import build_graph

    loaded = load_model("builtin:cifar_resnet20")
    found = build_graph(loaded.module, loaded.example).groups
    layers = [name for name, module in loaded.module.named_modules() if type(module).__name__ in ("Conv2d", "Linear")]
    figure, axis = plt.subplots(figsize=(6.5, 4.6))
    for column, group in enumerate(found):
        for member in group.members:
            layer, _, tensor = member.name.rpartition(".")
            if tensor == "weight" and layer in layers:
                made = not member.consumes
                axis.scatter(column, layers.index(layer), s=52, marker="s" if made else "o", linewidths=1.4,
                             color=COLORS[0] if made else "none", edgecolors=COLORS[0 if made else 1])  # fmt: skip
    axis.scatter([], [], s=52, marker="s", color=COLORS[0], label="makes the channels")
    axis.scatter([], [], s=52, color="none", edgecolors=COLORS[1], label="reads them")
    axis.set_yticks(range(len(layers)), layers, fontsize=8)
    axis.set_xticks(range(len(found)), [group.name for group in found], rotation=45, ha="right", fontsize=8)
    axis.set_xlabel("groups of channels that go together")
    axis.invert_yaxis()
    axis.grid(color="#dddddd", linewidth=0.5)
    axis.set_axisbelow(True)
    axis.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), fontsize=8)
    return figure


def quantization() -> Any:
    """Lines: top-1 of ResNet-56 against bits a weight."""
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3))
    rows = table_rows("quantization_cifar.md", "## ResNet-56, weights only")[1:]
    for color, method in zip(COLORS, ("nearest, least error", "GPTQ + bias correction", "AdaRound + bias correction"),
                             strict=False):  # fmt: skip
        points = [(number(row[0]), number(row[2])) for row in rows if row[1] == method]
        axis.plot(*zip(*points, strict=True), "o-", color=color, label=method.replace(", least error", ""))
    axis.axhline(89.70, color=GREY, linestyle="--", linewidth=1)
    axis.text(4, 91, "float: 89.70 %", color=GREY, ha="right")
    axis.set_xticks([2, 3, 4])
    axis.set_xlabel("bits a weight")
    axis.set_ylabel("top-1, %")
    axis.set_ylim(0, 99)
    axis.legend(loc="lower right", frameon=False)
    return figure


def calibration() -> Any:
    """Grouped bars: what ResNet-20 loses at three shares of zeros, with and without reconstruction of blocks."""
    shares = (70, 80, 90)
    plain = {row[0]: row for row in table_rows("sparse_allocation.md", "# How zeros")[1:] if row[1] == "solve"}
    rows = table_rows("block_reconstruction.md", "## Three seeds, all 10,000 test images")[1:]
    tuned = {row[1]: row for row in rows if row[0] == "ResNet-20"}
    losses = [[number(plain[f"{share}%"][3]) for share in shares],
              [-number(tuned[f"{share} % zeros"][3]) for share in shares]]  # fmt: skip
    return grouped([f"{share} % zeros" for share in shares], losses, ["sparsegpt", "then blocks tuned"],
                   label="points of top-1 lost", top=40)  # fmt: skip


def decomposition() -> Any:
    """Bars: ResNet-20 at half of its MACs."""
    rows = {row[0]: number(row[3]) for row in table_rows("decomposition.md", "## ResNets at half the MACs")[1:]}
    names = {
        "uniform channel-svd, weights": "one share for all layers, fitted to weights",
        "uniform channel-svd, data-aware": "the same, fitted to outputs",
        "budgeted channel-svd, data-aware": "ranks from a budget, fitted to outputs",
        "budgeted channel-svd, data-aware, asymmetric": "the same, layer after layer",
        "budgeted mixed kinds, data-aware": "kind chosen for each layer, too",
    }
    return bars(
        [(label, 100 * rows[name], None) for name, label in names.items()], "top-1, %", (88.5, "before: 88.50 %")
    )


def distillation() -> Any:
    """Bars: what each method gains over training without a teacher, with one standard deviation."""
    rows = table_rows("distillation.md", "## Slimmed student")[2:]
    gains = sorted(((row[0], number(row[4]), number(row[3])) for row in rows), key=lambda row: row[1])
    return bars(gains, "points of top-1 above training without a teacher (line: s.d. of three seeds)", None)


def search() -> Any:
    """Bars: winners of the policies, refitted, with the range of three seeds."""
    rows = table_rows("search_policies.md", "## Channels: builtin:cifar_resnet56, macs=0.5, 90 s a policy")[1:]
    found = []
    for row in rows:
        mean, low, high = (100 * float(value) for value in re.findall(r"0\.\d+", row[-1]))
        found.append((row[0], mean, (mean - low, high - mean)))
    return bars(found, "top-1, % (line: range of three seeds)", (89.70, "before: 89.70 %"), start=80)


def bars(rows: list[tuple[str, float, Any]], label: str, line: tuple[float, str] | None, start: float = 0) -> Any:
    """Horizontal bars with their values, and a dashed line for the original."""
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6.5, 0.36 * len(rows) + 0.9))
    span = max(row[1] for row in rows) - start
    for name, value, spread in rows:
        axis.barh(name, value - start, left=start, color=COLORS[0], height=0.62)
        if spread is not None:
            axis.errorbar(value, name, xerr=[[spread[0]], [spread[1]]] if isinstance(spread, tuple) else spread,
                          color=GREY, capsize=3)  # fmt: skip
        high = spread[1] if isinstance(spread, tuple) else spread or 0
        axis.text(value + high + 0.02 * span, name, f"{value:.2f}", va="center")
    axis.invert_yaxis()
    axis.set_xlim(start, start + max(1.3 * span, 1.03 * (line[0] - start) if line else 0))
    axis.set_xlabel(label)
    if line is not None:
        axis.axvline(line[0], color=GREY, linestyle="--", linewidth=1)
        axis.set_title(line[1], fontsize=9, color=GREY, loc="right")
    return figure


def grouped(
    labels: list[str],
    values: list[list[float]],
    legend: list[str],
    label: str,
    top: float,
    line: tuple[float, str] | None = None,
) -> Any:
    """Groups of bars, with a dashed line for the original."""
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6.5, 3.2))
    for number_, (series, name) in enumerate(zip(values, legend, strict=True)):
        places = [place + 0.27 * (number_ - (len(values) - 1) / 2) for place in range(len(labels))]
        axis.bar(places, series, 0.25, color=COLORS[number_], label=name)
        for place, value in zip(places, series, strict=True):
            axis.text(place, value + top / 100, f"{value:.1f}", ha="center", fontsize=8)
    if line is not None:
        axis.axhline(line[0], color=GREY, linestyle="--", linewidth=1)
        axis.text(len(labels) - 0.6, line[0] + 1.5, line[1], color=GREY, ha="right", fontsize=9)
    axis.set_xticks(range(len(labels)), labels)
    axis.set_ylim(0, top)
    axis.set_yticks(range(0, min(int(top), 100) + 1, 20 if top > 50 else 10))
    axis.set_ylabel(label)
    axis.legend(ncols=3, frameon=False, loc="upper center", fontsize=8)
    return figure


PICTURES = (pruning, groups, quantization, decomposition, distillation, calibration, search)


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, help="report.json of configs/quickstart.yaml")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    given = parser.parse_args()
    kept = RESULTS / "quickstart.json"
    if given.report:
        rows = figures_of(json.loads(given.report.read_text()))
        kept.write_text("[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n]\n")
    import matplotlib

    matplotlib.use("svg")
    # text stays text, ids do not change from run to run, and nothing is painted behind
    settings = {"svg.fonttype": "none", "svg.hashsalt": "compresskit", "savefig.transparent": False,
                "axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "font.family": "sans-serif",
                "axes.titlesize": 10, "figure.constrained_layout.use": True}  # fmt: skip
    given.out.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(settings):
        drawn = {"readme": readme(json.loads(kept.read_text()))}
        drawn |= {draw.__name__: draw() for draw in PICTURES}
        for name, figure in drawn.items():
            metadata = {"Date": None, "Creator": "benchmarks/person/pictures.py"}
            figure.savefig(given.out / f"{name}.svg", metadata=metadata)


if __name__ == "__main__":
    main()
