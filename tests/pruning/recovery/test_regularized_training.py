import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data
from compresskit.pruning.dependency.graph import build_graph
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.recovery.regularized_training import (
    SparseObjective,
    Units,
    group_lasso,
    growing,
    slimming,
    sparsify,
    units_of,
)
from compresskit.pruning.structured.prune import choose_units, prune
from compresskit.pruning.tables import REGULARIZERS
from compresskit.training.context import Context


def units(squares, scales=(), goes=None, elements=4):
    squares = torch.tensor(squares, requires_grad=True)
    return Units(
        squares, elements, torch.tensor(scales or [[0.0] * len(squares)]), torch.tensor(goes or [False] * len(squares))
    )


def test_penalties_by_hand():
    assert group_lasso(units([9.0, 16.0]), 0.0).item() == pytest.approx(1e-4 * 2 * (3 + 4))
    assert slimming(units([1.0, 1.0], scales=[[0.5, 2.0], [1.0, 0.0]]), 0.0).item() == pytest.approx(1e-4 * 3.5)
    assert growing(units([9.0, 16.0], goes=[False, True]), 0.25).item() == pytest.approx(0.5 * 0.25 * 16)


def test_the_lasso_has_a_finite_gradient_at_zero():
    dead = units([0.0, 4.0])
    group_lasso(dead, 0.0).backward()
    assert torch.isfinite(dead.squares.grad).all()


def test_units_of_a_group_add_up_to_the_norm_of_all_weights_that_hold_them():
    loaded = load_model("builtin:cifar_plain20")
    graph = build_graph(loaded.module, loaded.example)
    group = graph.find("layer1.0.conv1")
    tensors = dict(loaded.module.named_parameters())
    found = units_of(group, torch.zeros(len(group), dtype=torch.bool), tensors)
    first, second = loaded.module.layer1[0].conv1.weight, loaded.module.layer1[0].conv2.weight
    wanted = first.square().sum((1, 2, 3)) + second.square().sum((0, 2, 3))
    assert torch.allclose(found.squares, wanted)
    assert found.elements == first[0].numel() + second[:, 0].numel()
    assert torch.allclose(found.scales, loaded.module.layer1[0].bn1.weight.abs()[None])


@pytest.mark.parametrize("kind", ["group-lasso", "slimming", "growing"])
def test_training_lowers_the_penalty_and_keeps_the_task(kind, digits_model):
    loaded = load_model(str(digits_model))
    data = open_data("digits", loaded.preprocessing)
    strength = {"growing": 1, "group-lasso": 20, "slimming": 500}[kind]
    options = PruneOptions(ratio=0.5, sparsify=kind, sparsify_epochs=2, sparsify_strength=strength, batch_size=64)
    graph = build_graph(loaded.module, loaded.example)
    keep = choose_units(loaded, graph, options, Context(loaded, data=data)).keep
    objective = SparseObjective(graph, keep, REGULARIZERS.load(kind), strength)
    objective.begin_step(torch.zeros(1), 9, 10)
    batch = next(iter(data.batches("train", batch_size=64)))
    objective(loaded.module, *batch)
    before = objective.parts["penalty"]
    facts = sparsify(loaded, graph, keep, options, Context(loaded, data=data))
    objective(loaded.module, *batch)
    assert 0 < objective.parts["penalty"] < 0.97 * before
    assert facts["history"][-1]["loss_task"] < 0.3 and facts["history"][-1]["loss_penalty"] > 0


def test_growing_regularization_makes_the_cut_itself_harmless(digits_model):
    from compresskit.evaluation.metrics import make_metric

    loaded = load_model(str(digits_model))
    data, metric = open_data("digits", loaded.preprocessing), make_metric("top1")
    common = {"ratio": 0.6, "round_to": 1, "recalibrate": "never", "scope": "local"}

    def after(**options):
        model = loaded.clone()
        prune(model, PruneOptions(**common, **options), Context(loaded, data=data))
        return metric(model.module, data.batches("test", batch_size=128)).value

    trained = after(sparsify="growing", sparsify_epochs=8, lr=0.05, batch_size=32)
    assert trained > after() + 0.05 and trained > 0.85


def test_refusals(digits_model):
    with pytest.raises(ValidationError, match="sparsify_epochs would be ignored"):
        PruneOptions(ratio=0.5, sparsify_epochs=2)
    with pytest.raises(ValidationError, match="did you mean 'group-lasso'"):
        PruneOptions(ratio=0.5, sparsify="group-laso")
    with pytest.raises(ValidationError, match="single cut"):
        PruneOptions(ratio=0.5, sparsify="slimming", steps=2, schedule="cubic")
    loaded = load_model(str(digits_model))
    with pytest.raises(InputError, match="needs data"):
        prune(loaded, PruneOptions(ratio=0.5, sparsify="slimming"), Context(loaded))
    assert np.isfinite([p.sum().item() for p in loaded.module.parameters()]).all()
