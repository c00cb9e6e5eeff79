import copy

import pytest
import torch
from torch import nn

from compresskit.analysis.calibration.block_walk.activation_cache import ActivationCache
from compresskit.analysis.calibration.block_walk.block_step import Held
from compresskit.analysis.calibration.block_walk.blocks import Block, find_blocks
from compresskit.artifact.source import load_model
from compresskit.core.reporting.phases import phase, timeline
from compresskit.core.types import Loaded, Preprocessing
from compresskit.data import loaders
from compresskit.data.dataset import Data, open_data
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.recovery.recovery import refit_kind
from compresskit.pruning.recovery.refit import Fit, quickly_refitted, refit, refit_all
from compresskit.pruning.recovery.sampled_outputs import record_targets, refittable
from compresskit.pruning.structured.prune import prune
from compresskit.training.batchnorm import estimate_batchnorm
from compresskit.training.context import Context


class Ear:
    """Remembers what phases say."""

    def __init__(self):
        self.texts = []

    def changed(self, phases):
        self.texts += [one.text for one in phases]


WHOLE = Block(("",), (), "model", (), ())


def _held(batches):
    return Held(ActivationCache(), [((batch,), {}) for batch in batches])


def _targets(module, names, batches, points=1):
    generator = torch.Generator().manual_seed(0)
    return record_targets(module, names, map(module, batches), points=points, generator=generator)


def test_refit_finds_the_weights_that_made_the_targets():
    whole, cut = nn.Sequential(nn.Linear(6, 4)), nn.Sequential(nn.Linear(6, 4))
    batches = [torch.randn(50, 6) for _ in range(4)]
    targets = _targets(whole, ["0"], batches)
    left = refit(cut, WHOLE, "0", targets["0"], _held(batches), Fit({}, 0.0))
    assert left < 1e-9
    torch.testing.assert_close(cut[0].weight, whole[0].weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cut[0].bias, whole[0].bias, rtol=1e-4, atol=1e-4)


def test_the_constant_of_a_layer_without_bias_goes_into_the_batchnorm_behind_it():
    """Two of six inputs are lost; what their mean contributed must reach the layers behind."""
    whole = nn.Sequential(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4)).eval()
    batches = [torch.randn(50, 6) + 3 for _ in range(4)]
    estimate_batchnorm(whole, batches)
    targets = _targets(whole, ["0"], batches)
    assert targets["0"].norm == "1"
    cut = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4)).eval()
    cut[1].load_state_dict(whole[1].state_dict())
    fewer = [x[:, :4] for x in batches]
    refit(cut, WHOLE, "0", targets["0"], _held(fewer), Fit({}, 0.0))
    expected, actual = whole(torch.cat(batches)).mean(0), cut(torch.cat(fewer)).mean(0)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


class _Residual(nn.Module):
    """A stem, then a branch added to what the stem gave."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.stem, self.branch = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.norm = norm

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.branch(x))
        y += x
        return y.relu()


@pytest.mark.parametrize("norm", [nn.Identity(), nn.BatchNorm1d(6)], ids=["bare", "batchnorm"])
def test_a_residual_branch_takes_up_what_its_shortcut_lacks(norm):
    """The cut model's shortcut is twice what it should be; only the branch can mend the sum, and can do so exactly."""
    whole = _Residual(norm).eval()
    batches = [torch.randn(60, 6) for _ in range(4)]
    estimate_batchnorm(whole, batches)
    cut = copy.deepcopy(whole)
    cut.stem.weight.data *= 2
    assert (
        refit_all(
            whole,
            cut,
            find_blocks(cut, batches[0]),
            ["branch"],
            batches,
            Fit({}, 0.0),
            points=1,
            generator=torch.Generator(),
        )
        == 1
    )
    x = torch.cat(batches)
    torch.testing.assert_close(cut(x), whole(x), rtol=1e-3, atol=1e-3)


class _Mixes(nn.Module):
    """Five tokens; one layer mixes them, so that its positions are the channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.tokens, self.last = nn.Linear(6, channels), nn.Linear(5, 5), nn.Linear(channels, 3)

    def forward(self, x):
        return self.last(self.tokens(self.first(x).relu().mT).mT)


@pytest.mark.parametrize("points", [1, 100])
def test_a_layer_whose_positions_are_channels_that_went_is_left_as_it_is(points):
    whole, cut = _Mixes(8).eval(), _Mixes(4).eval()
    tokens, last = cut.tokens.weight.clone(), cut.last.weight.clone()
    batches = [torch.randn(20, 5, 6) for _ in range(3)]
    done = refit_all(
        whole, cut, find_blocks(cut, batches[0]), ["tokens", "last"], batches, Fit({}, None), points=points,
        generator=torch.Generator(),
    )  # fmt: skip
    assert done == 1 and torch.equal(cut.tokens.weight, tokens) and not torch.equal(cut.last.weight, last)


class _Twice(nn.Module):
    """A layer that runs twice, between two that run once."""

    def __init__(self):
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.last(self.shared(self.shared(self.first(x).relu()).relu()))


class _Overwrites(_Residual):
    """What the branch read is gone when the branch is added."""

    def forward(self, x):
        x = self.stem(x)
        shortcut = x.clone()
        y = self.norm(self.branch(x))
        x.zero_()
        return y + shortcut


@pytest.mark.integration
@pytest.mark.parametrize("recorded", ["at once", "block by block"])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: load_model("builtin:cifar_resnet20").module, (3, 32, 32)),
        (lambda: load_model("builtin:digits_cnn").module, (1, 8, 8)),
        (_Twice, (6,)),
        (lambda: _Overwrites(nn.BatchNorm1d(6)), (6,)),
    ],
    ids=["resnet", "cnn", "twice", "overwrites"],
)
def test_block_by_block_layers_are_refitted_as_if_the_whole_model_ran_for_each(make, shape, recorded, monkeypatch):
    if recorded == "block by block":
        monkeypatch.setattr("compresskit.pruning.recovery.refit._RECORDED_AT_ONCE", 0)
    torch.manual_seed(0)
    whole = make().eval()
    batches = [torch.randn(count, *shape) for count in (20, 30, 14)]
    estimate_batchnorm(whole, batches)
    names = [name for name, layer in whole.named_modules() if refittable(layer)]
    cut = copy.deepcopy(whole)
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter.add_(0.2 * parameter.std().nan_to_num() * torch.randn_like(parameter))
    apart, fit, heard = copy.deepcopy(cut), Fit({}, 1e-3), Ear()
    targets = _targets(whole, names, batches, points=16)
    for name, target in targets.items():
        refit(apart, WHOLE, name, target, _held(batches), fit)
    generator = torch.Generator()
    with timeline(heard), phase("refit"):
        count = refit_all(whole, cut, find_blocks(cut, batches[0]), names, batches, fit, points=16, generator=generator)
    assert count == len(names) and heard.texts[-1] == f"{count} of {len(names)} layers refitted"
    x = torch.cat(batches)
    torch.testing.assert_close(cut(x), apart(x), rtol=1e-3, atol=1e-3)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "samples", "kind"),
    [
        ("digits_cnn", None, "none"),  # without data
        ("digits_cnn", 100, "sequential"),  # 1,600 samples for 1,152 columns: the ridge is chosen on samples left out
        ("digits_cnn", 1000, "sequential"),
        ("digits_mlp", 1000, "sequential"),
    ],
)
def test_auto_refits_as_data_allow(name, samples, kind):
    loaded = load_model(f"builtin:{name}")
    data = open_data("digits", loaded.preprocessing) if samples else None
    options = PruneOptions(ratio=0.5, samples=samples or 2048)
    context = Context(loaded.clone(), data=data)
    assert refit_kind(loaded, options, context) == kind
    result = prune(loaded, options, context)
    assert result.facts["refit"] == kind and bool(result.facts["layers_refitted"]) == (kind != "none")


def test_a_quick_refit_has_few_activations():
    model = load_model("builtin:cifar_resnet20")
    assert quickly_refitted(model.module, model.example, examples=2048)
    assert not quickly_refitted(model.module, model.example, examples=100_000)


class _FewForTheLast(nn.Module):
    """A convolution with 64 positions an example, then a classifier with one."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3), nn.Linear(64, 10)

    def forward(self, x):
        return self.last(self.second(self.first(x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("way", ["inputs", "sequential"])
def test_a_layer_with_few_samples_does_not_keep_the_others_from_being_refitted(way):
    """Forty images: 640 samples for 288 columns of the second layer, 40 for 64 columns of the last."""
    torch.manual_seed(0)
    module = _FewForTheLast().eval()
    loaded = Loaded(module, {}, torch.zeros(1, 1, 8, 8))
    images = torch.randn(40, 1, 8, 8)
    splits = loaders.splits_of(((images, torch.zeros(40).long()), (images, torch.zeros(40).long())), "images")
    data = Data("images", splits, Preprocessing())
    whole = copy.deepcopy(module)
    cut = loaded.clone()
    plain = loaded.clone()
    for one, reconstruct in ((cut, way), (plain, "none")):
        options = PruneOptions(ratio=0.5, samples=40, reconstruct=reconstruct)
        facts = prune(one, options, Context(one.clone(), data=data)).facts
    fresh = torch.randn(200, 1, 8, 8)
    error = (cut.module(fresh) - whole(fresh)).square().mean()
    assert error < 0.5 * (plain.module(fresh) - whole(fresh)).square().mean()
    assert facts["refit"] == "none"
