"""What a trace knows of a small model."""

import torch
from torch import nn
from torch.nn import functional as F

from compresskit.analysis.dataflow import shared_parameters, trace


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.skip = nn.Identity()

    def forward(self, x):
        y = self.relu(self.conv(x))
        return F.relu(self.conv(y) + self.skip(x))


def test_readers_and_makers_through_in_place_operations():
    record = trace(Block(), torch.randn(1, 2, 4, 4))
    assert [node.op for node in record.nodes] == ["convolution", "relu_", "convolution", "add", "relu"]
    first, second = record.calls["conv"]
    assert [node.op for node in record.consumers[first.outputs[0]]] == ["relu_"]
    # the in-place result is another value, read by the second convolution
    assert record.calls["relu"][0].outputs[0] != first.outputs[0]
    assert second.inputs == record.calls["relu"][0].outputs
    assert record.calls["skip"][0].inputs == record.calls["skip"][0].outputs
    assert record.producer[record.outputs[0]].op == "relu"
    assert record.single_output("conv") is None  # called twice
    assert record.single_output("skip") == record.calls[""][0].inputs[0]


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, torch.randn(2, 3))
    assert model.training and model[0].training and not model[1].training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_shared_parameters_are_named_under_all_their_names():
    model = nn.ModuleDict({"embed": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False), "other": nn.Linear(2, 2)})
    model["head"].weight = model["embed"].weight
    assert shared_parameters(model) == {"embed.weight", "head.weight"}
