"""Exported programs compute what the quantized model computes, and quantize each tensor once."""

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.lowered_layers import lower
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

INPUTS = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def largest_difference(first, second):
    return float((first - second).abs().max())


@pytest.mark.integration
@pytest.mark.parametrize(
    "options",
    [
        {"scheme": "int8-static"},
        {"scheme": "int8-static", "activation_range": "symmetric", "weight_range": "affine", "code_range": "full"},
        {"scheme": "int8-static", "granularity": "tensor", "smooth": 0.5},
        {"scheme": "int8-dynamic"},
        {"scheme": "w4a4"},
        {"scheme": "int8-weight"},
        {"scheme": "int4-weight", "granularity": "group", "group_size": 8},
        {"scheme": "float8-weight"},
    ],
    ids=str,
)
def test_program_computes_what_the_model_computes(options, run):
    module = run(**options).loaded.module
    with torch.no_grad():
        wanted = module(INPUTS)
        assert largest_difference(lower(module)(INPUTS), wanted) < 1e-2 * float(wanted.abs().max())
        # another batch size than the example's
        found = export_program(module, torch.randn(1, 3, 8, 8)).module()(INPUTS)
    assert largest_difference(found, wanted) < 1e-2 * float(wanted.abs().max())


def calls(program, name):
    return [node for node in program.graph.nodes if name in str(node.target)]


@pytest.mark.integration
def test_a_tensor_that_two_layers_read_is_quantized_once(run):
    program = export_program(run(scheme="int8-static").loaded.module, torch.randn(1, 3, 8, 8))
    # the image, what both branches read, what both return, and the head's input
    assert (
        len(calls(program, "quantize_per_tensor.default")) - len(calls(program, "dequantize_per_tensor.default")) == 5
    )
    weights = calls(program, "dequantize_per_channel")
    assert len(weights) == 4
    assert all(program.state_dict[name].dtype == torch.int8 for name in program.state_dict if name.endswith("_lowered"))


@pytest.mark.integration
def test_a_chain_of_blocks_does_not_requantize_what_a_block_returned(images):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return torch.relu(x + self.conv(x))

    torch.manual_seed(0)
    loaded = Loaded(nn.Sequential(Block(), Block()).eval(), {}, torch.randn(1, 3, 8, 8))
    quantize(loaded, QuantizeOptions(scheme="int8-static"), Context(original=loaded.clone(), data=images((3, 8, 8))))
    program = export_program(loaded.module, loaded.example)
    # the image; both convolutions' outputs; the first block's output, quantized where it is returned and not again by
    # the convolution that reads it. What the last block returns is the model's own output.
    quantizers = [
        node for node in calls(program, "quantize_per_tensor.default") if "dequantize" not in str(node.target)
    ]
    assert len(quantizers) == 4


@pytest.mark.integration
def test_an_embedding_looks_up_codes(tmp_path):
    loaded = Loaded(nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 2)).eval(), {}, torch.tensor([[1, 2]]))
    quantize(loaded, QuantizeOptions(first_last="same"), Context(original=loaded.clone()))
    program = export_program(loaded.module, loaded.example)
    shapes = [tensor.shape for tensor in program.state_dict.values() if tensor.is_floating_point()]
    assert torch.Size([50, 8]) not in shapes
    ids = torch.tensor([[4, 49, 0]])
    with torch.no_grad():
        torch.testing.assert_close(
            export_program(loaded.module, torch.tensor([[1, 2, 3]])).module()(ids), loaded.module(ids)
        )


def test_a_model_that_cannot_be_traced_is_refused():
    class Branching(nn.Module):
        def forward(self, x):
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(InputError, match="torch.export cannot trace this model"):
        export_program(Branching(), torch.randn(1, 3))


def test_keyword_inputs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, *, values):
            return self.layer(values)

    module = Net().eval()
    program = export_program(module, {"values": torch.randn(1, 3)})
    inputs = torch.randn(4, 3)
    torch.testing.assert_close(program.module()(values=inputs), module(values=inputs))


def test_float_models_export_too(loaded_net):
    module = loaded_net().module
    with torch.no_grad():
        torch.testing.assert_close(export_program(module, torch.randn(1, 3, 8, 8)).module()(INPUTS), module(INPUTS))


class Remembers(nn.Module):
    """Goes by the shape of the last input where the next one has the same, as YOLO's head does with its anchors."""

    def __init__(self):
        super().__init__()
        self.shape = None

    def forward(self, x):
        if self.shape != x.shape:
            self.shape = x.shape
        return (x + 1).reshape(self.shape)


def test_a_model_that_remembers_its_last_batch_keeps_the_batch_free():
    program = export_program(Remembers().eval(), torch.randn(1, 3)).module()
    for batch in (2, 5):
        assert program(torch.ones(batch, 3)).shape == (batch, 3)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("decides", "place"),
    [
        (lambda x, kept: kept * 2 if len(kept) > 1 else kept, "test_export_program.py:"),
        (lambda x, kept: x * 2 if x.mean() > 0 else x, ", line "),
    ],
)
def test_a_branch_on_values_is_named_with_its_place_and_the_remedy(decides, place, capfd):
    class Branches(nn.Module):
        def forward(self, x):
            return decides(x, x[x[:, 0] > 0])

    with pytest.raises(InputError, match="Python decides by values of a tensor .*use torch.where, shape") as raised:
        export_program(Branches().eval(), torch.randn(4, 3))
    assert "(test_export_program.py" in str(raised.value) and place in str(raised.value)
    assert "aten" not in "".join(capfd.readouterr())  # torch prints the graph so far
