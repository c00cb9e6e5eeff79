"""The verbs from Python: the same options as the commands, equal weights, one-line errors, a quiet stdout."""

from __future__ import annotations

import copy
import inspect
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import compresskit as package
from compresskit.api.stub import stub_text
from compresskit.api.verbs import VERBS, keywords_of
from compresskit.artifact import artifact
from compresskit.data.dataset import open_data
from compresskit.export.options import ExportOptions
from compresskit.pipeline.recipe import RecipeOptions
from compresskit.pipeline.techniques import TECHNIQUES
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.integration
CNN = "builtin:digits_cnn"
QUICK = {"latency_rounds": 0}
X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """A user's own module: no options say how it is built, and it prints."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        print("forward")
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


@pytest.fixture
def net() -> Net:
    return Net(16)


def test_the_package_and_its_signatures_import_no_torch():
    code = (
        "import sys, inspect, compresskit\n"
        "assert {'prune', 'Result', 'load'} <= set(dir(compresskit))\n"
        "assert 'target_macs' in inspect.signature(compresskit.prune).parameters\n"
        "assert 'target_macs' in compresskit.prune.__doc__\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(REPOSITORY)}, check=True
    )
    assert done.stdout == "False\n"


def test_the_stub_is_python():
    assert compile(stub_text(), "__init__.pyi", "exec") is not None


def test_the_stub_is_up_to_date():
    assert (Path(package.__file__).parent / "__init__.pyi").read_text() == stub_text(), (
        "run: compresskit schema --stub > /tmp/stub && mv /tmp/stub compresskit/__init__.pyi"
    )


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_the_options_of_its_command(verb):
    signature = inspect.signature(getattr(package, verb))
    assert len(signature.parameters) == len(keywords_of(verb)) + 1  # no name stands for two options
    models = [TECHNIQUES[verb].options_model()] if verb in TECHNIQUES else []
    models += [RecipeOptions] if models or verb == "measure" else [ExportOptions] if verb == "export" else []
    for name, field in [pair for model in models for pair in model.model_fields.items()]:
        if name not in ("model", "output"):
            assert signature.parameters[name].default == field.get_default(call_default_factory=True)


def test_a_verb_stays_a_function_beside_a_room_of_its_name():
    import compresskit.export.options
    import compresskit.search.options

    assert inspect.isfunction(package.search) and inspect.ismodule(sys.modules["compresskit.search.options"])
    assert compresskit.search is package.search and inspect.isfunction(package.export)
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        _ = package.prun


# -- a module of the user's own --------------------------------------------------------------------------------------


def test_a_module_in_memory_is_pruned_saved_and_loaded_onto_one_given_again(net, tmp_path, capsys):
    before = copy.deepcopy(net.state_dict())
    result = package.prune(net, example=X, target_macs=0.5, **QUICK)
    assert net.training and all(torch.equal(net.state_dict()[name], before[name]) for name in before)
    first, last = result.report["original"]["macs"], result.report["steps"][-1]["measurement"]["macs"]
    assert 0.3 * first < last <= 0.5 * first
    assert not result.model.training and result.model.second.out_channels < 16
    assert result.save(tmp_path / "out") == (tmp_path / "out" / artifact.WEIGHTS).stat().st_size
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == result.report
    with pytest.raises(package.InputError, match="exists"):
        result.save(tmp_path / "out")
    loaded = package.load(tmp_path / "out", model=Net(16))
    with torch.no_grad():
        assert torch.equal(loaded(X), result.model(X))
    assert capsys.readouterr().out.count("forward") == 2  # of the two calls above alone


def test_what_is_loaded_onto_another_module_is_refused(net, tmp_path):
    package.prune(net, example=X, target_macs=0.5, **QUICK).save(tmp_path / "out")
    with pytest.raises(ValueError, match="made from a module in memory .Net.*compresskit.load.FOLDER, model=MODULE"):
        package.load(tmp_path / "out")
    other = Net(16)
    other.forward = lambda x: Net.forward(other, x) + 1
    with pytest.raises(package.InputError, match="differs from the recorded probe"):
        package.load(tmp_path / "out", model=other)
    with pytest.raises(package.InputError, match="edit 0 .resize"):
        package.load(tmp_path / "out", model=nn.Linear(3, 3))
    with pytest.raises(package.InputError, match="the module that the artifact was made from, not int"):
        package.load(tmp_path / "out", model=3)
    with pytest.raises(package.InputError, match="is no artifact directory"):
        package.load("builtin:lenet5", model=net)


def test_code_that_builds_the_module_opens_its_artifact_in_the_shell(net, tmp_path, invoke):
    code = f"from torch import nn\n\n{inspect.getsource(Net)}\n\ndef make():\n    return Net(16)\n"
    (tmp_path / "net.py").write_text(code)
    package.prune(net, example=X, target_macs=0.5, **QUICK).save(tmp_path / "out")
    code, _, err = invoke("inspect", "out")
    assert code == 2 and "name code that builds it with --source" in err
    code, out, err = invoke("inspect", "out", "--source", "net.py:make")
    assert code == 0 and "parameters" in out, err


def test_calls_go_on_from_results_and_from_models_that_were_trained(net, tmp_path):
    pruned = package.prune(net, example=X, target_macs=0.5, **QUICK)
    with torch.no_grad():
        pruned.model.head.bias.add_(1.0)
    quantized = package.quantize(pruned, scheme="int8-weight", **QUICK)
    with torch.no_grad():
        assert (quantized.model(X) - pruned.model(X)).abs().max() < 0.1
    ops = [edit["op"] for edit in artifact.read_manifest(_saved(quantized, tmp_path / "int8"))["edits"]]
    assert "resize" in ops and "quantized" in ops
    folder = _saved(pruned, tmp_path / "trained")
    assert not (folder / "report.json").exists()  # its figures would not be true any more
    with torch.no_grad():
        assert torch.equal(package.load(folder, model=Net(16))(X), pruned.model(X))


def _saved(result: package.Result, folder: Path) -> Path:
    result.save(folder)
    return folder


def test_inputs_may_be_several_and_named():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.head = nn.Linear(4, 32), nn.Linear(6, 32), nn.Linear(32, 3)

        def forward(self, left, right):
            return self.head((self.left(left) + self.right(right)).relu())

    left, right = torch.randn(5, 4), torch.randn(5, 6)
    for example in ((left, right), {"left": left, "right": right}):
        result = package.prune(Two(), example=example, ratio=0.5, **QUICK)
        assert result.model.left.out_features == 16
        result = package.decompose(Two(), example=example, energy=0.9, **QUICK)
        assert result.report["steps"][0]["technique"] == "decompose"


def test_a_model_string_takes_an_example_too():
    result = package.prune("builtin:digits_cnn_small", example=torch.zeros(3, 1, 16, 16), ratio=0.5, **QUICK)
    assert result.report["recipe"]["input"] == ["1,16,16"]


# -- equal to the command line ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def same(digits_model: Path):
    """Weights of a command and of the same call on the module in memory, asserted to be equal bit for bit."""

    def check(invoke, tmp_path, technique: str, flags: list, options: dict, *, model: object = None) -> package.Result:
        code, _, err = invoke(technique, digits_model, *flags, "--latency-rounds", 0, "-q", "-o", "cli")
        assert code == 0, err
        module = package.load(digits_model) if model is None else model
        result = getattr(package, technique)(module, **options, **QUICK)
        result.save(tmp_path / "api")
        command, call = (load_file(tmp_path / name / artifact.WEIGHTS) for name in ("cli", "api"))
        assert command.keys() == call.keys()
        assert all(torch.equal(command[name], call[name]) for name in command)
        manifests = [artifact.read_manifest(tmp_path / name) for name in ("cli", "api")]
        assert manifests[0]["edits"] == manifests[1]["edits"] and manifests[0]["probe"] == manifests[1]["probe"]
        figures = [
            json.loads((tmp_path / name / "report.json").read_text())["steps"][0]["measurement"]
            for name in ("cli", "api")
        ]
        assert figures[0] == figures[1]
        return result

    return check


TRAINING = (["--epochs", "0.2", "--lr", "0.01"], {"epochs": 0.2, "lr": 0.01})
CASES = {
    "prune": (["--target-macs", "0.5", "--recover", "finetune"], {"target_macs": 0.5, "recover": "finetune"}, TRAINING),
    "quantize": (["--scheme", "int8-static", "--skip", "0"], {"scheme": "int8-static", "skip": "0"}, ([], {})),
    "decompose": (["--slower-layers", "allow"], {"slower_layers": "allow"}, ([], {})),  # no timing decides
    "train": ([], {}, TRAINING),
    "distill": (["--student-width", "0.5", "--loss", "kd"], {"student_width": 0.5, "loss": "kd"}, TRAINING),
    "search": (
        ["--technique", "prune", "--target-macs", "0.5", "--policy", "solve", "--trials", "3"],
        {"technique": "prune", "target_macs": 0.5, "policy": "solve", "trials": 3},
        ([], {}),
    ),
}


@pytest.mark.parametrize("technique", CASES)
def test_a_call_gives_the_weights_of_the_command(technique, same, invoke, tmp_path):
    flags, options, (more_flags, more_options) = CASES[technique]
    torch.rand(7)  # what the session drew before does not count
    state = torch.get_rng_state()
    data = ["--data", "digits", *flags, *more_flags]
    same(invoke, tmp_path, technique, data, {"data": "digits", **options, **more_options})
    assert torch.equal(torch.get_rng_state(), state)


def test_a_string_gives_them_too(same, invoke, tmp_path, digits_model):
    same(invoke, tmp_path, "prune", ["--ratio", "0.5"], {"ratio": 0.5}, model=digits_model)


@pytest.mark.parametrize(
    ("technique", "flags", "options"),
    [
        ("prune", ["--target-macs", "0.5"], {"target_macs": 0.5}),
        ("quantize", ["--scheme", "int4-weight"], {"scheme": "int4-weight"}),
    ],
)
def test_a_residual_network_of_its_own_class_gives_them_too(technique, flags, options, invoke, tmp_path):
    code, _, err = invoke(
        technique, "builtin:cifar_resnet20", *flags, "--latency-rounds", 0, "-q", "-o", tmp_path / "cli"
    )
    assert code == 0, err
    net = package.load("builtin:cifar_resnet20")
    del net._compresskit_origin  # as if its user had written the class
    getattr(package, technique)(net, example=torch.zeros(1, 3, 32, 32), **options, **QUICK).save(tmp_path / "api")
    assert artifact.read_manifest(tmp_path / "api")["source"]["kind"] == "memory"
    command, call = (load_file(tmp_path / name / artifact.WEIGHTS) for name in ("cli", "api"))
    assert command.keys() == call.keys() and all(torch.equal(command[name], call[name]) for name in command)


# -- data, metrics, progress -----------------------------------------------------------------------------------------


def test_a_loader_and_a_metric_of_the_session_are_used(digits_model):
    digits = open_data("digits").batches("test", batch_size=1000)
    inputs, targets = next(iter(digits))

    def odd(outputs, targets):
        return ((outputs.argmax(-1) % 2) == (targets % 2)).float()

    splits = (DataLoader(TensorDataset(inputs[:200], targets[:200]), batch_size=16), [(inputs[200:], targets[200:])])
    result = package.prune(digits_model, data=splits, ratio=0.25, metric=odd, samples=100, **QUICK)
    metric = result.report["original"]["metric"]
    assert metric["name"] == "odd" and metric["samples"] == len(inputs) - 200 and metric["value"] > 0.9


def test_data_without_labels_calibrate_and_teach_and_are_refused_where_labels_train(net):
    torch.manual_seed(0)
    images = {"example": torch.zeros(1, 1, 8, 8), "data": torch.randn(48, 1, 8, 8), "latency_rounds": 0}
    assert package.quantize(net, scheme="int8-static", **images).model is not None
    cut = {"target_macs": 0.6, "epochs": 0.1, **images}
    assert package.prune(net, recover="kd", **cut).report["steps"]
    with pytest.raises(package.InputError, match="the data has no targets, and model .* or --recover kd"):
        package.prune(net, recover="finetune", **cut)


def test_progress_goes_to_a_function_and_prints_stay_off_stdout(net, capsys):
    lines: list[str] = []
    package.prune(net, example=X, ratio=0.5, progress=lines.append, **QUICK)
    assert any(line.startswith("checked: model") for line in lines)
    assert capsys.readouterr().out == ""
    package.prune(net, example=X, ratio=0.5, progress=lambda line: print("line"), **QUICK)
    assert "line\n" in capsys.readouterr().out
    package.prune(net, example=X, ratio=0.5, progress="rich", **QUICK)
    captured = capsys.readouterr()
    assert captured.out == "" and "checked: model" in captured.err


def test_a_result_shows_its_report(net, capsys):
    result = package.prune(net, example=X, ratio=0.5, **QUICK)
    capsys.readouterr()
    result.show()
    assert "original" in capsys.readouterr().out
    assert "<pre" in result._repr_html_() and "prune" in result._repr_html_()
    assert "macs" in repr(result) and "Net" in repr(result)


def test_a_look_at_a_model_returns_what_it_found(net, tmp_path):
    result = package.prune(net, example=X, explain="first")
    assert result.report.keys() == {"facts", "tables", "notes"}
    assert result.model.first.out_channels == 16
    with pytest.raises(package.InputError, match="nothing was changed"):
        result.save(tmp_path / "out")


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([CNN], {"target_mac": 0.5}, "prune: unknown option 'target_mac'; did you mean 'target_macs'?"),
        ([CNN], {"target_macs": 1.5}, "prune: target_macs is the share that is kept, so it must be less than 1"),
        ([CNN], {}, "prune: nothing says how much to prune"),
        (["builtin:digit_cnn"], {"ratio": 0.5}, "did you mean 'digits_cnn'?"),
        ([3], {"ratio": 0.5}, "a model is a string, an artifact directory, an nn.Module or a Result, not int"),
        ([], {"ratio": 0.5}, "prune takes one model and keyword options, got 0 positional arguments"),
        ([CNN, "out"], {"ratio": 0.5}, "got 2 positional arguments"),
        ([CNN], {"ratio": 0.5, "data": 3}, "is of type int; give a data string, a DataLoader"),
        ([CNN], {"ratio": nn.ReLU()}, "prune: ratio takes plain values, not ReLU"),
        ([CNN], {"ratio": 0.5, "criterion": nn.ReLU()}, "prune: criterion 'ReLU' must take (group, evidence)"),
        ([CNN], {"ratio": 0.5, "progress": 3}, "progress is 'rich', a function of one line"),
        ([nn.Linear(3, 3)], {"ratio": 0.5}, "prune: what the module takes is unknown; give example"),
        ([nn.Linear(3, 3)], {"ratio": 0.5, "weights": "w.pt"}, "weights would be ignored: the model is a module"),
        ([nn.Linear(3, 3)], {"ratio": 0.5, "example": X}, "model 'Linear' does not run on its example input"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(arguments, options, message):
    with pytest.raises(ValueError) as mistake:
        package.prune(*arguments, **options)
    assert isinstance(mistake.value, package.InputError)
    assert message in str(mistake.value) and len(str(mistake.value).splitlines()) == 1


def test_a_missed_guard_raises(net):
    with pytest.raises(package.GuardMissed, match="max_bytes is 10"):
        package.prune(net, example=X, ratio=0.5, max_bytes=10, **QUICK)


# -- the other verbs -------------------------------------------------------------------------------------------------


def test_measure_and_its_comparison(net):
    figures = package.measure(net, example=X, latency_rounds=2, against=Net(32))
    assert isinstance(figures, package.Measurement)
    assert figures.parameters == sum(tensor.numel() for tensor in net.parameters())
    assert figures.metric is None and figures.latency["speedup"] > 0
    assert package.measure("builtin:digits_cnn_small", data="digits", eval_limit=64).metric["samples"] == 64


def test_a_recipe_runs_with_objects_in_the_place_of_strings(net, tmp_path):
    digits = open_data("digits").batches("train", batch_size=200)
    content = {
        "model": net,
        "data": (next(iter(digits)), next(iter(open_data("digits").batches("test", batch_size=100)))),
        "steps": [{"train": {"epochs": 1}}, {"prune": {"ratio": 0.5}}, {"quantize": {"scheme": "int8-static"}}],
        **QUICK,
    }
    result = package.run(content, assignments="steps.1.prune.ratio=0.25")
    assert [step["technique"] for step in result.report["steps"]] == ["train", "prune", "quantize"]
    assert result.report["steps"][1]["options"]["ratio"] == 0.25 and content["steps"][1]["prune"]["ratio"] == 0.5
    result.save(tmp_path / "out")
    assert package.load(tmp_path / "out", model=net)(X).shape == (2, 10)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (None, "run: a recipe is a YAML file or a mapping, not NoneType"),
        ({"model": CNN, "steps": 3}, "steps must be a list"),
        ({"model": CNN, "steps": [3]}, "a step is one technique with its options"),
        ({"model": CNN, "steps": [{"prun": {}}]}, "did you mean 'prune'?"),
        ({"model": CNN, "steps": [{"prune": {"ratio": nn.ReLU()}}]}, "run: prune.ratio takes plain values"),
        ("missing.yaml", "recipe 'missing.yaml' does not exist"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(recipe, message):
    with pytest.raises(package.InputError) as mistake:
        package.run(recipe)
    assert message in str(mistake.value) and len(str(mistake.value).splitlines()) == 1


def test_calls_of_several_threads_wait_for_each_other_and_a_callback_may_call(net):
    def call(width: int) -> int:
        inner: list[int] = []

        def measured(line: str) -> None:
            inner.append(package.measure(Net(width), example=X, **QUICK).macs)

        result = package.prune(Net(width), example=X, ratio=0.5, progress=measured, **QUICK)
        assert inner and inner[0] == result.report["original"]["macs"]
        return result.model.second.out_channels

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(call, (16, 32))) == [8, 16]


def test_grad_mode_of_the_caller_does_not_count(net):
    options = {"data": "digits", "recover": "finetune", "epochs": 0.05, "train_limit": 200, **QUICK}
    with torch.inference_mode():
        result = package.prune(net, example=X, ratio=0.5, **options)
        assert torch.is_inference_mode_enabled()
    assert "recovery" in result.report["steps"][0]["facts"]


def test_resume_takes_what_an_earlier_call_with_the_same_objects_finished(net, tmp_path):
    options = {"example": X, "ratio": 0.5, "output": tmp_path / "out", **QUICK}
    first = package.prune(net, **options)
    with pytest.raises(package.InputError, match="exists"):
        package.prune(net, **options)
    lines: list[str] = []
    again = package.prune(net, **options, resume=True, progress=lines.append)
    assert lines == ["out: unchanged, nothing to do"]
    with torch.no_grad():
        assert torch.equal(again.model(X), first.model(X))
        net.head.bias.add_(1.0)
    with pytest.raises(package.InputError, match="not this run's"):
        package.prune(net, **options, resume=True)


def test_a_teacher_and_a_student_may_be_modules(net):
    torch.manual_seed(0)
    options = {"data": "digits", "epochs": 0.05, "batch_size": 32, **QUICK}
    result = package.distill(Net(8), teacher=net, loss="kd", example=X, **options)
    assert result.report["steps"][0]["facts"]["teacher"] == ["Net"]


@pytest.mark.slow
def test_export_writes_and_compares(net, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    figures = package.export(net, output=tmp_path / "net.onnx", example=X, rounds=1)
    assert figures["path"] == str(tmp_path / "net.onnx") and (tmp_path / "net.onnx").is_file()
    assert figures["largest_difference"] < 1e-4
