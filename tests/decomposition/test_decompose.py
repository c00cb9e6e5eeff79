"""The step as the runner calls it: what it replaces, what it leaves, budgets kept, artifacts that rebuild."""

import copy

import pytest
import torch
from torch import nn

import compresskit
from compresskit.analysis.measure.measure import macs, parameter_count
from compresskit.artifact import edits
from compresskit.artifact.source import load_model
from compresskit.core.errors import GuardMissed, InputError
from compresskit.core.types import Loaded
from compresskit.data.dataset import open_data
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.options import DecomposeOptions
from compresskit.model.builders import build
from compresskit.training.context import Context


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


def _digits_cnn():
    return load_model("builtin:digits_cnn", model_args={"width": 16})


def _rebuilt(loaded):
    fresh = edits.replay(build(loaded.source).eval(), loaded.edits)
    fresh.load_state_dict(loaded.module.state_dict())
    return fresh


def _run(loaded, data=None, **options):
    if "target_latency" not in options and "recompose" not in options:
        options = {"slower_layers": "allow", **options}  # what is tested must not hang on this machine's timing
    return decompose(loaded, DecomposeOptions(**options), Context(original=loaded.clone(), data=data))


@pytest.mark.integration
@pytest.mark.parametrize(
    "options",
    [
        {"energy": 0.7},
        {"kind": "channel-svd", "keep_ratio": 0.5},
        {"kind": "tucker2", "rank": 6},
        {"rank_by": "evbmf", "kind": "tucker2"},
        {"max_error": 0.5, "round_to": 4},
        {"kind": "spatial-svd", "target_macs": 0.6},
        {"kind": "channel-svd", "target_params": 0.6, "objective": "activation"},
        {"target_macs": 0.6, "objective": "activation", "inputs": "compressed", "consider": ["svd", "tucker2"]},
        {"kind": "channel-svd", "keep_ratio": 0.5, "objective": "nonlinear", "norms": "reestimate"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_the_edits_rebuild_the_model_and_every_replaced_layer_costs_less(options, digits):
    loaded = _digits_cnn()
    macs_before, params_before = macs(loaded.module, loaded.example), parameter_count(loaded.module)
    reads_data = any(name in options for name in ("objective", "target_macs", "target_params"))
    result = _run(loaded, digits, **({"calibration_samples": 64} if reads_data else {}), **options)
    assert torch.equal(_rebuilt(loaded)(loaded.example), loaded.module(loaded.example))
    assert loaded.edits and result.facts["layers_decomposed"] == len(loaded.edits)
    for row in result.tables["choices"]:
        assert row["kind"] == "kept" or (row["macs"] < row["macs_before"] and row["params"] < row["params_before"])
    saved = sum(row["macs_before"] - row["macs"] for row in result.tables["choices"])
    assert macs(loaded.module, loaded.example) == macs_before - saved
    assert parameter_count(loaded.module) < params_before
    if "target_macs" in options:
        assert 0.5 < result.facts["macs_share"] <= options["target_macs"]
    if "target_params" in options:
        assert result.facts["params_share"] <= options["target_params"]
    if "round_to" in options:
        assert all(edit["rank"] % 4 == 0 for edit in loaded.edits if isinstance(edit["rank"], int))


def test_energy_is_kept_layer_by_layer_and_more_energy_costs_more():
    shares = []
    for energy in (0.5, 0.8):
        loaded = _digits_cnn()
        original = copy.deepcopy(loaded.module)
        result = _run(loaded, energy=energy, kind="channel-svd")
        for row in result.tables["choices"]:
            if row["kind"] == "channel-svd":
                weight = original.get_submodule(row["layer"]).weight.flatten(1).double()
                singular = torch.linalg.svdvals(weight).square()
                kept = singular[: int(row["rank"])].sum() / singular.sum()
                fewer = singular[: int(row["rank"]) - 1].sum() / singular.sum()
                assert fewer < energy <= kept
        shares.append(result.facts["macs_share"])
    assert shares[0] < shares[1] < 1


def test_data_aware_factors_change_the_output_less(digits):
    errors = {}
    for objective in ("weight", "activation"):
        loaded = _digits_cnn()
        inputs = digits.calibration(64, seed=5)[0]
        wanted = loaded.module(inputs)
        _run(loaded, digits, kind="channel-svd", keep_ratio=0.4, objective=objective)
        errors[objective] = (loaded.module(inputs) - wanted).square().mean().item()
    assert errors["activation"] < 0.5 * errors["weight"]


@pytest.mark.integration
def test_a_budget_with_data_fits_layers_to_what_arrives_unless_told_otherwise(digits):
    fit = {"objective": "activation", "inputs": "compressed"}
    options = DecomposeOptions(target_macs=0.5).with_data()
    assert {name: getattr(options, name) for name in fit} == fit
    assert DecomposeOptions(target_macs=0.5, inputs="original").with_data().inputs == "original"
    for given in ({"target_macs": 0.5, "objective": "weight"}, {"energy": 0.8}):
        assert DecomposeOptions(**given).with_data() == DecomposeOptions(**given)
    errors = {}
    inputs = digits.calibration(64, seed=5)[0]
    for name, given in (("default", {}), ("weights", {"objective": "weight"})):
        loaded = _digits_cnn()
        wanted = loaded.module(inputs)
        result = _run(loaded, digits, target_macs=0.5, kind="channel-svd", **given)
        errors[name] = (loaded.module(inputs) - wanted).square().mean().item()
        assert result.facts["objective"] == given.get("objective", "activation")
    assert errors["default"] < errors["weights"]


@pytest.mark.integration
def test_without_a_budget_a_note_says_how_far_the_outputs_moved(digits):
    with_data = _run(_digits_cnn(), digits).notes
    assert any("no budget was given" in note and "outputs moved by" in note for note in with_data)
    without = _run(_digits_cnn()).notes
    assert any("no budget was given" in note and "outputs moved by" not in note for note in without)
    assert not any("no budget was given" in note for note in _run(_digits_cnn(), digits, energy=0.9).notes)


class _Odd(nn.Module):
    """What must be left alone: a tied head, fused attention, a layer held twice, a layer read from outside."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(40, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.body = nn.Linear(16, 16)
        self.alias = self.body
        self.peeked = nn.Linear(16, 16)
        self.plain = nn.Linear(16, 16)
        self.unused = nn.Linear(16, 16)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        x = self.table(ids)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = self.alias(self.body(x))
        x = self.peeked(x.to(self.peeked.weight.dtype))
        return self.head(self.plain(x))


def _odd():
    return Loaded(_Odd().eval(), {"kind": "module"}, torch.arange(6)[None])


def test_layers_that_cannot_be_replaced_are_left_and_named():
    loaded = _odd()
    result = _run(loaded, kind="svd", keep_ratio=0.5, embeddings="decompose")
    assert [edit["target"] for edit in loaded.edits] == ["plain"]
    notes = "\n".join(result.notes)
    for name, reason in {
        "table": "tied", "head": "tied", "body": "several places", "peeked": "reads its weight directly",
        "unused": "does not reach it",
    }.items():  # fmt: skip
        assert any(note.startswith(f"{name} left as it is") and reason in note for note in result.notes), notes
    loaded.module(loaded.example)


class _Upsampling(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 12, 4, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.out = nn.ConvTranspose2d(12, 6, 3, padding=1)

    def forward(self, x):
        return self.out(self.norm(self.up(self.down(x).relu())).relu())


class _Images:
    """Calibration images with neighbouring pixels alike."""

    def size(self, split, at_most=None):
        return 32

    def calibration(self, samples, *, batch_size=64, seed=0):
        generator = torch.Generator().manual_seed(seed)
        small = torch.randn(32, 3, 4, 4, generator=generator)
        return list(nn.functional.interpolate(small, scale_factor=2, mode="bilinear").split(16))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("channel-svd", {"objective": "activation"}),
        ("input-svd", {"objective": "nonlinear", "inputs": "compressed"}),
        ("spatial-svd", {}),
        ("tucker2", {}),
        ("cp", {}),
        ("tensor-train", {}),
    ],
)
def test_transposed_convolutions_are_decomposed(kind, options):
    torch.manual_seed(0)
    loaded = Loaded(_Upsampling().eval(), {}, torch.randn(1, 3, 8, 8))
    plain, before = copy.deepcopy(loaded.module), macs(loaded.module, loaded.example)
    result = _run(loaded, _Images(), kind=kind, keep_ratio=0.5, layers=["up", "out"], **options)
    assert [edit["target"] for edit in loaded.edits] == ["up", "out"]
    saved = sum(row["macs_before"] - row["macs"] for row in result.tables["choices"])
    assert macs(loaded.module, loaded.example) == before - saved
    fresh = edits.replay(copy.deepcopy(plain), loaded.edits)
    fresh.load_state_dict(loaded.module.state_dict())
    wanted = loaded.module(loaded.example)
    assert torch.equal(fresh(loaded.example), wanted)
    _run(loaded, recompose=True)
    assert type(loaded.module.up) is nn.ConvTranspose2d
    torch.testing.assert_close(loaded.module(loaded.example), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.integration
def test_gpt2s_linear_layers_are_decomposed_with_and_without_data():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=24, n_layer=1, n_head=2)
    torch.manual_seed(0)
    module = transformers.GPT2Model(config).eval()
    example = {"input_ids": torch.arange(12)[None]}

    class Texts:
        def size(self, split, at_most=None):
            return 8

        def calibration(self, samples, *, batch_size=64, seed=0):
            generator = torch.Generator().manual_seed(seed)
            return [{"input_ids": torch.randint(0, 50, (8, 12), generator=generator)}]

    for options in ({"keep_ratio": 0.5}, {"target_macs": 0.7, "objective": "activation"}):
        loaded = Loaded(copy.deepcopy(module), {}, example)
        result = _run(loaded, Texts(), kind="svd", **options)
        targets = {edit["target"] for edit in loaded.edits}
        assert "h.0.attn.c_attn" in targets and type(loaded.module.h[0].attn.c_attn[0]) is nn.Linear
        assert result.facts["macs_share"] <= options.get("target_macs", 0.7)
        fresh = edits.replay(copy.deepcopy(module), loaded.edits)
        fresh.load_state_dict(loaded.module.state_dict())
        assert torch.equal(fresh(**example).last_hidden_state, loaded.module(**example).last_hidden_state)


def test_tensor_train_of_linear_layers_is_taken_when_asked_for_and_stays_whole_when_decomposed_again():
    def model():
        torch.manual_seed(0)
        return Loaded(nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 30)).eval(), {}, torch.randn(2, 48))

    kinds = [_run(model(), keep_ratio=0.5, **kind).facts["kinds"] for kind in ({}, {"kind": "tensor-train"})]
    assert kinds == [{"svd": 2}, {"tensor-train": 2}]
    loaded = model()
    _run(loaded, consider=["tensor-train"], keep_ratio=0.5)
    names = {type(layer).__name__ for layer in loaded.module.modules()}
    assert "FoldedLinear" in names
    before = macs(loaded.module, loaded.example)
    _run(loaded, kind="svd", keep_ratio=0.5)
    assert macs(loaded.module, loaded.example) < before


def test_embeddings_are_decomposed_only_when_asked_for():
    def model():
        return Loaded(nn.Sequential(nn.Embedding(100, 16), nn.Linear(16, 16)).eval(), {}, torch.arange(5)[None])

    loaded = model()
    _run(loaded, kind="svd", keep_ratio=0.5)
    assert [edit["target"] for edit in loaded.edits] == ["1"]
    loaded = model()
    _run(loaded, kind="svd", keep_ratio=0.5, embeddings="decompose")
    assert [edit["target"] for edit in loaded.edits] == ["0", "1"]


def test_tiny_layers_stay_because_no_rank_costs_less():
    loaded = Loaded(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).eval(), {}, torch.zeros(1, 2))
    result = _run(loaded, kind="svd", energy=0.1)
    assert loaded.edits == []
    assert any("no rank at which they cost less" in note for note in result.notes)


@pytest.mark.integration
def test_recompose_gives_plain_layers_back():
    loaded = _digits_cnn()
    _run(loaded, energy=0.6)
    wanted = loaded.module(loaded.example)
    _run(loaded, recompose=True)
    assert not any(isinstance(child, nn.Sequential) for child in loaded.module.children())
    torch.testing.assert_close(loaded.module(loaded.example), wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(_rebuilt(loaded)(loaded.example), loaded.module(loaded.example))
    with pytest.raises(InputError, match="no factored layers"):
        _run(_digits_cnn(), recompose=True)


def test_a_decomposed_model_can_be_decomposed_again_and_recomposed():
    loaded = _digits_cnn()
    _run(loaded, energy=0.8, kind="channel-svd")
    _run(loaded, energy=0.6, kind="spatial-svd")
    assert torch.equal(_rebuilt(loaded)(loaded.example), loaded.module(loaded.example))
    wanted = loaded.module(loaded.example)
    _run(loaded, recompose=True)
    torch.testing.assert_close(loaded.module(loaded.example), wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(_rebuilt(loaded)(loaded.example), loaded.module(loaded.example))


def test_given_ranks_hold_for_the_layers_that_their_patterns_match_first():
    loaded = _digits_cnn()
    result = _run(loaded, kind="channel-svd", ranks={"3": 5, "[37]": 9})
    ranks = {row["layer"]: row["rank"] for row in result.tables["choices"] if row["kind"] != "kept"}
    assert ranks == {"3": "5", "7": "9"}
    assert [(edit["target"], edit["rank"]) for edit in loaded.edits] == [("3", 5), ("7", 9)]
    with pytest.raises(InputError, match="no layer matches 'convv'"):
        _run(_digits_cnn(), ranks={"convv": 3})


def test_a_given_rank_that_saves_nothing_leaves_the_layer():
    loaded = _digits_cnn()
    result = _run(loaded, kind="channel-svd", ranks={"3": 1000})
    assert not loaded.edits and any("no rank at which they cost less and stay: 3" in note for note in result.notes)


def test_cp_reports_its_sensitivity():
    loaded = _digits_cnn()
    result = _run(loaded, kind="cp", keep_ratio=0.5, layers=["3"])
    first, middle, last = (link.weight.double().flatten(1) for link in loaded.module[3])
    weight = torch.einsum("or,ri,rk->oik", last, first, middle)
    squares = [last.square().sum(0), first.square().sum(1), middle.square().sum(1)]
    expected = 32 * squares[1] * squares[2] + 16 * squares[0] * squares[2] + 9 * squares[0] * squares[1]
    ratio = (expected.sum() / weight.square().sum()).item()
    assert result.facts["cp_sensitivity"] == {"3": pytest.approx(ratio, abs=1e-3)}


def test_cp_of_a_border_rank_kernel_stays_far_from_degenerate_in_every_group():
    # exact fits of rank 2 only exist in the limit of two components that grow without bound and cancel
    a, b = torch.eye(4)[:2]
    taps = torch.eye(9)[:2]
    three = ((a, a, taps[1]), (a, b, taps[0]), (b, a, taps[0]))
    kernel = sum(torch.einsum("i,j,k->ijk", *one) for one in three).reshape(4, 4, 3, 3)
    plain, grouped = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, groups=2, bias=False)
    with torch.no_grad():
        plain.weight.copy_(kernel)
        grouped.weight.copy_(torch.cat([kernel, 3 * kernel]))
    net = nn.Sequential(plain, nn.Conv2d(4, 8, 1), grouped).eval()
    found = _run(Loaded(net, {}, torch.randn(1, 4, 8, 8)), kind="cp", rank=2, layers=["0", "2"]).facts["cp_sensitivity"]
    assert found["0"] == pytest.approx(found["2"], rel=1e-3)
    # one component without any cancelling has the sum of the sizes, 4 + 4 + 9
    assert 17 < found["0"] < 2 * 17


def test_a_budget_in_bytes_bounds_what_is_stored():
    loaded = _digits_cnn()
    before = sum(t.numel() * t.element_size() for t in loaded.module.state_dict().values())
    _run(loaded, kind="channel-svd", target_bytes=int(0.6 * before))
    assert 0.5 * before < sum(t.numel() * t.element_size() for t in loaded.module.state_dict().values()) <= 0.6 * before


def test_an_impossible_latency_budget_says_what_can_be_reached():
    loaded = Loaded(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).eval(), {}, torch.randn(8, 64))
    with pytest.raises(GuardMissed, match="latency in ms cannot come down to"):
        _run(loaded, kind="svd", target_latency=1e-6)


@pytest.mark.integration
def test_a_latency_budget_reports_what_it_asked_for_and_predicts_to_reach_it():
    torch.manual_seed(0)
    layers = [nn.Linear(768, 768) for _ in range(3)]
    loaded = Loaded(nn.Sequential(*layers).eval(), {}, torch.randn(256, 768))
    facts = _run(loaded, kind="svd", target_latency=0.7).facts
    assert facts["latency_share_asked"] == 0.7 and 0 < facts["latency_share_predicted"] <= 0.7
    assert facts["layers_decomposed"] and "latency_share_predicted" not in _run(_digits_cnn(), energy=0.6).facts


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target_macs": 0.001}, GuardMissed, r"MACs cannot come down to .* set the target above 0\.\d+ of the model"),
        ({"objective": "activation"}, InputError, "needs calibration data; name some with --data"),
        ({"layers": ["convv*"]}, InputError, "no layer matches 'convv"),
        ({"skip": ["*"]}, InputError, "no layer can be decomposed"),
    ],
)
def test_refusals(options, error, message):
    with pytest.raises(error, match=message):
        _run(_digits_cnn(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "tucker"}, "unknown kind 'tucker'; did you mean 'tucker2'"),
        ({"consider": ["tucker"]}, "did you mean 'tucker2'"),
        ({"consider": ["cp"], "kind": "svd"}, "consider is for kind auto"),
        ({"rank_by": "budget"}, "takes one of target_macs"),
        ({"target_macs": 0.5, "target_params": 0.5}, "got target_macs, target_params"),
        ({"rank_by": "energy", "rank": 4}, "rank is for rank_by fixed"),
        ({"rank_by": "given"}, "rank_by given needs ranks"),
        ({"ranks": {"conv1": 0}}, "ranks: conv1=0 must be at least 1"),
        ({"ranks": {"conv1": 2}, "rank": 3, "rank_by": "given"}, "rank is for rank_by fixed"),
        ({"ranks": {"conv1": 2}, "lstms": "decompose"}, "lstms would be ignored"),
        ({"calibration_rows": 5}, "calibration_rows would be ignored"),
        ({"inputs": "compressed"}, "inputs would be ignored"),
        ({"recompose": True, "energy": 0.5, "explain": True}, "energy, explain would be ignored: recompose only"),
        ({"rank": 12, "round_to": 8}, "round_to would be ignored: rank_by is 'fixed'"),
        ({"calibration_samples": 64}, "calibration_samples would be ignored"),
        ({"energy": 1.5}, "less than 1"),
        ({"target_latency": 0.5, "slower_layers": "allow"}, "slower_layers would be ignored"),
    ],
)
def test_options_that_contradict_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DecomposeOptions(**options)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({}, "energy"),
        ({"target_macs": 0.5}, "budget"),
        ({"rank": 4}, "fixed"),
        ({"ranks": {"a": 4}}, "given"),
        ({"keep_ratio": 0.3}, "keep-ratio"),
    ],
)
def test_an_option_of_a_rule_selects_the_rule(given, rule):
    assert DecomposeOptions(**given).rank_by == rule


@pytest.mark.integration
def test_blocks_of_factors_are_reconstructed(digits):
    inputs, _ = next(iter(digits.batches("test", batch_size=64)))
    distances = {}
    for how in ("none", "block"):
        loaded = _digits_cnn()
        whole = loaded.clone().module
        options = {"iterations": 40, "joint_iterations": 40, "reconstruction_samples": 512} if how == "block" else {}
        result = _run(loaded, digits, kind="channel-svd", keep_ratio=0.4, reconstruct=how, **options)
        with torch.no_grad():
            distances[how] = float((loaded.module(inputs) - whole(inputs)).square().mean())
        assert ("reconstructed blocks" in result.tables) == (how == "block")
    assert distances["block"] < 0.5 * distances["none"]
    rebuilt = _rebuilt(loaded)
    assert torch.equal(rebuilt(inputs), loaded.module(inputs))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_torchs_own_encoder_layers_are_factored_and_run_with_padding():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(16, 4, 64, batch_first=True)
            self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)

        def forward(self, x, padding):
            return self.head(self.encoder(x, src_key_padding_mask=padding)[:, 0])

    examples = [((torch.randn(6, 16), torch.arange(6) >= 3 + number % 4), number % 3) for number in range(40)]
    loader = torch.utils.data.DataLoader(examples, batch_size=8)
    half = compresskit.decompose(
        Encoder().eval(), data=loader, target_macs=0.7, slower_layers="allow", latency_rounds=0
    )
    replaced = [name for name, one in half.model.named_modules() if isinstance(one, nn.Sequential)]
    assert "encoder.layers.0.linear1" in replaced and "encoder.layers.1.linear2" in replaced
    assert half.report["steps"][0]["measurement"]["macs"] <= 0.7 * half.report["original"]["macs"]
    (x, padding), _ = next(iter(loader))
    with torch.no_grad():
        assert half.model(x, padding).isfinite().all()
