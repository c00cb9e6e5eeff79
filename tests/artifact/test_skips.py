"""Leaving a block out: what its callers get in its place, and what an edit may say of that."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from compresskit.artifact import edits
from compresskit.artifact.skips import PassThrough, named_arguments, passed, skip_edit
from compresskit.core.errors import InputError


class Pair(NamedTuple):
    x: Tensor
    weights: Tensor


class Block(nn.Module):
    """Returns what `form` says of its input, of weights that it computes, and of a bias that it hands on."""

    def __init__(self, form: str):
        super().__init__()
        self.form, self.inner = form, nn.Linear(4, 4)

    def forward(self, x: Tensor, bias: Tensor | None = None, scale: float = 1.0):
        out = x + self.inner(x) * scale
        return {
            "tensor": out,
            "one": (out,),
            "two": (out, None),
            "weights": (out, out.softmax(-1)),
            "bias": (out, None, bias),
            "second": (None, out),
            "named": Pair(out, out),
            "list": [out],
            "wider": torch.cat([out, out], -1),
            "double": out.double(),
            "in place": x.add_(1),
        }[self.form]


X = torch.ones(2, 4)
BIAS = torch.zeros(1)


def edit_of(form, args=(X,), kwargs=None):
    block = Block(form)
    args, kwargs = tuple(a.clone() if a is X else a for a in args), kwargs or {}
    return skip_edit("b", block, args, kwargs, block(*args, **kwargs))


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("tensor", {"as_tuple": 0}),
        ("in place", {"as_tuple": 0}),
        ("one", {"as_tuple": 1}),
        ("two", {"as_tuple": 1, "returns": ["x", None]}),
        ("weights", {"as_tuple": 1, "returns": ["x", None]}),
        ("bias", {"as_tuple": 1, "returns": ["x", None, "bias"]}),
        ("second", {"as_tuple": 1, "returns": [None, "x"]}),
    ],
)
def test_the_edit_says_what_leaves_in_the_blocks_place(form, expected):
    assert edit_of(form, (X, BIAS)) == {"op": "skip", "target": "b"} | expected


@pytest.mark.parametrize("form", ["named", "list", "wider", "double"])
def test_a_block_whose_callers_expect_something_else_has_no_edit(form):
    assert edit_of(form) is None


def test_an_input_by_name_is_named_unless_it_is_the_usual_one():
    assert edit_of("tensor", (), {"x": X}) == {"op": "skip", "target": "b", "as_tuple": 0, "returns": ["x"]}

    class Usual(Block):
        def forward(self, hidden_states):
            return super().forward(hidden_states)

    block = Usual("tensor")
    found = skip_edit("b", block, (), {"hidden_states": X}, block(hidden_states=X))
    assert found == {"op": "skip", "target": "b", "as_tuple": 0}


def test_a_block_whose_second_argument_passes_through_names_it():
    class Second(nn.Module):
        def forward(self, index, x):
            return x * 2

    found = skip_edit("b", Second(), (torch.tensor([1]), X), {}, X * 2)
    assert found["returns"] == ["x"]
    assert PassThrough(False, Second(), found["returns"])(torch.tensor([1]), X) is X


@pytest.mark.parametrize("form", ["tensor", "one", "two", "weights", "bias", "second"])
def test_a_replayed_edit_returns_the_input_in_the_blocks_structure(form):
    root = nn.ModuleDict({"b": Block(form)})
    x = X.clone()
    output = root["b"](x, bias=BIAS)
    edit = skip_edit("b", root["b"], (x,), {"bias": BIAS}, output)
    edits.check([edit], "test")
    assert passed(edit, root["b"], (x,), {"bias": BIAS}, output)[0] is x
    edits.replay(root, [edit])
    left = root["b"](x, bias=BIAS)
    assert type(left) is type(output)
    entries, before = (left, output) if isinstance(output, tuple) else ((left,), (output,))
    assert [entry is None for entry in entries] == [entry is None or form == "weights" and place == 1
                                                    for place, entry in enumerate(before)]  # fmt: skip
    assert any(entry is x for entry in entries)
    assert form != "bias" or entries[2] is BIAS
    assert root["b"].form == form  # what callers read of a block stays


def test_an_argument_that_a_caller_leaves_out_leaves_as_none():
    through = PassThrough(True, Block("bias"), ["x", None, "bias"])
    assert through(X) == (X, None, None)
    assert through(X, BIAS)[2] is BIAS


def test_arguments_without_a_name_go_by_their_position():
    assert named_arguments(("x",), (1, 2), {"key": 3}) == {"x": 1, "1": 2, "key": 3}

    class Any(nn.Module):
        def forward(self, *args):
            return (args[1] * 2, args[0])

    found = skip_edit("b", Any(), (BIAS, X), {}, (X * 2, BIAS))
    assert found["returns"] == ["1", "0"]
    assert PassThrough(True, Any(), found["returns"])(BIAS, X) == (X, BIAS)


@pytest.mark.parametrize("as_tuple", [0, 1])
def test_edits_without_returns_pass_the_first_argument(as_tuple):
    """Artifacts hold such edits since before `returns` was known."""
    root = nn.ModuleDict({"b": Block("tensor")})
    edit = {"op": "skip", "target": "b", "as_tuple": as_tuple}
    edits.check([edit], "test")
    edits.replay(root, [edit])
    for left in (root["b"](X, BIAS), root["b"](hidden_states=X)):
        assert (left[0] if as_tuple else left) is X


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"returns": []}, "returns"),
        ({"returns": ["x"] * 65}, "returns"),
        ({"returns": [3]}, "returns.0"),
        ({"returns": ["x", None], "as_tuple": 0}, "returns names one argument"),
        ({"returns": [None], "as_tuple": 0}, "returns names one argument"),
        ({"as_tuple": 2}, "as_tuple"),
        ({"first": 1}, "first"),
    ],
)
def test_malformed_edits_are_refused_with_what_is_wrong(change, message):
    with pytest.raises(InputError, match=rf"m.json: edit 0 \(skip b\): .*{message}"):
        edits.check([{"op": "skip", "target": "b", "as_tuple": 1, **change}], "m.json")
