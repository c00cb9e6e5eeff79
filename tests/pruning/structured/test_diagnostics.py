import pytest

from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data
from compresskit.evaluation.metrics import METRICS, Metric
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import kept_shares, prune
from compresskit.training.context import Context


def look(name, context=None, **options):
    loaded = load_model(f"builtin:{name}")
    before = {k: v.clone() for k, v in loaded.module.state_dict().items()}
    result = prune(loaded, PruneOptions(**options), context or Context(loaded))
    assert all(v.equal(before[k]) for k, v in loaded.module.state_dict().items()) and loaded.edits == []
    return result


def test_explain_names_what_ties_each_member():
    result = look("cifar_resnet20", explain="layer1.0.conv2")
    assert result.facts["block"] == "layer1.0"
    rows = next(iter(result.tables.values()))
    by_tensor = {(row["tensor"], row["dimension"]): row for row in rows}
    assert result.facts["groups"] == ["conv1", "layer1.0.conv1"]
    assert by_tensor["conv1.weight", 0]["tied by"] == "it makes them"
    assert by_tensor["layer1.0.conv2.weight", 0]["role"] == "makes"
    assert (
        "add" in by_tensor["layer1.0.bn2.weight", 0]["tied by"]
        or "batch_norm" in by_tensor["layer1.0.bn2.weight", 0]["tied by"]
    )
    assert by_tensor["layer1.0.conv2.weight", 1]["role"] == "reads"
    assert "convolution" in by_tensor["layer1.0.conv2.weight", 1]["tied by"]


def test_explain_says_why_outputs_stay():
    result = look("digits_mlp", explain="5")
    assert result.tables or result.notes


def test_explain_of_an_unknown_layer_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'conv1'"):
        look("cifar_resnet20", explain="conv_1")


@pytest.mark.integration
def test_sensitivity_measures_every_group_and_caches(tmp_path):
    loaded = load_model("builtin:digits_mlp")
    data = open_data("digits", loaded.preprocessing)
    context = Context(loaded, data=data, metric=Metric("top1", METRICS.load("top1")), folder=tmp_path)
    result = look("digits_mlp", context, sensitivity="measure")
    rows = result.tables["sensitivity"]
    assert len(rows) == 2 and all(0 <= row[key] <= 1 for row in rows for key in ("-25%", "-50%", "-75%"))
    assert (tmp_path / "sensitivity.json").is_file()
    again = look("digits_mlp", context, sensitivity="measure")
    assert again.tables == result.tables


def test_sensitivity_needs_data():
    with pytest.raises(InputError, match="sensitivity needs data"):
        look("digits_mlp", sensitivity="measure")


@pytest.mark.parametrize(
    ("schedule", "shares"), [("linear", [0.875, 0.75, 0.625, 0.5]), ("cubic", [0.7109375, 0.5625, 0.5078125, 0.5])]
)
def test_schedules_end_at_the_target(schedule, shares):
    assert kept_shares(schedule, 4, 0.5) == pytest.approx(shares)


def test_recovery_runs_between_cuts():
    loaded = load_model("builtin:digits_mlp")
    calls = []
    context = Context(loaded.clone(), recover=lambda model: calls.append(model.module[1].out_features))
    result = prune(loaded, PruneOptions(ratio=0.5, schedule="cubic", steps=3), context)
    assert len(calls) == 2 and calls[0] > calls[1] >= result.loaded.module[1].out_features
