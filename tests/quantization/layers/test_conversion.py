"""Layers become quantized in place, once, and the same by replaying their edits."""

import pytest
import torch
from torch import nn

from compresskit.artifact.edits import replay
from compresskit.core.errors import InputError
from compresskit.quantization.layers.conversion import convert
from compresskit.quantization.layers.layer_spec import Spec, spec_from_edit
from tests.quantization.layers.test_quantized_layer import KINDS, SPECS, spec_for


def test_output_of_any_module_is_quantized_and_weights_keep_their_own_spec():
    layer = convert(nn.Conv2d(1, 1, 1), Spec(parameters=("weight",), bits=4, packed=True))
    convert(layer, Spec(output="static"))
    assert layer.spec.bits == 4 and layer.spec.output == "static" and layer.spec.input == "none"
    relu = convert(nn.ReLU(), Spec(output="static"))
    relu.output_scale.fill_(0.5)
    assert relu(torch.tensor([-1.0, 0.3, 0.8, 500.0])).tolist() == [0.0, 0.5, 1.0, 127.5]


@pytest.mark.parametrize("spec_name", SPECS)
@pytest.mark.parametrize("kind", KINDS)
def test_replay_on_meta_gives_the_same_tensors(kind, spec_name):
    make, _ = KINDS[kind]
    model = nn.Sequential(make())
    spec = spec_for(model[0], **SPECS[spec_name])
    edit = spec.as_edit("0")
    assert spec_from_edit(edit) == spec
    convert(model[0], spec)
    with torch.device("meta"):
        rebuilt = nn.Sequential(make())
    replay(rebuilt, [edit])
    ours, theirs = model.state_dict(), rebuilt.state_dict()
    assert list(ours) == list(theirs)
    assert all(theirs[name].is_meta for name in theirs)
    assert all((ours[name].shape, ours[name].dtype) == (theirs[name].shape, theirs[name].dtype) for name in ours)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"bits": 9}, "bits=9"),
        ({"bits": "4"}, "bits='4'"),
        ({"format": "pickle"}, "format='pickle'"),
        ({"granularity": "group"}, "group_size=None"),
        ({"parameters": ["bias_of_no_layer"]}, "no parameter 'bias_of_no_layer'"),
        ({"colour": 1}, "no 'colour'"),
        ({"target": "7"}, "no layer named '7'"),
    ],
)
def test_malformed_edits_are_refused(change, match):
    edit = {"op": "quantized", "target": "0", "parameters": ["weight"], "format": "int", "bits": 8} | change
    with pytest.raises(InputError, match=match):
        replay(nn.Sequential(nn.Linear(2, 2)), [edit])


def test_weights_are_quantized_once():
    model = nn.Sequential(nn.Linear(2, 2))
    edit = Spec(parameters=("weight",)).as_edit("0")
    with pytest.raises(InputError, match="quantized already"):
        replay(model, [edit, edit])
