"""Hostile inputs by the thousand: each kind makes files in a folder and the command line that reads them.

Every try is decided by its kind and number alone, so a failure is named by the two. `benchmarks/fuzz.py` runs many,
`test_fuzz.py` some.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from compresskit.core.weights import sha256_of

SMALL = "builtin:digits_cnn_small"
SLOWEST_REFUSAL_S = 5.0
LARGEST_REFUSAL_BYTES = 1 << 30
LONGEST_S = 240  # a try is cut off there, and counted as hung


@dataclass(frozen=True)
class Outcome:
    """What a try ended with.

    Attributes:
        code: the exit code; -1 where it hung.
        lines: what it wrote to stderr as errors, one a line.
        seconds: CPU time of this process.
        peak_bytes: largest growth of resident memory meanwhile; None where the system does not say.
    """

    code: int
    lines: tuple[str, ...]
    seconds: float
    peak_bytes: int | None
    stdout: str = ""


class Hung(KeyboardInterrupt):
    """A try took too long."""


#: values that take the place of others: of every type, and at the edges of each
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63 - 1, 2**63, -(2**63), 10**12, 10**30, 0.5, -0.0, 1e-300, 1e300,
    "", "x", "nan", "../../etc/passwd", "/etc/passwd", "a" * 5000, "[red]x[/]", "[/]", ":smile:", "\x1b[31m", "\n",
    "\u0000", "\ud800", "é", "🙂", "__class__", "0.weight", [], [[]], [0], [-1], [10**12], [1, 2, 3], ["x"], {},
    {"a": 1}, {"op": "remove", "target": "0"}, {"shape": [1], "dtype": "float32"}, {"kind": "builtin"},
    [[[[[[[[]]]]]]]], "float16", "complex64", "module", "file", "timm", "hf", "torchvision",
)  # fmt: skip


def mutated(content: Any, draw: random.Random, times: int) -> Any:
    """A copy of JSON-able data with values replaced, removed, doubled, renamed or moved."""
    content = copy.deepcopy(content)
    for _ in range(times):
        holder, key = _place(content, draw)
        if holder is None:
            return draw.choice(VALUES)
        change = draw.choice(("replace", "replace", "replace", "nudge", "remove", "add", "move"))
        if change == "replace":
            holder[key] = copy.deepcopy(draw.choice(VALUES))
        elif change == "nudge":
            holder[key] = _nudged(holder[key], draw)
        elif change == "remove":
            del holder[key]
        elif change == "add":
            _add(holder, copy.deepcopy(draw.choice(VALUES)), draw)
        else:
            other, place = _place(content, draw)
            if other is not None:
                other[place] = copy.deepcopy(holder[key])
    return content


def _place(content: Any, draw: random.Random) -> tuple[Any, Any]:
    """A random holder and key in it, deep places as likely as shallow ones."""
    places, waiting = [], [content]
    while waiting:
        item = waiting.pop()
        keys = list(item) if isinstance(item, dict) else list(range(len(item))) if isinstance(item, list) else []
        places += [(item, key) for key in keys]
        waiting += [item[key] for key in keys]
    return draw.choice(places) if places else (None, None)


def _nudged(value: Any, draw: random.Random) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return [value]
    if isinstance(value, str):
        cut = draw.randrange(len(value) + 1)
        return value[:cut] + draw.choice(("", "x", "\n", "[red]", "../", "::", ".", " ")) + value[cut + 1 :]
    return draw.choice((value + 1, value - 1, -value, value * 1000, value * 10**9, value / 2, float(value)))


def _add(holder: Any, value: Any, draw: random.Random) -> None:
    if isinstance(holder, list):
        holder.insert(draw.randrange(len(holder) + 1), value)
    else:
        holder[draw.choice(("", "x", "op", "target", "shapes", "kind", "name", "args", "values", "path"))] = value


def noisy(content: bytes, draw: random.Random) -> bytes:
    """Bytes cut off, overwritten, doubled or swapped."""
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        if not content:
            return bytes(content)
        at = draw.randrange(len(content))
        change = draw.randrange(5)
        if change == 0:
            content[at] = draw.randrange(256)
        elif change == 1:
            del content[at : at + draw.choice((1, 8, 1000))]
        elif change == 2:
            content[at:at] = bytes(draw.randrange(256) for _ in range(draw.choice((1, 8))))
        elif change == 3:
            content[at:at] = content[at : at + 64]
        else:
            del content[at:]
    return bytes(content)


# --- running ----------------------------------------------------------------------------------------------------------


def run(arguments: list[str], folder: Path) -> Outcome:
    """Run the command line in this process, in a folder."""
    from compresskit.cli import main as command

    out, err = io.StringIO(), io.StringIO()
    started, before = time.process_time(), _reset_peak()
    code: int | None = None
    with contextlib.chdir(folder), _deadline(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        saved, sys.argv = sys.argv, ["compresskit", *arguments]
        try:
            command.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            sys.argv = saved
    lines = tuple(line for line in err.getvalue().splitlines() if line.startswith("compresskit: "))
    peak = _peak()
    return Outcome(
        {None: 0, 130: -1}.get(code, code), lines, time.process_time() - started,
        None if peak is None or before is None else max(peak - before, 0), out.getvalue(),
    )  # fmt: skip


def problem(outcome: Outcome) -> str:
    """What is wrong with an outcome; empty where nothing is."""
    if outcome.code not in (0, 2, 3):
        return f"rc {outcome.code}"
    if outcome.code == 2 and not outcome.lines:
        return "refused without a word"
    if outcome.code == 2 and (outcome.seconds > SLOWEST_REFUSAL_S or (outcome.peak_bytes or 0) > LARGEST_REFUSAL_BYTES):
        return f"refused after {outcome.seconds:.1f} s and {(outcome.peak_bytes or 0) / 2**20:.0f} MiB"
    if any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for line in outcome.lines for character in line):
        return "control characters in an error line"
    return ""


@contextlib.contextmanager
def _deadline():
    def end(*_: object) -> None:
        raise Hung

    old = signal.signal(signal.SIGALRM, end)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def _reset_peak() -> int | None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _peak()


def _peak() -> int | None:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


# --- kinds ------------------------------------------------------------------------------------------------------------

Kind = Callable[[random.Random, Path, Path], list[str]]  # (draw, good inputs, scratch folder) -> arguments
KINDS: dict[str, Kind] = {}


def kind(function: Kind) -> Kind:
    """Add a kind by its function's name."""
    KINDS[function.__name__] = function
    return function


def attempt(name: str, number: int, good: Path, scratch: Path) -> tuple[list[str], Outcome]:
    """One try: its arguments and what it ended with."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    arguments = KINDS[name](random.Random(f"{name} {number}"), good, scratch)
    return arguments, run(arguments, scratch)


def prepare(folder: Path) -> Path:
    """Good inputs that the kinds spoil: artifacts of several sources and edits, weights, data."""
    from compresskit.core import artifact
    from compresskit.core.source import load_model

    artifacts = folder / "artifacts"
    plain = load_model(SMALL)
    artifact.save(plain, artifacts / "plain")
    for name, arguments in {
        "pruned": ["prune", "--ratio", "0.5"],
        "int4": ["quantize", "--bits", "4", "--method", "weight-only"],
        "factored": ["decompose", "--energy", "0.8"],
    }.items():
        command, *options = arguments
        run([command, SMALL, *options, "--latency-rounds", "0", "-q", "-o", str(artifacts / name)], folder)
    sparse = plain.clone()
    with torch.no_grad():
        sparse.module[7].weight[torch.rand(sparse.module[7].weight.shape) < 0.9] = 0
    sparse.storage["7.weight"] = "bitmap"
    artifact.save(sparse, artifacts / "sparse")
    save_file(plain.module.state_dict(), folder / "w.safetensors")
    torch.save(plain.module.state_dict(), folder / "w.pt")
    (folder / "net.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    artifact.save(load_model(f"{folder}/net.py:make", inputs=["1,8,8"]), artifacts / "code")
    rng = np.random.default_rng(0)
    np.savez(folder / "d.npz", x=rng.random((40, 1, 8, 8), dtype=np.float32), y=np.arange(40) % 10)
    rows = "\n".join(",".join(f"{value:.3f}" for value in rng.random(64)) + f",{i % 10}" for i in range(30))
    (folder / "d.csv").write_text(",".join(f"c{i}" for i in range(64)) + ",label\n" + rows + "\n")
    with contextlib.suppress(ImportError):
        from PIL import Image

        for label in range(3):
            (folder / "images" / f"class{label}").mkdir(parents=True)
            for index in range(6):
                pixels = rng.integers(0, 255, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "images" / f"class{label}" / f"{index}.png")
    return folder


def _artifact(draw: random.Random, good: Path, scratch: Path) -> Path:
    chosen = draw.choice(sorted((good / "artifacts").iterdir()))
    shutil.copytree(chosen, scratch / "a")
    return scratch / "a"


def _inspect_or_diff(draw: random.Random, folder: str) -> list[str]:
    trust = draw.choice(([], ["--trust-source"]))
    return draw.choice((["inspect", folder, *trust], ["inspect", folder, "--json", *trust]))


@kind
def manifest_values(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Values of a manifest replaced, removed, added, moved."""
    path = _artifact(draw, good, scratch) / "manifest.json"
    content = json.loads(path.read_text())
    for key in ("provenance", "versions"):  # read by nothing; changing them is no test
        content[key] = {}
    path.write_text(json.dumps(mutated(content, draw, draw.choice((1, 1, 1, 2, 3)))))
    return _inspect_or_diff(draw, "a")


@kind
def manifest_bytes(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Bytes of a manifest changed."""
    path = _artifact(draw, good, scratch) / "manifest.json"
    path.write_bytes(noisy(path.read_bytes(), draw))
    return _inspect_or_diff(draw, "a")


@kind
def manifest_edits(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Edits changed or added, everything else left good."""
    path = _artifact(draw, good, scratch) / "manifest.json"
    content = json.loads(path.read_text())
    edits = content["edits"] or [{"op": "resize", "target": "0", "shapes": {"weight": [5, 1, 3, 3]}, "attributes": {}}]
    extra = [
        {"op": "quantized", "target": "0", "parameters": ["weight"], "format": "int", "bits": 4, "packed": True},
        {"op": "factored", "target": "3", "kind": "svd", "rank": 4, "bias": True},
        {"op": "merged", "target": "3", "layer": {"form": "conv", "in_channels": 4, "out_channels": 4, "kernel": [3]}},
        {"op": "merged", "target": "3", "layer": {"form": "lstm", "input_size": 4, "hidden_size": 4}},
        {"op": "fold", "target": "0", "norm": "1"},
        {"op": "skip", "target": "2", "as_tuple": 1},
        {"op": "remove", "target": "2"},
        {"op": "free_heads", "target": "2"},
        {"op": "plain_weights", "target": "0", "shapes": {"weight": [1]}},
        {"op": "materialize", "target": "0", "inputs": [[1, 2]]},
    ]
    content["edits"] = mutated([*edits, draw.choice(extra)], draw, draw.choice((0, 1, 2)))
    path.write_text(json.dumps(content))
    return _inspect_or_diff(draw, "a")


@kind
def manifest_source(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Sources of other kinds, their arguments hostile."""
    path = _artifact(draw, good, scratch) / "manifest.json"
    content = json.loads(path.read_text())
    chain = [{"op": "conv", "out": 8, "kernel": 3}, {"op": "pool"}] * draw.choice((1, 2, 5000))
    sources = [
        {"kind": "builtin", "name": "chain", "args": {"layers": chain, "input_shape": [1, 8, 8]}},
        {"kind": "builtin", "name": "digits_mlp", "args": {"hidden": draw.choice((3, 10**5, 10**9, -1))}},
        {"kind": "builtin", "name": "lenet5", "args": {"size": draw.choice((3, 8, 10**6)), "channels": 2}},
        {"kind": "builtin", "name": "cifar_resnet110", "args": {"width": draw.choice((1, 10**6))}},
        {"kind": "file", "path": draw.choice(("../net.py", "/etc/passwd", "net.py")), "factory": "make", "args": {}},
        {"kind": "module", "module": draw.choice(("os", "no.such", "")), "factory": "system", "args": {"command": "x"}},
    ]
    content["source"] = mutated(draw.choice(sources), draw, draw.choice((0, 1, 2)))
    path.write_text(json.dumps(content))
    return _inspect_or_diff(draw, "a")


@kind
def artifact_weights(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Weights of an artifact changed, their hash made to match."""
    folder = _artifact(draw, good, scratch)
    path = folder / "model.safetensors"
    if draw.random() < 0.5:
        path.write_bytes(noisy(path.read_bytes(), draw))
    else:
        tensors = load_file(path)
        name = draw.choice(sorted(tensors))
        tensors[name] = _spoiled(tensors[name], draw)
        if draw.random() < 0.2:
            tensors[draw.choice(("x", "0.weight::zip::x", "::", "0.weight::bitmap::values"))] = torch.ones(3)
        save_file(tensors, path)
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**content, "weights_sha256": sha256_of(path)}))
    return _inspect_or_diff(draw, "a")


def _spoiled(tensor: torch.Tensor, draw: random.Random) -> torch.Tensor:
    types = (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int64, torch.bool)
    changes: list[Callable[[], torch.Tensor]] = [
        lambda: tensor.double() * float("nan"),
        lambda: torch.full(tensor.shape, draw.choice((float("inf"), 1e30, -1e30, 0.0, 255.0))),
        lambda: tensor.to(draw.choice(types)),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.reshape(-1),
        lambda: tensor.reshape(-1)[:-1].clone(),
        lambda: torch.zeros(draw.choice(((), (0,), (1,), (2, 2), (1, 1, 1, 1, 1)))),
        lambda: torch.randint(0, 255, tensor.shape, dtype=torch.uint8),
        lambda: torch.cat([tensor.reshape(-1), tensor.reshape(-1)]),
    ]
    return draw.choice(changes)().contiguous()


@kind
def weights_file(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """A weights file whose bytes or suffix changed."""
    suffix = draw.choice((".safetensors", ".pt"))
    content = noisy((good / f"w{suffix}").read_bytes(), draw)
    name = f"w{draw.choice((suffix, suffix, suffix, '.pth', '.bin', '.ckpt', '.safetensors', ''))}"
    (scratch / name).write_bytes(content)
    return ["inspect", SMALL, "--weights", name + draw.choice(("", "", "", "#x", "#"))]


RECIPE = """\
model: builtin:digits_cnn_small
model_arg: {num_classes: 10}
data: npz:d.npz
metric: top1
seed: 3
latency_rounds: 0
eval_limit: 8
output: out
steps:
  - prune: {ratio: 0.5, criterion: l1, recover: finetune, epochs: 1, lr: 0.01}
  - quantize: {bits: 8}
"""


@kind
def recipe_text(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """YAML with bytes changed and hostile pieces put in."""
    shutil.copyfile(good / "d.npz", scratch / "d.npz")
    pieces = (
        "&a [*a]", "[" * 2000, "\0", "<<: *x", "? [1]\n: 2\n", "---\n", "!!python/object:os.x {}", "1e999", "9" * 5000,
        ".inf", "{a: {b: {c: {d: 1}}}}", "\t", "~: 1\n", "2024-01-01", "0x_", "!!binary x", "'", "\ufeff", "\u2028",
    )  # fmt: skip
    text = RECIPE
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(text))
        text = text[:at] + draw.choice(pieces) + text[at + draw.choice((0, 0, 1, 5)) :]
    content = text.encode("utf-8", "surrogatepass")
    (scratch / "r.yaml").write_bytes(noisy(content, draw) if draw.random() < 0.3 else content)
    return ["run", "r.yaml", "--dry-run", "-q"]


@kind
def recipe_values(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """A recipe's values replaced, as a file or by --set."""
    import yaml

    shutil.copyfile(good / "d.npz", scratch / "d.npz")
    content = yaml.safe_load(RECIPE)
    arguments = []
    if draw.random() < 0.6:
        content = mutated(content, draw, draw.choice((1, 1, 2)))
    else:
        path = draw.choice(("seed", "steps.0.prune.ratio", "model", "data_arg.size", "input", "steps.1", "", "a.b.c"))
        arguments = ["--set", f"{path}={draw.choice(('&a [*a]', '9' * 3000, '{', '.nan', '[]', '-1', 'x', '[1]: 2'))}"]
    (scratch / "r.yaml").write_text(json.dumps(content))
    return ["run", "r.yaml", "--dry-run", "-q", *arguments]


@kind
def npz_arrays(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Arrays of every type, order and shape."""
    count = draw.choice((0, 1, 2, 40, 40, 40))
    x = np.random.default_rng(draw.randrange(100)).random((count, 1, 8, 8))
    y = np.arange(count) % 10
    types = ("<f2", ">f4", ">f8", "f8", "i1", ">i2", "u8", "?", "c8", "S3", "U3", "M8[s]", "m8[s]", "V4")
    with np.errstate(all="ignore"), contextlib.suppress(TypeError, ValueError):
        if draw.random() < 0.5:
            x = x.astype(draw.choice(types))
        else:
            y = y.astype(draw.choice(types))
    shapes: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda a: a, lambda a: a[::-1], np.asfortranarray, lambda a: a.reshape(-1), lambda a: a[: count // 2],
        lambda a: np.asarray(a.reshape(-1)[0]) if a.size else a, lambda a: a[..., None], lambda a: a.T,
    ]  # fmt: skip
    x, y = draw.choice(shapes)(x), draw.choice(shapes)(y)
    if draw.random() < 0.3 and y.dtype.kind == "f" and y.size:
        y.reshape(-1)[0] = draw.choice((np.nan, np.inf, -1.0, 0.5, 1e30))
    if draw.random() < 0.3 and y.dtype.kind in "iu" and y.size:
        y = y.copy()
        y.reshape(-1)[0] = draw.choice((np.iinfo(y.dtype).min, np.iinfo(y.dtype).max))
    names = draw.choice((*[("x", "y")] * 6, ("x_train", "y_train"), ("x", "z"), ("x\n", "[red]")))
    both = {names[0]: x, names[1]: y} | ({"x_test": x, "y_test": y} if "train" in names[0] else {})
    np.savez(scratch / "d.npz", **both)
    return ["inspect", SMALL, "--data", "npz:d.npz"]


@kind
def npz_bytes(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """An archive with bytes changed, or a header whose shape lies."""
    content = (good / "d.npz").read_bytes()
    if draw.random() < 0.4:
        lie = draw.choice((b"(9999999, 1, 8, 8)", b"(-1, 1, 8, 8)", b"(10**9,)", b"(1" + b"0" * 15 + b",)", b"()"))
        content = content.replace(b"(40, 1, 8, 8)", lie, 1)
        (scratch / "d.npz").write_bytes(content)
        _rezip(scratch / "d.npz", good / "d.npz", lie)
    else:
        (scratch / "d.npz").write_bytes(noisy(content, draw))
    return ["inspect", SMALL, "--data", "npz:d.npz"]


def _rezip(path: Path, original: Path, lie: bytes) -> None:
    """An archive with sound checksums around an array whose header lies."""
    import zipfile

    with zipfile.ZipFile(original) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content.replace(b"(40, 1, 8, 8)", lie[:13].ljust(13), 1))


@kind
def csv_text(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Tables with bytes and cells changed."""
    text = (good / "d.csv").read_text()
    if draw.random() < 0.5:
        rows = text.splitlines()[: draw.choice((0, 1, 2, 3, 30))]
        for _ in range(draw.choice((1, 2))):
            if rows:
                at = draw.randrange(len(rows))
                cells = rows[at].split(",")
                cells[draw.randrange(len(cells))] = draw.choice(
                    ("", "nan", "inf", "1e999", "x", '"', '"a\nb"', "\0", "9" * 200_000, "-1", "é", "[red]", "0x1")
                )
                rows[at] = ",".join(cells[: draw.choice((1, len(cells), len(cells)))])
        content = "\n".join(rows).encode("utf-8", "surrogatepass")
    else:
        content = noisy(text.encode(), draw)
    (scratch / "d.csv").write_bytes(content if draw.random() < 0.9 else content.decode("latin-1").encode("utf-16"))
    return ["inspect", SMALL, "--data", "csv:d.csv"]


@kind
def images(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Image folders with files broken, of other kinds, and folders missing."""
    import os

    shutil.copytree(good / "images", scratch / "i")
    paths = sorted((scratch / "i").rglob("*.png"))
    for path in draw.sample(paths, draw.choice((1, 2))):
        _spoil_image(path, draw)
    change = draw.randrange(6)
    if change == 0:
        shutil.rmtree(scratch / "i" / "class1")
        (scratch / "i" / "class1").mkdir()
    elif change == 1:
        (scratch / "i" / "class0" / "loop").symlink_to(scratch / "i")
        (scratch / "i" / "class0" / "self.png").symlink_to("self.png")
    elif change == 2:
        os.mkfifo(scratch / "i" / "class0" / "pipe.png")
    elif change == 3:
        (scratch / "i" / "class0").rename(scratch / "i" / "[red]\n:smile:")
    return ["inspect", SMALL, "--data", "imagefolder:i", *draw.choice(([], [], ["--data-arg", "size=9"]))]


def _spoil_image(path: Path, draw: random.Random) -> None:
    from PIL import Image

    mode = draw.choice(
        ("RGB", "CMYK", "P", "LA", "RGBA", "I;16", "I", "F", "1", "bytes", "bytes", "empty", "text", "bomb")
    )
    if mode == "bytes":
        path.write_bytes(noisy(path.read_bytes(), draw))
    elif mode == "empty":
        path.write_bytes(b"")
    elif mode == "text":
        path.write_text("no image")
    elif mode == "bomb":  # a header of 60,000 x 60,000 pixels
        content = bytearray(path.read_bytes())
        content[16:24] = (60_000).to_bytes(4, "big") * 2
        import zlib

        content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
        path.write_bytes(bytes(content))
    else:
        suffix = {"CMYK": "jpeg", "F": "tiff", "I;16": "png", "I": "tiff"}.get(mode, "png")
        Image.new(mode, (9, 7)).save(path, suffix)


TEXTS = (
    "", " ", "x", "-1", "0", "1", "nan", "inf", "1e400", "10" * 40, str(2**31), str(2**63), str(2**64), "1" * 5000,
    "true", "[]", "{}", "[red]", "[/]", ":smile:", "é🙂", "\x1b[31m", "a\nb", "\udcff", "*", "**", "[", "../..", "/",
    "/dev/null", "/dev/zero", "/proc/self/mem", "builtin:", ":", "a:b", "a.b:c", "x.py:f", "hf:", "timm:", "npz:",
    "cuda:99", "meta", "xla", "999999999999,3", "3,224,224:float99", "a=1,2", "ids=4:int64:0", "1," * 100, "no=such",
    "size=9" * 3, "a=&a [*a]", "num_classes=1000000000", "num_classes=-1", "num_classes=[1]", "width=1e9", "%s", "\\",
)  # fmt: skip


NUMBERS = (
    "-1", "0", "1", "2", "3", "7", "1000000000", str(2**31), str(2**32), str(2**63 - 1), str(2**63), "1" * 400, "-0.0",
    "1e-300", "0.1", "0.5", "0.999999", "1.0", "1e300", "1e400", "nan", "inf", "-inf",
)  # fmt: skip


@kind
def option_values(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Every option of every command with absurd values."""
    import click

    from compresskit.cli.main import cli

    context = click.Context(cli)
    name = draw.choice([command for command in cli.list_commands(context) if command not in ("doctor", "search")])
    command = cli.get_command(context, name)
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    chosen = draw.sample(options, min(draw.choice((1, 1, 2, 3)), len(options)))
    shutil.copyfile(good / "d.npz", scratch / "d.npz")
    arguments = [name, *_subject(name, draw, good)]
    if name in ("prune", "quantize", "decompose", "distill", "train", "export") and draw.random() < 0.5:
        arguments += ["--data", "npz:d.npz"]
    if any(option.name == "latency_rounds" for option in options):
        arguments += ["--latency-rounds", "0"]
    for option in chosen:
        flag = option.opts[-1]
        numeric = isinstance(option.type, click.types.IntParamType | click.types.FloatParamType)
        values = NUMBERS if numeric and draw.random() < 0.7 else TEXTS
        if isinstance(option.type, click.Choice) and draw.random() < 0.7:
            values = tuple(option.type.choices)
        arguments += [flag] if option.is_flag else [flag, draw.choice(values)]
    return arguments


def _subject(name: str, draw: random.Random, good: Path) -> list[str]:
    if name == "schema":
        return []
    if name == "run":
        return [draw.choice(("no.yaml", ".", "/dev/null", "d.npz"))]
    plain = str(good / "artifacts" / "plain")
    model = draw.choice((SMALL, SMALL, SMALL, plain, draw.choice(TEXTS)))
    return [model, plain] if name == "diff" else [plain if name == "verify" else model]


@kind
def user_code(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Factories, forwards and data that print, raise and exit."""
    acts = (
        "raise SystemExit(0)", "import sys; sys.exit('bye')", "raise ValueError('a\\nb')", "raise BaseException('x')",
        "print('a word')", "1 / 0", "raise MemoryError", "assert False", "raise StopIteration", "raise OSError(2, 'x')",
        "import no_such_module", "raise RecursionError", "raise KeyError", "raise NotImplementedError", "return 3",
        "return None", "raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'y')", "raise BrokenPipeError",
    )  # fmt: skip
    spots = dict.fromkeys(("top", "make", "init", "forward", "data"), "pass")
    spots[draw.choice(list(spots))] = draw.choice(acts)
    if spots["top"].startswith("return"):
        spots["top"] = "pass"
    parts = draw.choice(
        ("(a, b), (a, b)", "3", "a, b", "(a,), (b,)", "(a, b[:3]), (a, b)", "('x', 'y'), (a, b)", "[], []")
    )
    (scratch / "code.py").write_text(
        f"import torch\nfrom torch import nn\n{spots['top']}\n"
        "class Net(nn.Module):\n"
        f"    def __init__(self):\n        super().__init__()\n        self.l = nn.Linear(64, 10)\n"
        f"        {spots['init']}\n"
        f"    def forward(self, x):\n        {spots['forward']}\n        return self.l(x.flatten(1))\n"
        f"def make():\n    {spots['make']}\n    return Net()\n"
        f"def data():\n    {spots['data']}\n    a, b = torch.rand(20, 1, 8, 8), torch.arange(20) % 10\n"
        f"    return {parts}\n"
    )
    subject = draw.choice((["--input", "1,8,8"], ["--data", "code.py:data"], ["--data", "code.py:data", "--json"]))
    if draw.random() < 0.2:
        return ["prune", "code.py:make", "--ratio", "0.5", "--latency-rounds", "0", "-q", "-o", "o", *subject[:2]]
    return ["inspect", "code.py:make", *subject]
