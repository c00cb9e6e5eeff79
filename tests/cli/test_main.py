"""The command as a whole: what starts fast, how errors end, what goes where."""

from __future__ import annotations

import json
import operator
import os
import signal
import subprocess
import sys
from functools import partial

import pytest

from compresskit.cli.main import COMMANDS
from compresskit.pipeline.techniques import TECHNIQUES
from tests.conftest import REPOSITORY


def imported_by(*arguments: str) -> set[str]:
    code = (
        "import sys, json\nsys.argv = ['compresskit', *json.loads(sys.argv[1])]\n"
        "from compresskit.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_imports_neither_torch_nor_pydantic():
    modules = imported_by("--help")
    assert "compresskit.cli.main" in modules
    assert not modules & {"torch", "pydantic", "numpy", "yaml", "rich"}


@pytest.mark.integration
@pytest.mark.parametrize("name", TECHNIQUES)
def test_help_of_a_technique_imports_no_torch(name):
    assert "torch" not in imported_by(name, "--help")


def test_an_option_of_another_technique_says_whose_it_is(invoke):
    assert invoke("quantize", "x", "--ratio", "0.5")[2].startswith("compresskit: quantize has no option --ratio, which")
    assert "prune has no option --raito; did you mean '--ratio'?" in invoke("prune", "x", "--raito", "0.5")[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("help",), "no command 'help'; compresskit COMMAND --help, or compresskit explain OPTION"),
        (("models",), "no command 'models'; a model is named where it is used, e.g. compresskit inspect torchvision"),
        (("load", "runs/a"), "no command 'load'; every command takes an artifact's folder as its model, e.g. compr"),
        (("prune", "--model", "x"), "prune takes MODEL without --model, e.g. compresskit prune runs/base --data dig"),
        (("init", "--model", "x"), "init takes MODEL without --model, e.g. compresskit init builtin:digits_cnn"),
        (("bench", "--models", "x"), "bench takes MODEL... without --models, e.g. compresskit bench runs/pruned"),
        (("benchmark", "x"), "no command 'benchmark'; did you mean 'bench'?"),
        (("prune", "x", "--sparsity", "0.5"), "prune has no option --sparsity; it is called --ratio here"),
        (("prune", "x", "--zzz"), "prune has no option --zzz (see"),
        (
            ("prune", "x", "--data-arg", "a=1", "b=2"),
            "(b=2); an option of KEY=VALUE takes one: repeat it, e.g. --data-a",
        ),
        (("prune", "x", "0.5"), "extra argument (0.5); what is no name of a model or file is an option, e.g. compress"),
        (
            ("prune", "resnet18", "--ratio", "0.5"),
            "forms; say whose it is, e.g. 'torchvision:resnet18'",
        ),
    ],
)
def test_words_of_other_tools_lead_to_ours(arguments, said, invoke):
    code, out, err = invoke(*arguments)
    assert (code, out) == (2, "") and said in err


def test_help_lists_every_technique_and_command(invoke):
    code, out, _ = invoke("--help")
    assert code == 0
    for name in [*TECHNIQUES, *COMMANDS]:
        assert f"\n  {name} " in out


@pytest.mark.parametrize("name", [*TECHNIQUES, *COMMANDS])
def test_every_command_has_help_with_an_example(name, invoke):
    code, out, _ = invoke(name, "--help")
    assert code == 0
    assert "Examples:" in out
    assert "compresskit " in out.split("Examples:")[1]


def test_version(invoke):
    from compresskit import __version__

    assert invoke("--version")[:2] == (0, f"compresskit, version {__version__}\n")


NET = (
    "import sys\nfrom torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        {forward}\n"
    "def make():\n    {make}\n    return Net()\n"
)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"forward": "raise AssertionError('inside')"}, "does not run on its example input: AssertionError: inside"),
        ({"forward": "sys.exit(0)"}, "does not run on its example input: SystemExit: 0"),
        ({"forward": "raise BaseException('own')"}, "BaseException: own"),
        ({"forward": "raise ValueError('first\\nsecond')"}, "ValueError: first"),
        ({"make": "sys.exit('bye')"}, "raised SystemExit: bye"),
        ({"make": "import no_such_module"}, "ModuleNotFoundError"),
    ],
)
def test_what_named_code_raises_is_no_bug_of_ours(parts, says, invoke, tmp_path):
    (tmp_path / "net.py").write_text(NET.format(**{"forward": "return x", "make": "pass", **parts}))
    code, out, err = invoke("inspect", "net.py:make", "--input", "3,8,8")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert says in err


def test_a_bug_exits_1_and_debug_shows_the_traceback(invoke, monkeypatch, tmp_path):
    from compresskit.pipeline.inspection import looking

    monkeypatch.setattr(looking, "inspect_model", operator.attrgetter("no_such_attribute"))
    (tmp_path / "net.py").write_text(NET.format(forward="return x", make="pass"))
    code, _, err = invoke("inspect", "net.py:make", "--input", "3,8,8")
    assert code == 1
    assert err.startswith("compresskit: a bug: AttributeError: 'Loaded' object has no attribute 'no_such_attribute'")
    with pytest.raises(AttributeError):
        invoke("--debug", "inspect", "net.py:make", "--input", "3,8,8")


def test_json_is_alone_on_stdout(compresskit):
    done = compresskit("inspect", "builtin:lenet5", "--json")
    found = json.loads(done.stdout)
    assert found["parameters"] == 431080
    assert found["macs"] == 2293000


@pytest.mark.integration
def test_an_interrupt_exits_130_and_leaves_no_output(tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "compresskit",
            "train",
            "builtin:digits_cnn_small",
            "--data",
            "digits",
            "--epochs",
            "500",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
        # a job in the background of a shell ignores the interrupt, and so would its children
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    for line in process.stderr:
        if line.startswith("epoch 1 "):
            break
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130
    assert rest.splitlines()[-1].startswith("compresskit: interrupted")
    assert "Traceback" not in rest
    assert not (tmp_path / "runs" / "train").exists()
    assert not list(tmp_path.rglob("*.tmp*"))


def test_explain_prints_to_stdout_and_writes_nothing(invoke, tmp_path):
    code, out, _ = invoke("prune", "builtin:lenet5", "--explain", "conv1")
    assert code == 0 and "it makes them" in out
    code, out, _ = invoke("prune", "builtin:lenet5", "--explain", "conv1", "--json")
    assert json.loads(out)["facts"]["layer"] == "conv1"
    assert not list(tmp_path.iterdir())  # the current folder
