"""Absurd option values, and user code that raises and exits."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from .kinds import SMALL, kind

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


#: attributes that some library or this package reads of a module
ATTRIBUTES = (
    "mean", "std", "input_shape", "example_inputs", "example_input_array", "config", "pretrained_cfg", "weight", "bias",
    "main_input_name", "num_classes", "dtype", "device", "groups", "in_channels", "out_features", "module", "_orig_mod",
    "hooks", "name", "loss", "no_split_modules", "batch_first", "__len__", "stride", "kernel_size",
)  # fmt: skip

VALUES_OF_ATTRIBUTES = (
    "5", "-1", "10**30", "0.5", "float('nan')", "'x'", "None", "[]", "[1, 'a']", "(1, 8, 8)", "(10**6, 10**6, 3)",
    "(0,)", "[0.5]", "[0.0]", "torch.zeros(3)", "torch.zeros(1, 1, 8, 8)", "torch.zeros(0)", "lambda x: x", "object()",
    "{}", "{'a': 1}", "nn.Linear(2, 2)", "nn.Parameter(torch.zeros(2))", "type", "Net", "self", "[torch.zeros(3)]",
    "torch.float16", "torch.device('meta')", "b'x'", "{1, 2}", "iter(())", "[[]]", "np.float32(1)", "np.ones(3)",
)  # fmt: skip


@kind
def module_attributes(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Modules whose attributes of well-known names hold something else, or raise when they are read."""
    lines, properties = [], []
    for name in draw.sample(ATTRIBUTES, draw.choice((1, 1, 2))):
        if draw.random() < 0.15:
            error = draw.choice(("ValueError('x')", "AttributeError('x')", "KeyError", "RuntimeError", "SystemExit(3)"))
            properties.append(f"    @property\n    def {name}(self):\n        raise {error}\n")
        else:
            holder = draw.choice(("self", "self", "self.l"))
            lines.append(f"        object.__setattr__({holder}, {name!r}, {draw.choice(VALUES_OF_ATTRIBUTES)})\n")
    (scratch / "code.py").write_text(
        "import numpy as np\nimport torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.c, self.l = nn.Conv2d(1, 8, 3), nn.Linear(8, 10)\n"
        f"{''.join(lines)}"
        "    def forward(self, x):\n        return self.l(self.c(x).relu().mean((2, 3)))\n"
        f"{''.join(properties)}"
    )
    shutil.copyfile(good / "d.npz", scratch / "d.npz")
    command = draw.choice(
        (
            ["inspect"],
            ["inspect"],
            ["prune", "--ratio", "0.5"],
            ["quantize", "--scheme", "int8-static"],
            ["quantize", "--scheme", "int4-weight"],
            ["decompose", "--energy", "0.5", "--slower-layers", "allow"],
        )  # fmt: skip
    )
    made = [] if command == ["inspect"] else ["--latency-rounds", "0", "-q", "-o", "o"]
    return [*command[:1], "code.py:Net", *command[1:], "--input", "1,8,8", "--data", "npz:d.npz", *made]
