"""Graph discovery on whole architectures, each proven exact after losing half of every group."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.artifact import edits
from compresskit.pruning.dependency.graph import build_graph
from compresskit.pruning.structured.equivalence import difference
from compresskit.pruning.structured.free_heads import HeadAttention, free_heads


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.embed, self.core, self.head = nn.Linear(8, 16), kind(16, 24, batch_first=True, **options), nn.LazyLinear(3)

    def forward(self, x):
        return self.head(self.core(self.embed(x))[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("layers", [1, 2])
def test_recurrent_hidden_units(kind, layers, halved):
    model = Recurrent(kind, num_layers=layers)
    model(torch.randn(1, 5, 8))
    sizes, share = halved(model, torch.randn(1, 5, 8))
    assert sizes["embed"] == 16 and 24 in sizes.values()
    assert share < 0.4
    assert model.core.input_size == 8 and model.core.hidden_size == 12


class SelfAttention(nn.Module):
    """Fused or separate query, key and value; grouped queries; norms and rotation within heads."""

    def __init__(self, fused=False, kv_heads=4, norm=False, bias_table=False):
        super().__init__()
        self.num_heads, self.kv_heads, self.head_dim = 4, kv_heads, 8
        self.embed = nn.Linear(6, 32)
        self.qkv = nn.Linear(32, 96) if fused else None
        self.q, self.k, self.v = (None,) * 3 if fused else (nn.Linear(32, 8 * h) for h in (4, kv_heads, kv_heads))
        self.norm = nn.LayerNorm(8) if norm else None
        self.table = nn.Parameter(torch.randn(5, 4)) if bias_table else None
        self.register_buffer("index", (torch.arange(5)[:, None] - torch.arange(5)[None]).abs())
        self.out, self.head = nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, x):
        x = self.embed(x)
        batch, tokens, _ = x.shape
        if self.qkv is not None:
            parts = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
            q, k, v = parts.unbind(0)
        else:
            q = self.q(x).view(batch, tokens, self.num_heads, self.head_dim).transpose(1, 2)
            k, v = (m(x).view(batch, tokens, self.kv_heads, self.head_dim).transpose(1, 2) for m in (self.k, self.v))
        if self.norm is not None:
            q, k = self.norm(q), self.norm(k)
        bias = None if self.table is None else self.table[self.index].permute(2, 0, 1).unsqueeze(0)
        y = F.scaled_dot_product_attention(q, k, v, bias, scale=8**-0.5, enable_gqa=self.kv_heads != self.num_heads)
        y = y.transpose(1, 2).reshape(batch, tokens, -1)
        return self.head(x + self.out(y))


@pytest.mark.parametrize(
    "options",
    [{}, {"fused": True}, {"kv_heads": 2}, {"norm": True}, {"bias_table": True}, {"fused": True, "bias_table": True}],
    ids=str,
)
def test_attention_loses_whole_heads(options, halved):
    model = SelfAttention(**options)
    sizes, share = halved(model, torch.randn(1, 5, 6))
    assert min(sizes.values()) == options.get("kv_heads", 4)
    assert model.num_heads == 2 and model.head_dim == 8
    assert share < 0.5
    if "bias_table" in options:
        assert model.table.shape == (5, 2)


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"kv_heads": 2}], ids=str)
def test_attention_loses_the_same_dimensions_of_every_head(options, halved):
    model = SelfAttention(**options)
    sizes, _ = halved(model, torch.randn(1, 5, 6), attention="dims")
    assert model.num_heads == 4 and model.head_dim == 4
    assert 8 in sizes.values()


class Block(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.embed, self.attention, self.head = nn.Linear(8, 32), attention, nn.Linear(32, 3)

    def forward(self, x):
        x = self.embed(x)
        return self.head(x + self.attention(x, x, x)[0])


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"batch_first": True}], ids=str)
def test_multihead_attention_gets_free_heads(options, halved):
    model = Block(nn.MultiheadAttention(32, 4, **options)).eval()
    x = torch.randn(2, 6, 8)
    expected = model(x)
    made = free_heads(model)
    assert made == [{"op": "free_heads", "target": "attention"}]
    torch.testing.assert_close(model(x), expected)
    sizes, share = halved(model, x)
    assert sizes["attention.in_proj_weight"] == 4 and model.attention.num_heads == 2
    assert share < 0.4


@pytest.mark.parametrize("masks", [{"attn_mask": True}, {"key_padding_mask": True}, {"need_weights": False}], ids=str)
def test_free_heads_compute_what_multihead_attention_does(masks):
    source = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    model = nn.ModuleDict({"a": source})
    x = torch.randn(2, 5, 16)
    arguments = {
        "attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1) if "attn_mask" in masks else None,
        "key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
        if "key_padding_mask" in masks
        else None,
        "need_weights": masks.get("need_weights", True),
    }
    expected = source(x, x, x, **arguments)
    edits.replay(model, [{"op": "free_heads", "target": "a"}])
    assert isinstance(model["a"], HeadAttention)
    actual = model["a"](x, x, x, **arguments)
    torch.testing.assert_close(actual[0], expected[0])
    assert (actual[1] is None) == (expected[1] is None)
    if actual[1] is not None:
        torch.testing.assert_close(actual[1], expected[1])


def test_transformer_encoder_layers(halved):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.Sequential(
        nn.Linear(8, 32), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 3)
    )
    model.eval()
    free_heads(model)
    sizes, share = halved(model, torch.randn(1, 5, 8))
    assert sorted(sizes.values()) == [4, 4, 32, 64, 64] and share < 0.35


class Mixer(nn.Module):
    """Tokens and channels are mixed in turn: one activation shrinks along both."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.tokens = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.channels = nn.Sequential(nn.Linear(16, 20), nn.GELU(), nn.Linear(20, 16))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(x)
        return self.head(x.mean(1))


def test_token_mixing(halved):
    sizes, _ = halved(Mixer(), torch.randn(1, 3, 16, 16))
    assert sizes == {"embed": 16, "tokens.0": 24, "channels.0": 20}


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 32), nn.Linear(16, 3)

    def forward(self, x):
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


def test_gated_halves_lose_the_same_positions(halved):
    model = Gated()
    sizes, _ = halved(model, torch.randn(2, 6))
    assert sizes == {"up": 16} and model.up.weight.shape == (16, 6) and model.down.weight.shape == (3, 8)


def test_one_layer_called_twice_and_tied_weights(halved):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix, self.out = nn.Embedding(11, 16), nn.Linear(16, 16), nn.Linear(16, 11, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, x):
            y = self.embed(x)
            return self.out(y + self.mix(self.mix(y)))

    model = Tied()
    sizes, share = halved(model, torch.tensor([[1, 2, 3]]))
    assert sizes == {"mix": 16} and share < 0.5
    assert model.out.weight is model.embed.weight


def test_transposed_grouped_and_normalized_convolutions(halved):
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.PReLU(16), nn.ConvTranspose2d(16, 12, 4, 2), nn.GroupNorm(4, 12),
        nn.Conv2d(12, 8, 3, groups=2), nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    sizes, share = halved(model, torch.randn(1, 3, 12, 12))
    assert sizes["0"] == 16 and share < 0.5


def test_several_inputs_and_outputs(halved):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(4, 8), nn.Linear(5, 8), nn.Linear(8, 2), nn.Linear(8, 3)

        def forward(self, x, y):
            z = self.a(x) + self.b(y)
            return {"c": self.c(z), "d": [self.d(z)]}

    sizes, _ = halved(Two(), (torch.randn(2, 4), torch.randn(2, 5)))
    assert sizes == {"a": 8}


def hugging_face():
    configs = {
        "bert": ("BertForSequenceClassification", "BertConfig", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 50}),  # noqa: E501
        "vit": ("ViTForImageClassification", "ViTConfig", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 16, "patch_size": 8}),  # noqa: E501
        "llama": ("LlamaForCausalLM", "LlamaConfig", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 48, "vocab_size": 50}),  # noqa: E501
        "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16, "vocab_size": 50}),  # noqa: E501
        "t5": ("T5ForConditionalGeneration", "T5Config", {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 48, "d_kv": 8, "vocab_size": 50}),  # noqa: E501
    }  # fmt: skip
    return [pytest.param(*value, id=name) for name, value in configs.items()]


@pytest.mark.integration
@pytest.mark.parametrize("attention", ["heads", "dims"])
@pytest.mark.parametrize(("model", "config", "options"), hugging_face())
def test_hugging_face(model, config, options, attention, halved):
    transformers = pytest.importorskip("transformers")
    module = getattr(transformers, model)(getattr(transformers, config)(**options))
    ids = torch.arange(6).unsqueeze(0)
    example = {"pixel_values": torch.randn(1, 3, 16, 16)} if "ViT" in model else {"input_ids": ids}
    if "T5" in model:
        example["decoder_input_ids"] = ids[:, :4]
    if "Causal" in model or "LM" in model or "T5" in model:
        example["use_cache"] = False
    sizes, share = halved(module, example, attention)
    assert 48 in sizes.values() or 128 in sizes.values()
    assert share < 0.85
    if attention == "heads":
        assert 4 in sizes.values()


@pytest.mark.integration
@pytest.mark.parametrize("name", ["swin_t", "regnet_y_400mf"])
def test_torchvision_structures(name):
    models = pytest.importorskip("torchvision.models")
    module = models.get_model(name, weights=None).eval()
    x = torch.randn(1, 3, 64, 64)
    graph = build_graph(module, x)
    keep = {g.name: np.arange(len(g)) >= len(g) // 2 for g in graph.groups}
    gap, reason = difference(module, x, graph, graph.keep_ids(keep))
    assert gap <= 1e-4, reason


class Pieces(nn.Module):
    """Splits by a list of sizes, then a depthwise convolution on one part."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes
        self.up, self.deep, self.down = nn.Conv2d(3, 20, 1), nn.Conv2d(12, 12, 3, groups=12), nn.Conv2d(12, 2, 1)

    def forward(self, x):
        left, right = torch.split(self.up(x), self.sizes if self.sizes else [12, 8], 1)
        return self.down(self.deep(left)) + right.mean()


def test_a_list_of_sizes_follows_the_channels(halved):
    model = Pieces([12, 8])
    sizes, _ = halved(model, torch.randn(1, 3, 8, 8))
    assert sorted(sizes.values()) == [8, 12]
    assert model.sizes == [6, 4] and model.deep.groups == 6


def test_hard_coded_sizes_keep_the_filters_behind_them():
    graph = build_graph(Pieces(None).eval(), torch.randn(1, 3, 8, 8))
    assert graph.groups == []
    assert "split with the number" in graph.left_out["up"]


class OneHead(SelfAttention):
    """Fused attention of a single head that scales by the width it sees."""

    def forward(self, x):
        q, k, v = self.qkv(self.embed(x)).chunk(3, -1)
        return self.head(self.out(F.scaled_dot_product_attention(q, k, v)))


def test_a_single_head_keeps_the_width_that_it_scales_by(halved):
    sizes, _ = halved(OneHead(fused=True), torch.randn(1, 5, 6))
    assert sizes == {"embed": 32, "out": 32}
