"""One row of each registry from outside of the package: from the command line, YAML and Python, with its effect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from torch import nn

import compresskit
from compresskit.cli.main import cli
from compresskit.core.errors import GuardMissed, InputError
from compresskit.core.registry import Registry
from compresskit.pipeline.recipe import read_recipe
from compresskit.pipeline.runner import Run, run
from compresskit.pruning.tables import OP_RULES
from tests.quantization.formats.test_own_format import TERNARY

pytestmark = pytest.mark.integration

#: the user's file: a model, its data, and a row of each kind
MINE = '''
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))

def net():
    torch.manual_seed(3)
    return Net()

def data():
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(96, 6, generator=generator)
    targets = inputs[:, :3].argmax(1)
    return (inputs[:64], targets[:64]), (inputs[64:], targets[64:])

def reader(location, preprocessing):
    """A text of numbers: six inputs and a class a line."""
    with open(location) as lines:
        rows = torch.tensor([[float(cell) for cell in line.split()] for line in lines])
    return (rows[:40, :6], rows[:40, 6].long()), (rows[40:, :6], rows[40:, 6].long())

def last_first(group, evidence):
    """The last units go first."""
    return -torch.arange(len(group), dtype=torch.float64)

def seen(group, evidence):
    return evidence.moments and last_first(group, evidence)
seen.needs = "data"

def columns(weight, evidence):
    """The last inputs of a layer go first."""
    return -torch.arange(weight.shape[1]).expand(weight.shape).double()

def first_layer(scores, weights, keep):
    return {name: 0.25 if name == "first" else 1.0 for name in scores}

def one_pool(groups):
    return [list(range(len(groups)))]

def ones(inputs, generator):
    return torch.ones_like(inputs)

def always_zero(outputs, targets):
    return torch.zeros(len(outputs))
always_zero.higher_is_better = False

def towards_seven(outputs, targets):
    return (outputs - 7).square().mean()

def downwards(problem):
    """To the level below; the lowest stays."""
    grid = problem.grid
    codes = grid.nearest(problem.matrix)
    above = (grid.values(codes) > problem.matrix + 1e-6) & (codes > codes.min())
    return codes - above.to(codes.dtype)

class Wide:
    """Twice the range."""
    def __init__(self, levels, percentile):
        self.largest = 0.0
    def update(self, values):
        self.largest = max(self.largest, float(values.abs().max()))
    def range(self):
        return -64 * self.largest, 64 * self.largest

def halves(layers, options, totals):
    """The cheapest candidate of the first layer; the others stay."""
    return [layer.candidates[0] if layer.site.name == "first" else None for layer in layers]

def smallest(problem, generator, options):
    choice = tuple(0 for _ in problem.places)
    problem.evaluate(choice)
    return choice

class Silent(nn.Module):
    def forward(self, x):
        return torch.full((len(x), 3), 5.0)

def silent(exported):
    return Silent()

def text(program, path, options):
    path.write_text(str(program.graph))
    return ["written as text"]

def carbon(work):
    """Grows with what is computed and with what is read."""
    return 2e-3 * sum(work.macs.values()) + 1e-3 * work.read_bytes
carbon.unit = "mg"

def no_figure(work):
    return "much"

def of_activations(work):
    return work.activation_bytes

def wrong_shape(group, evidence):
    return torch.zeros(len(group) + 1)

def fails(group, evidence):
    return {}["nothing"]

def takes_one(group):
    return torch.zeros(len(group))
'''
#: rows that are no functions: a kind of decomposition and a distillation loss
OBJECTS = """
from compresskit.decomposition.methods.kinds import Kind
from compresskit.decomposition.methods.svd import SVD
from compresskit.distillation.losses.term import Loss, Term

ONES = Kind(SVD.fits, lambda layer: (2,), SVD.chain, lambda weight, ranks: [0 * part + 1 for part in
            SVD.factorize(weight, ranks)], SVD.unfold, SVD.output_side)
TWO = Loss(lambda setup: Term(lambda batch: (batch.student - 2).square().mean()), weight=1.0, task_weight=0.0)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    Path("objects.py").write_text(OBJECTS)
    Path("ternary.py").write_text(TERNARY)
    return "mine.py"


MODEL = "mine.py:net"
QUICK = {"latency_rounds": 0, "data": "mine.py:data"}


def from_command_line(step: str, options: dict, shared: dict, model: str = MODEL) -> tuple[nn.Module, dict]:
    flags = []
    for name, value in {**options, **shared}.items():
        for one in value if isinstance(value, list) else [value]:
            flags += [f"--{name.replace('_', '-')}", str(one)]
    result = CliRunner().invoke(cli, [step, model, *flags, "-o", "out-flags", "-q"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return loaded("out-flags", model)


def from_yaml(step: str, options: dict, shared: dict, model: str = MODEL) -> tuple[nn.Module, dict]:
    Path("recipe.yaml").write_text(yaml.safe_dump({"model": model, **shared, "steps": [{step: options}]}))
    run(Run(read_recipe("recipe.yaml"), Path("out-yaml")))
    return loaded("out-yaml", model)


def from_python(step: str, options: dict, shared: dict, model: str = MODEL) -> tuple[nn.Module, dict]:
    getattr(compresskit, step)(model, **options, **shared, output="out-python")
    return loaded("out-python", model)


def loaded(folder: str, model: str) -> tuple[nn.Module, dict]:
    """The module that was made, built from what makes it, and the report."""
    module = compresskit.load(folder, source=model)
    report = json.loads(Path(folder, "report.json").read_text())
    return module.requires_grad_(False), report


WAYS = [from_command_line, from_yaml, from_python]


def original() -> nn.Module:
    namespace: dict = {}
    exec(compile(MINE, "mine.py", "exec"), namespace)
    return namespace["net"]()


@pytest.mark.parametrize("way", WAYS)
def test_a_criterion_removes_exactly_the_channels_it_says(mine, way):
    module, _ = way("prune", {"criterion": "mine.py:last_first", "ratio": 0.5, "reconstruct": "none"}, QUICK)
    assert torch.equal(module.first.weight, original().first.weight[:4])


@pytest.mark.parametrize("way", WAYS)
def test_a_scope_decides_what_competes(mine, way):
    options = {"criterion": "mine.py:last_first", "scope": "mine.py:one_pool", "ratio": 0.25, "reconstruct": "none"}
    module, _ = way("prune", options, QUICK)
    assert torch.equal(module.first.weight, original().first.weight[:6])


@pytest.mark.parametrize("way", WAYS)
def test_weight_importance_and_allocation_decide_which_weights_go(mine, way):
    options = {"granularity": "weight", "saliency": "mine.py:columns", "allocation": "mine.py:first_layer"}
    module, _ = way("prune", {**options, "ratio": 0.5}, QUICK)
    assert bool((module.first.weight[:, :1] != 0).all()) and not module.first.weight[:, 2:].any()
    assert torch.equal(module.second.weight, original().second.weight)


@pytest.mark.parametrize("way", WAYS)
def test_a_task_loss_is_what_training_minimizes(mine, way):
    shared = {**QUICK, "task_loss": "mine.py:towards_seven", "metric": "mine.py:always_zero"}
    module, report = way("train", {"epochs": 60, "lr": 0.05, "batch_size": 16, "keep": "last"}, shared)
    assert float((module(torch.zeros(1, 6)) - 7).abs().max()) < 1.5
    assert report["original"]["metric"]["name"] == "always_zero"


@pytest.mark.parametrize("way", WAYS)
def test_an_augmentation_changes_what_training_sees(mine, way):
    options = {"augment": ["mine.py:ones"], "epochs": 1, "batch_size": 16, "keep": "last", "weight_decay": 0}
    module, _ = way("train", options, QUICK)
    moved = module.first.weight - original().first.weight
    assert bool(moved.any()) and torch.allclose(moved, moved[:, :1].expand(-1, 6), atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_a_distillation_loss_teaches(mine, way):
    options = {"loss": ["objects.py:TWO"], "epochs": 30, "lr": 0.1, "batch_size": 16, "keep": "last"}
    module, _ = way("distill", options, QUICK)
    assert float((module(torch.zeros(1, 6)) - 2).abs().max()) < 1.0


@pytest.mark.parametrize("way", WAYS)
def test_a_data_reader_reads_a_file_of_the_users(mine, way):
    rows = torch.cat([torch.randn(50, 6), torch.randint(0, 3, (50, 1)).float()], 1)
    Path("numbers.txt").write_text("\n".join(" ".join(map(str, row)) for row in rows.tolist()))
    _, report = way("prune", {"ratio": 0.5}, {"latency_rounds": 0, "data": "mine.py:reader:numbers.txt"})
    assert report["recipe"]["data"] == "mine.py:reader:numbers.txt"
    assert report["original"]["metric"]["samples"] == 10


@pytest.mark.parametrize("way", WAYS)
def test_a_decomposition_method_saves_and_loads_without_its_code(mine, way):
    module, _ = way(
        "decompose", {"kind": "objects.py:ONES", "rank_by": "mine.py:halves", "slower_layers": "allow"}, QUICK
    )
    assert bool((torch.stack([factor.weight.unique() for factor in module.first]) == 1).all())
    assert isinstance(module.second, nn.Linear)
    manifest = json.loads(
        Path(f"out-{way.__name__.rpartition('_')[2].replace('line', 'flags')}/manifest.json").read_text()
    )
    assert [link["form"] for link in manifest["edits"][-1]["links"]] == ["linear", "linear"]


@pytest.mark.parametrize("way", WAYS)
def test_an_observer_finds_activation_ranges(mine, way):
    wide, _ = way("quantize", {"scheme": "int8-static", "observer": "mine.py:Wide"}, QUICK)
    compresskit.quantize(MODEL, scheme="int8-static", observer="minmax", output="usual", **QUICK)
    usual = loaded("usual", MODEL)[0]
    assert float(wide.first.input_scale) > 30 * float(usual.first.input_scale)


@pytest.mark.parametrize("way", WAYS)
def test_a_rounding_rounds(mine, way):
    options = {"scheme": "int4-weight", "first_last": "same", "rounding": "mine.py:downwards"}
    module, _ = way("quantize", options, QUICK)
    below = (module.first.dequantized("weight") <= original().first.weight + 1e-5).float().mean()
    assert below > 0.8, "nearest has about half of them above"


@pytest.mark.parametrize("way", WAYS)
def test_a_number_format_has_three_levels(mine, way):
    module, report = way("quantize", {"scheme": "ternary.py:TERNARY", "first_last": "same"}, QUICK)
    for layer in (module.first, module.second):
        assert all(len(row.abs().unique()) <= 2 for row in layer.dequantized("weight"))
    assert report["steps"][-1]["tables"]["quantized layers"][0]["format"] == "ternary.py:TERNARY"


@pytest.mark.parametrize("way", WAYS)
def test_a_policy_chooses(mine, way):
    options = {"policy": "mine.py:smallest", "target_macs": 0.9, "trials": 3, "score_samples": 16}
    module, _ = way("search", {**options, "min_keep_ratio": 0.25, "refit": "inputs", "recalibration_samples": 0}, QUICK)
    assert module.first.out_features == 2


def carbon_mg(module: nn.Module) -> float:
    """By hand: weights (in, out) and biases of two linear layers, float32."""
    sizes = [(layer.in_features, layer.out_features) for layer in (module.first, module.second)]
    return sum(2e-3 * given * made + 4e-3 * (given + 1) * made for given, made in sizes)


#: technique -> options beside the budget
BUDGETED = {
    "prune": {"reconstruct": "none", "round_to": 1},
    "decompose": {"slower_layers": "allow"},
    "search": {"technique": "prune", "policy": "uniform", "score_samples": 16, "recalibration_samples": 0},
}


@pytest.mark.parametrize("step", BUDGETED)
@pytest.mark.parametrize("way", WAYS)
def test_a_cost_is_a_budget_and_a_guard(mine, way, step):
    amounts = {"target": {"mine.py:carbon": 0.7}, "max": {"mine.py:carbon": "71%"}}
    shared = QUICK
    if way is from_command_line:  # mappings are pairs there
        amounts = {"target": "mine.py:carbon=0.7", "max": "mine.py:carbon=71%"}
    module, report = way(step, {**BUDGETED[step], **amounts}, shared)
    whole, last = carbon_mg(original()), report["steps"][-1]
    assert report["original"]["mine.py:carbon"] == pytest.approx(whole)
    assert 0.4 * whole < last["measurement"]["mine.py:carbon"] <= 0.7 * whole
    if step != "decompose":
        assert last["measurement"]["mine.py:carbon"] == pytest.approx(carbon_mg(module))
    assert report["costs"] == {"mine.py:carbon": {"noun": "carbon", "unit": "mg"}}
    assert last["labels"]["mine.py:carbon"] == "computed by mine.py:carbon"


@pytest.mark.parametrize("way", WAYS)
def test_a_cost_decides_bits(mine, way):
    amounts = {"target": {"mine.py:carbon": "0.3 mg"}}
    if way is from_command_line:
        amounts = {"target": "mine.py:carbon=0.3 mg"}
    module, report = way("quantize", {"scheme": "int8-weight", "first_last": "same", **amounts}, QUICK)
    bits = {layer.spec.bits for layer in (module.first, module.second)}
    found = report["steps"][-1]["measurement"]["mine.py:carbon"]
    assert min(bits) < 8 and 0.24 < found <= 0.3 < report["original"]["mine.py:carbon"]


def test_a_cost_is_a_budget_of_a_search_over_bits_and_over_everything(mine):
    budget = {"target": {"mine.py:carbon": 0.7}, "score_samples": 16, "trials": 10}
    for technique, policy in (("quantize", "greedy"), ("mixed", "uniform")):
        result = compresskit.search(MODEL, technique=technique, policy=policy, **budget, **QUICK)
        measured = result.report["steps"][-1]["measurement"]["mine.py:carbon"]
        assert measured <= 0.7 * carbon_mg(original()), technique


def test_a_cost_of_the_session_and_a_missed_guard(mine):
    def weights(work):
        return work.params

    result = compresskit.prune(MODEL, target={weights: 0.5}, reconstruct="none", round_to=1, **QUICK)
    assert sum(p.numel() for p in result.model.parameters()) <= 0.5 * sum(p.numel() for p in original().parameters())
    with pytest.raises(GuardMissed, match="its carbon is 0.* mg, max mine.py:carbon is 0.01 mg"):
        compresskit.prune(MODEL, ratio=0.5, max={"mine.py:carbon": "0.01mg"}, **QUICK)


@pytest.mark.parametrize(
    ("step", "options", "message"),
    [
        ("prune", {"target": {"mine.py:nothing": 0.5}}, "'mine.py' has no 'nothing'"),
        ("prune", {"target": {"mine.py:carbon": "2MB"}}, "mine.py:carbon: unit 'MB' .* does not fit; write %, mg"),
        ("prune", {"target": {"mine.py:carbon": 1.5}}, "target mine.py:carbon is the share that is kept"),
        ("prune", {"target": {"mine.py:carbon": 0.5}, "target_macs": 0.5}, "exclude each other"),
        ("prune", {"target": {"macs": 0.5}}, "cost macs has an option of its own"),
        ("prune", {"target": {"mine.py:no_figure": 0.5}}, "must return a finite number, and returned 'much'"),
        ("quantize", {"target": {"mine.py:of_activations": 0.5}}, "does not depend on the bytes of weights"),
    ],
)
def test_what_is_no_cost_or_no_amount_of_it_is_refused(mine, step, options, message):
    with pytest.raises(InputError, match=message):
        getattr(compresskit, step)(MODEL, **options, **QUICK)


@pytest.mark.parametrize("how", ["flags", "yaml", "python"])
def test_an_exporter_and_a_runtime(mine, how):
    if how == "flags":
        line = ["export", MODEL, "--format", "mine.py:text", "--runtime", "mine.py:silent", "--input", "6"]
        result = CliRunner().invoke(cli, [*line, "--rounds", "1", "--json", "-o", "net.txt"], catch_exceptions=False)
        facts = json.loads(result.stdout)
    elif how == "yaml":
        step = {"export": {"format": "mine.py:text", "runtime": "mine.py:silent", "rounds": 1}}
        Path("recipe.yaml").write_text(yaml.safe_dump({"model": MODEL, "input": ["6"], "steps": [step]}))
        facts = run(Run(read_recipe("recipe.yaml"), Path("out")))["steps"][-1]["facts"]
    else:
        facts = compresskit.export(
            MODEL, format="mine.py:text", runtime="mine.py:silent", rounds=1, input="6", output="net.txt"
        )
        facts = getattr(facts, "facts", facts)
    written = Path("out/model.text") if how == "yaml" else Path("net.txt")
    assert written.read_text().startswith("graph()")
    assert facts["runtime"] == "mine.py:silent" and "written as text" in facts["notes"]


DETECTOR = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.body, self.box, self.score = nn.Linear(6, 12), nn.Linear(12, 4), nn.Linear(12, 1)

    def forward(self, x):
        x = self.body(x).relu()
        return {"boxes": self.box(x), "scores": self.score(x)}

def boxes():
    generator = torch.Generator().manual_seed(6)
    inputs = torch.randn(96, 6, generator=generator)
    targets = torch.cat([torch.ones(96, 1), inputs[:, :4].abs()], 1)
    return (inputs[:64], targets[:64]), (inputs[64:], targets[64:])

def detection(outputs, targets):
    scores = F.binary_cross_entropy_with_logits(outputs["scores"][:, 0], targets[:, 0])
    return scores + F.smooth_l1_loss(outputs["boxes"], targets[:, 1:])

def edges(boxes, targets):
    return (boxes - targets[:, 1:]).abs().mean(1)
edges.higher_is_better = False
"""


@pytest.mark.parametrize("way", WAYS)
def test_a_detection_loss_reads_every_output(mine, way):
    Path("detector.py").write_text(DETECTOR)
    shared = {"data": "detector.py:boxes", "task_loss": "detector.py:detection", "metric": "detector.py:edges"}
    options = {"epochs": 20, "lr": 0.1, "batch_size": 16}
    module, report = way("train", options, {**shared, "latency_rounds": 0}, "detector.py:Net")
    before, after = (part["metric"]["value"] for part in (report["original"], report["steps"][-1]["measurement"]))
    assert after < 0.7 * before
    assert bool((module(torch.randn(8, 6))["scores"] > 1).all())


OPERATION = """
import torch
from torch import nn
from compresskit.pruning.dependency.op_rules.table import pointwise
from compresskit.pruning.tables import OP_RULES

if not hasattr(torch.ops.outside, "halved"):  # defined again, it would pull the rug from under a model that is there

    @torch.library.custom_op("outside::halved", mutates_args=())
    def halved(x: torch.Tensor) -> torch.Tensor:
        return x / 2

    @halved.register_fake
    def _(x):
        return torch.empty_like(x)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
    def forward(self, x):
        return self.second(torch.ops.outside.halved(self.first(x)))
"""


@pytest.mark.parametrize("way", WAYS)
def test_a_rule_for_an_operation_stands_beside_it(mine, way, monkeypatch):
    monkeypatch.setattr(OP_RULES, "_registered", {})
    Path("unruled.py").write_text(OPERATION)
    shared = {"input": ["6"], "latency_rounds": 0}
    with pytest.raises(InputError, match="halved"):
        compresskit.prune("unruled.py:Net", ratio=0.5, **shared)
    Path("ruled.py").write_text(
        OPERATION.replace("outside", "outside2") + 'OP_RULES.register("outside2::halved", pointwise)\n'
    )
    module, _ = way("prune", {"ratio": 0.5}, shared, "ruled.py:Net")
    assert module.first.out_features == 4
    assert "outside2::halved" in OP_RULES


# -- other ways to add a row -----------------------------------------------------------------------------------------


def test_an_entry_point_of_an_installed_package(mine, tmp_path, monkeypatch):
    site = tmp_path / "site"
    info = site / "extra_rows-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "extra_rows.py").write_text(MINE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra-rows\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[compresskit.criteria]\nfrom-the-end = extra_rows:last_first\n")
    monkeypatch.syspath_prepend(str(site))
    module, _ = from_command_line("prune", {"criterion": "from-the-end", "ratio": 0.5, "reconstruct": "none"}, QUICK)
    assert torch.equal(module.first.weight, original().first.weight[:4])
    shown = CliRunner().invoke(cli, ["prune", "--help-all"]).output
    assert "from-the-end: from extra-rows" in " ".join(shown.split())


def test_a_function_of_the_session(mine):
    def first_units_go(group, evidence):
        return torch.arange(len(group), dtype=torch.float64)

    result = compresskit.prune(MODEL, criterion=first_units_go, ratio=0.5, reconstruct="none", **QUICK)
    assert torch.equal(result.model.first.weight, original().first.weight[4:])


# -- what is wrong with a row ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ("mine.py:none", "'mine.py' has no 'none'"),
        ("nowhere.py:f", "'nowhere.py' is not a Python file"),
        ("no_such_module_here:f", "cannot import 'no_such_module_here'"),
        ("mine.py:takes_one", "must take (group, evidence), and its signature (group) does not"),
        ("mine.py:MODEL", "'mine.py' has no 'MODEL'"),
        ("mine.py:wrong_shape", "must return scores of shape [8], one a unit, and returned a tensor of shape [9]"),
        ("mine.py:fails", "KeyError: 'nothing'"),
        ("l3", "unknown criterion 'l3'; did you mean 'l"),
    ],
)
def test_a_row_that_is_none_is_one_line(mine, criterion, message, capsys, monkeypatch):
    from compresskit.cli.main import main

    line = ["compresskit", "prune", MODEL, "--criterion", criterion, "--ratio", "0.5", "--input", "6", "-q"]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and len(error.splitlines()) == 1


def test_a_row_that_needs_data_asks_for_it(mine):
    with pytest.raises(InputError, match="criterion 'mine.py:seen' needs data"):
        compresskit.prune(MODEL, criterion="mine.py:seen", ratio=0.5, latency_rounds=0, input=["6"])


def test_a_changed_row_is_another_key(mine):
    from compresskit.pipeline.resume.keys import step_keys

    Path("recipe.yaml").write_text(
        yaml.safe_dump({"model": MODEL, "steps": [{"prune": {"ratio": 0.5, "criterion": "objects.py:f"}}]})
    )
    before = step_keys(read_recipe("recipe.yaml"))
    Path("objects.py").write_text(OBJECTS + "\n# changed\n")
    after = step_keys(read_recipe("recipe.yaml"))
    assert before[0] == after[0] and before[1] != after[1]


def registries() -> list[Registry]:
    from compresskit.core.costs import COSTS
    from compresskit.data.tables import AUGMENTATIONS, READERS
    from compresskit.decomposition import tables as decomposition
    from compresskit.distillation.tables import LOSSES
    from compresskit.evaluation import tables as evaluation
    from compresskit.export import tables as export
    from compresskit.pruning import tables as pruning
    from compresskit.quantization import tables as quantization
    from compresskit.search import tables as search

    found = [COSTS, AUGMENTATIONS, READERS, LOSSES]
    for module in (decomposition, evaluation, export, pruning, quantization, search):
        found += [value for value in vars(module).values() if isinstance(value, Registry)]
    return found


@pytest.mark.parametrize("registry", registries(), ids=lambda registry: f"{registry.kind}-{registry.group}")
def test_every_row_is_what_its_registry_says(registry):
    groups = [one.group for one in registries() if one.group and one._extends is None]
    assert len(groups) == len(set(groups))
    for name in registry._rows:
        assert registry.builtin(name)
        if registry.group and name not in ("auto", "none"):
            registry._verify(registry.load(name), name)
    assert not registry.group or "A row is" in registry.__doc__
