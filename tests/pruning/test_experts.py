"""Mixtures of experts whose weights are one 3-D parameter, and the reasons for what stays of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.analysis.measure.macs import count_macs
from compresskit.artifact import artifact
from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded, call, main_output
from compresskit.pruning.dependency.graph import build_graph
from compresskit.pruning.dependency.reasons import left_out_notes
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context

if not hasattr(F, "grouped_mm"):
    pytest.skip("this torch has no grouped_mm", allow_module_level=True)


class Experts(nn.Module):
    """Tokens of a fixed number go to one of three experts each; `bias` is one an expert and output."""

    def __init__(self, width=16, hidden=32):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, width), nn.Linear(width, 5)
        self.gate = nn.Linear(width, 3, bias=False)
        self.up = nn.Parameter(torch.randn(3, 2 * hidden, width) / 4)
        self.bias = nn.Parameter(torch.randn(3, 2 * hidden) / 4)
        self.down = nn.Parameter(torch.randn(3, hidden, width) / 4)  # (experts, in, out): not turned

    def forward(self, tokens):
        x = self.embed(tokens)
        flat = x.reshape(-1, x.size(-1))
        weight, expert = self.gate(flat).softmax(-1).max(-1)
        order = expert.argsort()
        offsets = torch.histc(expert.float(), bins=3, min=0, max=2).cumsum(0).int()
        y = F.grouped_mm(flat[order], self.up.transpose(1, 2), offs=offsets) + self.bias[expert[order]]
        left, right = y.chunk(2, -1)
        y = F.grouped_mm(F.silu(left) * right, self.down, offs=offsets) * weight[order, None]
        return self.head(x + y[order.argsort()].view_as(x))


TOKENS = torch.arange(22).view(2, 11) % 11


@pytest.fixture
def loaded():
    torch.manual_seed(0)
    return Loaded(Experts().eval(), {}, TOKENS, name="experts")


def test_widths_of_experts_are_groups_and_their_number_stays(loaded):
    graph = build_graph(loaded.module, TOKENS)
    members = {g.name: {(m.name, m.dim) for m in g.members} for g in graph.groups}
    assert members == {
        "down": {("embed.weight", 1), ("gate.weight", 1), ("up", 2), ("down", 2), ("head.weight", 1)},
        "up": {("up", 1), ("bias", 1), ("down", 1)},
    }
    assert {g.name: (len(g), g.multiple) for g in graph.groups} == {"down": (16, 4), "up": (32, 4)}
    assert list(graph.left_out) == ["gate"]


def test_a_cut_of_experts_computes_what_the_masked_model_does(loaded):
    original = loaded.clone().module
    result = prune(loaded, PruneOptions(ratio=0.5, protect=["embed"]), Context(loaded.clone()))
    assert (result.facts["difference_dtype"], result.facts["channels_removed"]) == ("float32", 16)
    kept = {tuple(row.tolist()): place for place, row in enumerate(original.bias.T)}
    places = [kept[tuple(row.tolist())] for row in loaded.module.bias.T]
    assert places[16:] == [place + 32 for place in places[:16]]  # gate and value lose the same channels
    with torch.no_grad():
        gone = [place for place in range(32) if place not in places]
        original.down[:, gone] = 0
        torch.testing.assert_close(loaded.module(TOKENS), original(TOKENS), rtol=0, atol=1e-5)


def test_the_cost_that_is_planned_is_the_one_that_is_measured(loaded):
    before = count_macs(loaded.module, TOKENS).total
    result = prune(loaded, PruneOptions(target_macs=0.5), Context(loaded.clone()))
    assert result.facts["macs_before"] == before
    assert result.facts["macs_after"] == count_macs(loaded.module, TOKENS).total <= before / 2
    assert result.facts["largest_difference"] < 1e-6


@pytest.mark.parametrize(("dtype", "step"), [(torch.float32, 4), (torch.bfloat16, 8)])
def test_widths_stay_multiples_of_what_the_kernel_reads(dtype, step, loaded):
    loaded.module.to(dtype)
    prune(loaded, PruneOptions(ratio=0.6, round_to=1), Context(loaded.clone()))
    experts, hidden, width = loaded.module.down.shape
    assert (experts, hidden % step, width % step) == (3, 0, 0)
    assert hidden < 32 and width < 16
    assert loaded.module.up.shape == (3, 2 * hidden, width)
    assert torch.isfinite(loaded.module(TOKENS)).all()


def test_notes_are_about_the_widths_of_tables_and_experts():
    class Fixed(Experts):
        def forward(self, tokens):
            return super().forward(tokens) + self.embed(tokens).view(2, 11, 2, 8).sort(2).values.sum((2, 3))[..., None]

    graph = build_graph(Fixed().eval(), TOKENS)
    notes = {name: note for note in left_out_notes(graph) for name in ("embed", "down") if f" {name}" in note}
    assert "view with the number 2 in the model (test_experts.py:" in notes["embed"]
    assert "view with the number 2 in the model" in notes["down"]
    assert not any("looked up by number" in note for note in notes.values())
    assert [group.name for group in graph.groups] == ["up"]


def test_where_nothing_goes_the_options_and_operations_that_hold_it_are_named(loaded):
    options = PruneOptions(ratio=0.5, protect=["embed"], min_channels=32)
    with pytest.raises(InputError) as caught:
        prune(loaded, options, Context(loaded.clone()))
    message = str(caught.value)
    assert "model 'experts': nothing was removed: " in message
    assert "protect holds down (16 units); " in message
    assert "min_channels 32, min_keep_ratio 0.1, round_to 8 leave no less of up (32 units); " in message
    assert "left out gate: _softmax in the model (test_experts.py:" in message
    with pytest.raises(InputError, match="the amount asked for, in steps of 4, takes nothing of up .32 units. and 1"):
        prune(loaded, PruneOptions(ratio=0.01), Context(loaded.clone()))
    with pytest.raises(InputError, match="no entry of ratios names down .16 units."):
        prune(loaded, PruneOptions(ratios={"up": 0.01}), Context(loaded.clone()))


@pytest.mark.integration
@pytest.mark.parametrize("family", ["Mixtral", "Qwen3Moe"])
def test_transformers_mixtures_lose_widths_and_reload(family, tmp_path):
    transformers = pytest.importorskip("transformers")
    common = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 48, "head_dim": 8,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "num_experts_per_tok": 2, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    number = {"Mixtral": "num_local_experts", "Qwen3Moe": "num_experts"}[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**common, **{number: 4})
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(tmp_path / "model")
    loaded = load_model(f"hf:{tmp_path / 'model'}")
    result = prune(loaded, PruneOptions(target_macs=0.5), Context(loaded.clone()))
    assert 0.4 < result.facts["macs_kept"] <= 0.5
    shapes = {name: tuple(p.shape) for name, p in loaded.module.named_parameters() if "experts" in name}
    assert all(shape[0] == 4 for shape in shapes.values())
    assert np.prod(list(shapes.values())[0]) < 0.75 * 4 * 96 * 32
    artifact.save(loaded, tmp_path / "pruned")
    again = artifact.load(tmp_path / "pruned")
    torch.testing.assert_close(
        main_output(call(again.module, again.example)), main_output(call(loaded.module, loaded.example)),
        rtol=0, atol=1e-6,
    )  # fmt: skip


class Branch(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.down(F.silu(self.up(x)))


class Looped(nn.Module):
    """Every token goes to two of three branches; `collect` adds up what they make of it."""

    def __init__(self, collect):
        super().__init__()
        self.collect, self.embed = collect, nn.Embedding(11, 16)
        self.gate, self.head = nn.Linear(16, 3, bias=False), nn.Linear(16, 5)
        self.branches = nn.ModuleList(Branch(16, 32) for _ in range(3))

    def forward(self, tokens):
        x = self.embed(tokens).flatten(0, 1)
        chosen = self.gate(x).softmax(-1).topk(2, -1).indices
        sums = torch.zeros_like(x)
        for number, branch in enumerate(self.branches):
            sums = self.collect(sums, x, branch, chosen == number)
        return self.head(x + sums)


def by_index_add(sums, x, branch, mine):
    rows, _ = torch.where(mine)
    return sums.index_add_(0, rows, branch(x[rows]))


def by_scatter_add(sums, x, branch, mine):
    rows, _ = torch.where(mine)
    return sums.scatter_add(0, rows[:, None].expand(-1, x.size(1)), branch(x[rows]))


def by_number(sums, x, branch, mine):
    rows, _ = torch.where(mine)
    sums[rows] += branch(x[rows])
    return sums


def by_mask(sums, x, branch, mine):
    mask = mine.any(-1)
    sums[mask] += branch(x[mask])
    return sums


def by_mask_written(sums, x, branch, mine):
    mask = mine.any(-1)
    sums[mask] = sums[mask] + branch(x[mask])
    return sums


@pytest.mark.parametrize("collect", [by_index_add, by_scatter_add, by_number, by_mask, by_mask_written])
def test_branches_that_take_rows_of_a_batch_are_cut(collect, halved):
    torch.manual_seed(0)
    sizes, left = halved(Looped(collect), TOKENS)
    assert sizes == {"embed": 16} | {f"branches.{number}.up": 32 for number in range(3)}
    assert left < 0.35


def test_rows_that_channels_choose_stay():
    """A mask made of the channels themselves: which rows it takes is not known before the cut."""

    class Chosen(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 16), nn.Linear(16, 2)

        def forward(self, x):
            y = self.first(x)
            return self.second(y * (y[y > 0].mean() + 1))

    graph = build_graph(Chosen().eval(), torch.randn(3, 4))
    assert not graph.groups
    assert "operation index in the model" in graph.left_out["first"]
