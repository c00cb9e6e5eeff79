import pytest
import torch
from pydantic import ValidationError

from compresskit.analysis.calibration.moments import MomentSums
from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data
from compresskit.pruning.allocation.layer_sparsity import erk, everything, lamp_scores
from compresskit.pruning.importance.weight_importance import (
    WeightEvidence,
    inverse_factor,
    n_of_m_mask,
    prune_with_update,
    row_mask,
    top_mask,
    wanda,
)
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context
from tests.tiny_transformers import tiny


def pruned(**options):
    loaded = load_model("builtin:digits_cnn", model_args={"width": 16})
    context = Context(loaded.clone(), data=open_data("digits", loaded.preprocessing))
    return prune(loaded, PruneOptions(**options), context)


def test_n_of_m_keeps_the_largest_of_each_group():
    scores = torch.tensor([[5.0, 1, 4, 2, 0, 0, 3, 9], [1, 2, 3, 4, 4, 3, 2, 1]])
    assert n_of_m_mask(scores, 2, 4).int().tolist() == [[1, 0, 1, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1, 0, 0]]


def test_n_of_m_with_a_remainder():
    assert n_of_m_mask(torch.tensor([[1.0, 2, 3, 4, 5]]), 2, 4).int().tolist() == [[0, 0, 1, 1, 1]]


@pytest.mark.parametrize(("keep", "count"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_top_mask_counts(keep, count):
    assert int(top_mask(torch.ones(2, 2), keep).sum()) == count


def test_lamp_scores_by_hand():
    # squares 1, 4, 9: 1/14, 4/13, 9/9
    torch.testing.assert_close(lamp_scores(torch.tensor([1.0, -2, 3])), torch.tensor([1 / 14, 4 / 13, 1.0]).double())


def test_erk_keeps_the_budget_and_caps_at_one():
    weights = {"a": torch.ones(4, 2), "b": torch.ones(100, 100)}
    density = erk(weights, weights, 0.3)
    assert density["a"] == 1.0
    assert sum(density[n] * w.numel() for n, w in weights.items()) == pytest.approx(0.3 * 10008)


def test_global_allocation_follows_the_scores():
    scores = {"a": torch.tensor([1.0, 2]), "b": torch.tensor([3.0, 4])}
    assert everything(scores, scores, 0.5) == {"a": 0.0, "b": 1.0}


def moments_of(x):
    sums = MomentSums()
    sums.update(x[:, None])
    return sums


def test_wanda_by_hand():
    x = torch.tensor([[3.0, 0], [4, 2]])  # norms over rms: sqrt(25 / 2), sqrt(4 / 2)
    scores = wanda(torch.tensor([[1.0, -5]]), WeightEvidence(moments_of(x)))
    torch.testing.assert_close(scores, torch.tensor([[12.5**0.5, 5 * 2**0.5]]))


@pytest.mark.parametrize("pattern", [(2, 4), None])
def test_updates_lower_the_output_error(pattern):
    x = torch.randn(500, 6, dtype=torch.float64) @ torch.randn(6, 16, dtype=torch.float64)
    x += 0.1 * torch.randn(500, 16, dtype=torch.float64)
    weight = torch.randn(8, 16, dtype=torch.float64)
    mask_of = lambda s, _: n_of_m_mask(s, *pattern) if pattern else top_mask(s, 0.5)  # noqa: E731
    updated = prune_with_update(weight, moments_of(x), mask_of, block=8)
    plain = weight * mask_of(weight.abs(), 0)
    error = lambda w: float((x @ (w - weight).T).square().sum())  # noqa: E731
    assert int((updated == 0).sum()) == 64
    assert error(updated) < 0.5 * error(plain)


@pytest.mark.integration
@pytest.mark.parametrize("saliency", ["magnitude", "random", "gradient", "wanda", "sparsegpt"])
def test_every_saliency_reaches_the_sparsity_and_stores_bitmaps(saliency):
    result = pruned(granularity="weight", ratio=0.75, saliency=saliency, samples=128)
    assert result.facts["sparsity"] == pytest.approx(0.75, abs=0.01)
    assert result.loaded.storage == dict.fromkeys(["0.weight", "3.weight", "7.weight", "12.weight"], "bitmap")
    assert any("no runtime was measured" in note for note in result.notes)
    weight = result.loaded.module[3].weight
    assert not torch.signbit(weight[weight == 0]).any()


@pytest.mark.parametrize("allocation", ["global", "lamp", "erk"])
def test_allocations_reach_the_sparsity_overall(allocation):
    result = pruned(granularity="weight", ratio=0.8, allocation=allocation)
    assert result.facts["sparsity"] == pytest.approx(0.8, abs=0.01)
    assert len({row["zeros"] for row in result.tables["sparse layers"]}) > 1


@pytest.mark.parametrize(("pattern", "kept"), [("2:4", 2), ("4:8", 4), ("1:3", 1)])
def test_every_group_of_m_keeps_n(pattern, kept):
    result = pruned(granularity="n:m", pattern=pattern, protect=["0"])
    m = int(pattern[2:])
    weight = result.loaded.module[3].weight.flatten(1)
    groups = weight[:, : weight.shape[1] // m * m].reshape(len(weight), -1, m)
    assert ((groups != 0).sum(2) == kept).all()
    assert "0.weight" not in result.loaded.storage


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "weight"}, "needs ratio"),
        ({"granularity": "n:m", "ratio": 0.5}, "pattern 2:4 says how much"),
        ({"granularity": "n:m", "pattern": "4:2"}, "0 < N < M"),
        ({"granularity": "weight", "ratio": 0.5, "criterion": "l1"}, "criterion would be ignored"),
        ({"ratio": 0.5, "saliency": "wanda"}, "saliency would be ignored"),
        ({"granularity": "n:m", "reconstruct": "inputs"}, "inputs is for granularity 'channel'"),
        ({"granularity": "block", "ratio": 0.5, "reconstruct": "block"}, "reconstruct would be ignored"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        PruneOptions(**options)


def test_a_saliency_that_needs_data_says_so():
    loaded = load_model("builtin:digits_mlp")
    with pytest.raises(InputError, match="saliency 'wanda' needs data"):
        prune(loaded, PruneOptions(granularity="weight", ratio=0.5, saliency="wanda"), Context(loaded))


def test_batchnorm_statistics_follow_the_zeros(digits_model):
    loaded = load_model(str(digits_model))
    data = open_data("digits", loaded.preprocessing)
    norms = sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in loaded.module.modules())
    for recalibrate, expected in (("auto", norms), ("never", 0)):
        options = PruneOptions(granularity="weight", ratio=0.7, samples=256, recalibrate=recalibrate)
        model = loaded.clone()
        result = prune(model, options, Context(loaded, data=data))
        assert norms > 0 and result.facts["batchnorm_layers_recalibrated"] == expected
        same = torch.equal(_first_norm(model).running_var, _first_norm(loaded).running_var)
        assert same == (recalibrate == "never")


def _first_norm(loaded):
    return next(layer for layer in loaded.module.modules() if isinstance(layer, torch.nn.BatchNorm2d))


@pytest.mark.integration
@pytest.mark.parametrize("options", [{"granularity": "weight", "ratio": 0.8}, {"granularity": "n:m"}])
def test_surviving_weights_are_tuned_and_zeros_stay(options, digits_model):
    original = load_model(str(digits_model))
    data = open_data("digits", original.preprocessing)
    images = torch.cat(data.calibration(128, seed=5))
    results, errors = {}, {}
    for how in ("none", "block"):
        steps = {"iterations": 30, "joint_iterations": 30, "reconstruction_samples": 512} if how == "block" else {}
        given = PruneOptions(saliency="wanda", samples=256, reconstruct=how, **steps, **options)
        results[how] = prune(original.clone(), given, Context(original, data=data))
        with torch.no_grad():
            errors[how] = float((results[how].loaded.module(images) - original.module(images)).square().mean())
    before, after = (results[how].loaded.module.state_dict() for how in ("none", "block"))
    for name in results["none"].loaded.storage:
        assert torch.equal(before[name] == 0, after[name] == 0)
        assert not torch.signbit(after[name][after[name] == 0]).any()
    assert errors["block"] < 0.7 * errors["none"]
    assert results["block"].facts["blocks_reconstructed"] > 0
    assert results["block"].tables["reconstructed blocks"] and "blocks_reconstructed" not in results["none"].facts


def test_a_group_of_m_is_chosen_after_the_columns_before_it_were_made_up_for():
    generator = torch.Generator().manual_seed(3)
    x = (
        torch.randn(200, 16, generator=generator, dtype=torch.float64)
        @ torch.randn(16, 16, generator=generator).double()
    )
    weight = torch.randn(6, 16, generator=generator, dtype=torch.float64)
    moments = moments_of(x)
    factor = inverse_factor(moments)
    expected = weight.clone()
    for start in range(0, 16, 4):  # every column's update reaches all columns behind it at once
        mask = n_of_m_mask((expected[:, start : start + 4] / factor.diagonal()[start : start + 4]).square(), 2, 4)
        for j in range(start, start + 4):
            lost = torch.where(mask[:, j - start], 0.0, expected[:, j]) / factor[j, j]
            expected[:, j] *= mask[:, j - start]
            expected[:, j + 1 :] -= torch.outer(lost, factor[j, j + 1 :])

    def mask_of(scores, start):
        return n_of_m_mask(scores, 2, 4)

    found = prune_with_update(weight, moments, mask_of, 8, 4)
    assert torch.allclose(found, expected, atol=1e-10)
    assert not torch.equal(found == 0, prune_with_update(weight, moments, mask_of, 8) == 0)


def test_wanda_compares_the_inputs_of_each_output():
    mask = row_mask(torch.tensor([[4.0, 3.0, 2.0, 1.0], [40.0, 10.0, 30.0, 20.0]]), 0.5)
    assert mask.tolist() == [[True, True, False, False], [True, False, True, False]]
    result = pruned(granularity="weight", ratio=0.5, saliency="wanda", samples=128, allocation="uniform")
    weight = result.loaded.module[12].weight
    assert set((weight == 0).sum(1).tolist()) == {weight.shape[1] // 2}


@pytest.mark.integration
def test_a_head_that_shares_its_weights_with_an_embedding_stays_dense(tmp_path):
    loaded = tiny(tmp_path / "tied", tie_word_embeddings=True)
    result = prune(loaded, PruneOptions(granularity="n:m", reconstruct="none"), Context(loaded.clone()))
    assert not (loaded.module.lm_head.weight[1:] == 0).any()  # the first is that of padding
    assert (loaded.module.model.layers[0].mlp.up_proj.weight == 0).float().mean() == 0.5
    assert "lm_head stays dense: it shares its weights with an embedding" in result.notes


def test_causal_models_take_more_positions_of_fewer_examples():
    found = PruneOptions(ratio=0.5).for_causal_models()
    assert (found.samples, found.positions_per_sample) == (128, 128)
    told = PruneOptions(ratio=0.5, samples=99, positions_per_sample=7).for_causal_models()
    assert (told.samples, told.positions_per_sample) == (99, 7)
