"""Blocks: which parts a model falls into, and that each one alone computes what it does within the model."""

from __future__ import annotations

import copy
import importlib
from contextlib import ExitStack

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten

from compresskit.analysis.calibration.block_walk.blocks import Block, block_table, find_blocks, is_layer, run_block
from compresskit.core.errors import InputError
from compresskit.core.tensors.modules import get_module
from compresskit.core.types import call
from compresskit.model import zoo

_PACKAGES = {"zoo": "torch", "tv": "torchvision", "timm": "timm", "hf": "transformers"}
_SMALL = {
    "vocab_size": 99,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_SEQ2SEQ = {"vocab_size": 99, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2}  # fmt: skip
_VIT = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
_T5 = {"vocab_size": 99, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}


def _image(*shape):
    return torch.randn(1, *shape)


def _tokens(**more):
    ids = torch.arange(6)[None]
    return {"input_ids": ids, **dict.fromkeys(more.get("also", ()), ids)}


def _library(name, **options):
    """A model of a library, with random weights."""
    library, _, name = name.partition(":")
    if library == "zoo":
        return getattr(zoo, name)()
    models = importlib.import_module({"tv": "torchvision.models", "timm": "timm", "hf": "transformers"}[library])
    if library == "tv":
        return getattr(models, name)(**options)
    if library == "timm":
        return models.create_model(name, **options)
    config = getattr(models, name.replace("ForCausalLM", "").replace("ForConditionalGeneration", "") + "Config")
    return getattr(models, name)(config(use_cache=False, pad_token_id=0, bos_token_id=1, eos_token_id=2, **options))


#: model, its options, its inputs, how many blocks, and one of them with its layers
FAMILIES = {
    "resnet": ("tv:resnet18", {}, _image(3, 32, 32), 10, "layer2.0", "conv1 conv2 downsample.0"),
    "inverted residuals": ("tv:mobilenet_v2", {}, _image(3, 32, 32), 20, "features.2", "conv.0.0 conv.1.0 conv.2"),
    "lists of inputs, changed in place": (
        "tv:densenet121", {}, _image(3, 32, 32), 63, "features.denseblock1.denselayer2", "conv1 conv2"
    ),
    "chain": ("zoo:cifar_vgg", {}, _image(3, 32, 32), 3, "0 .. 9", "0 3 7"),
    "branches": ("tv:squeezenet1_1", {}, _image(3, 64, 64), 10, "features.3", "squeeze expand1x1 expand3x3"),
    "fused attention": (
        "tv:VisionTransformer", _VIT, _image(3, 32, 32), 4, "encoder.layers.encoder_layer_0",
        "self_attention self_attention.out_proj mlp.0 mlp.3",
    ),
    "windows": (
        "timm:swin_tiny_patch4_window7_224", {"img_size": 56, "embed_dim": 24, "depths": (2, 2)}, _image(3, 56, 56), 7,
        "layers.0.blocks.0", "attn attn.qkv attn.proj mlp.fc1 mlp.fc2",
    ),
    "decoder": (
        "hf:LlamaForCausalLM", _SMALL, _tokens(), 4, "model.layers.0",
        "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj mlp.gate_proj mlp.up_proj mlp.down_proj",
    ),
    "encoder and decoder": (
        "hf:BartForConditionalGeneration", _SEQ2SEQ, _tokens(also=["decoder_input_ids"]), 9, "model.encoder.layers.1",
        "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.out_proj fc1 fc2",
    ),
    "lists of sublayers": (
        "hf:T5ForConditionalGeneration", _T5, _tokens(also=["decoder_input_ids"]), 13, "encoder.block.1.layer.1",
        "DenseReluDense.wi DenseReluDense.wo",
    ),
}  # fmt: skip


@torch.no_grad()
def _calls(model: nn.Module, blocks: list[Block], inputs) -> tuple[dict[str, list], object]:
    """What entered and left each block while the model ran, and what the model returned; copies."""
    seen: dict[str, list] = {block.name: [] for block in blocks}
    with ExitStack() as hooks:
        for block in blocks:

            def enter(_module, args, kwargs, calls=seen[block.name]):
                calls.append([copy.deepcopy((args, kwargs))])

            def leave(_module, _args, output, calls=seen[block.name]):
                calls[-1].append(copy.deepcopy(output))

            first, last = (get_module(model, block.modules[index]) for index in (0, -1))
            hooks.callback(first.register_forward_pre_hook(enter, with_kwargs=True).remove)
            hooks.callback(last.register_forward_hook(leave).remove)
        output = call(model, inputs)
    return seen, output


def _assert_equal(one, other) -> None:
    (leaves, form), (others, other_form) = tree_flatten(one), tree_flatten(other)
    assert form == other_form
    assert all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(leaves, others, strict=True)
    )


@pytest.mark.integration
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_of_a_family_compute_alone_what_they_do_in_the_model(family):
    name, options, inputs, count, block, layers = FAMILIES[family]
    pytest.importorskip(_PACKAGES[name.partition(":")[0]])
    torch.manual_seed(0)
    model = _library(name, **options).eval()
    blocks = find_blocks(model, inputs)
    assert len(blocks) == count
    found = next(one for one in blocks if one.name == block)
    assert [layer.removeprefix(f"{block}.") for layer in found.layers] == layers.split()
    held = [layer for one in blocks for layer in one.layers]
    assert len(held) == len(set(held))  # each is in one block only
    seen, output = _calls(model, blocks, inputs)
    for one in blocks:
        ((args, kwargs), left), *more = seen[one.name]
        assert not more
        before = [leaf.clone() for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
        with torch.no_grad():
            _assert_equal(run_block(model, one, args, kwargs), left)
        after = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
        assert one.mutates != all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert one.leaves == tuple(
            tuple(leaf.shape) for leaf in tree_flatten(left)[0] if isinstance(leaf, torch.Tensor)
        )


def test_blocks_stand_in_the_order_in_which_they_run_and_hold_every_layer():
    net = zoo.cifar_resnet20()
    blocks = find_blocks(net, _image(3, 32, 32))
    assert [one.name for one in blocks] == [
        "conv1 .. bn1", *(f"layer{stage}.{index}" for stage in (1, 2, 3) for index in range(3)), "linear"
    ]  # fmt: skip
    assert [one.kind for one in blocks] == ["run", *["residual"] * 9, "run"]
    assert sum(len(one.layers) for one in blocks) == sum(is_layer(module) for module in net.modules())
    row = block_table(blocks)[1]
    assert row == {"block": "layer1.0", "kind": "residual", "layers": "conv1, conv2",
                   "enters": "1x16x32x32", "leaves": "1x16x32x32"}  # fmt: skip


class Shared(nn.Module):
    """One layer that runs twice, beside one that runs once."""

    def __init__(self):
        super().__init__()
        self.before, self.body = nn.Linear(4, 4), nn.Module()
        self.body.layer, self.body.forward = nn.Linear(4, 4), lambda x: self.body.layer(self.body.layer(x))

    def forward(self, x):
        return self.body(F.relu(self.before(x)))


class Direct(nn.Module):
    """Reads a layer's weight without calling it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return F.linear(self.first(x), self.second.weight)


def test_what_runs_twice_or_is_read_uncalled_stays_in_what_encloses_it():
    shared = find_blocks(Shared(), torch.randn(2, 4))
    assert [(one.name, one.kind, one.layers) for one in shared] == [
        ("before", "run", ("before",)), ("body", "run", ("body.layer",))
    ]  # fmt: skip
    (whole,) = find_blocks(Direct(), torch.randn(2, 4))
    assert (whole.kind, whole.modules, whole.layers) == ("model", ("",), ("second", "first"))


def test_a_run_ends_where_the_model_does_something_in_between():
    (whole,) = find_blocks(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU()), torch.randn(2, 4))
    assert whole.modules == ("0", "1", "2", "3")
    assert [one.modules for one in find_blocks(zoo.lenet5(), _image(1, 28, 28))] == [
        ("conv1",), ("conv2",), ("fc1",), ("fc2",)
    ]  # fmt: skip
    long = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    assert [one.modules for one in find_blocks(long, torch.randn(2, 4))] == [("0", "1", "2"), ("3",)]


def test_a_models_user_may_name_the_blocks():
    net = zoo.cifar_resnet20()
    stages = find_blocks(net, _image(3, 32, 32), ["layer?"])
    assert [one.name for one in stages] == ["conv1 .. bn1", "layer1", "layer2", "layer3", "linear"]
    fine = find_blocks(net, _image(3, 32, 32), ["layer1.0.conv*"])
    assert [one.name for one in fine][:4] == ["conv1 .. bn1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1"]
    with pytest.raises(InputError, match="no module matches 'layer9'"):
        find_blocks(net, _image(3, 32, 32), ["layer9"])
    with pytest.raises(InputError, match=r"'layer1.0.shortcut' can be no block; it has no layers"):
        find_blocks(net, _image(3, 32, 32), ["layer1.0.shortcut"])
    with pytest.raises(InputError, match="only runs as a whole"):
        find_blocks(Direct(), torch.randn(2, 4), ["first"])
