"""Ranges of signed bytes hold the values that those of unsigned ones do."""

import pytest
import torch
from torch import nn

from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.lowered_layers import decomposed
from compresskit.export.exporters.phones import signed_bytes

pytestmark = pytest.mark.integration


class Bytes(nn.Module):
    """A selection between two ranges, and a layer whose output is quantized with nothing."""

    def __init__(self):
        super().__init__()
        decomposed()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        first, second = (0.1, 10, 0, 255, torch.uint8), (0.2, 20, 0, 255, torch.uint8)
        x = _round_trip(x, first)
        x = _round_trip(x.reshape(2, 4), second)
        return self.linear(x)


def _round_trip(x, limits):
    return decomposed().dequantize_per_tensor(decomposed().quantize_per_tensor(x, *limits), *limits)


def test_passes_change_no_value_of_what_is_selected_and_move_ranges_to_signed_bytes():
    example = torch.randn(2, 2, 2)
    program = export_program(Bytes().eval(), example, [{}])
    wanted = program.module()(example)
    signed_bytes.same_range_around_selections(program.graph)
    quantizers = [node.args[1] for node in program.graph.nodes if "quantize_per_tensor.default" in str(node.target)]
    assert quantizers.count(0.1) == 4 and quantizers.count(0.2) == 2
    signed_bytes.signed_bytes(program.graph)
    program.graph_module.recompile()
    kinds = {node.args[5] for node in program.graph.nodes if "quantize_per_tensor.default" in str(node.target)}
    assert kinds == {torch.int8}
    torch.testing.assert_close(program.module()(example), wanted, rtol=0, atol=0)


class Shortcut(nn.Module):
    """Codes that a layer and the addition behind it read."""

    def __init__(self):
        super().__init__()
        decomposed()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        x = _round_trip(x, (0.1, 10, 0, 255, torch.uint8))
        return _round_trip(self.linear(x) + x, (0.2, 20, 0, 255, torch.uint8))


def test_each_reader_of_codes_has_a_dequantizer_of_its_own():
    example = torch.randn(2, 4)
    program = export_program(Shortcut().eval(), example, [{}])
    wanted = program.module()(example)
    signed_bytes.one_dequantizer_a_reader(program.graph)
    program.graph.lint()
    program.graph_module.recompile()
    opened = [node for node in program.graph.nodes if "dequantize_per_tensor.default" in str(node.target)]
    assert len(opened) == 3 and all(len(node.users) == 1 for node in opened)
    torch.testing.assert_close(program.module()(example), wanted, rtol=0, atol=0)


class Joined(nn.Module):
    """Parts of two ranges, and a third one for the whole."""

    def forward(self, x):
        decomposed()
        first, second = (_round_trip(x, (scale, 10, 0, 255, torch.uint8)) for scale in (0.1, 0.2))
        return _round_trip(torch.cat([first, second], 1), (0.3, 20, 0, 255, torch.uint8))


def test_parts_of_a_concatenation_take_the_range_of_the_whole():
    example = 3 * torch.randn(2, 4)
    program = export_program(Joined().eval(), example, [{}])
    wanted = program.module()(example)
    signed_bytes.same_range_before_joining(program.graph)
    program.graph.lint()
    program.graph_module.recompile()
    joined = next(node for node in program.graph.nodes if ".cat." in str(node.target))
    assert [part.args[1] for part in joined.args[0]] == [0.3, 0.3]
    torch.testing.assert_close(program.module()(example), wanted, rtol=0, atol=0)
