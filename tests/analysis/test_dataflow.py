"""What a trace knows of a small model."""

import torch
from torch import nn
from torch.nn import functional as F

from compresskit.analysis.dataflow import Feature, features, first_tensor, shape_of, shared_parameters, trace
from tests.analysis.calibration.test_hooks import Mapped


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


def test_operations_under_vmap_are_those_of_the_modules():
    record = trace(Mapped(), torch.randn(1, 3))
    assert record.producer[record.single_output("body.1")].op == "relu"
    assert [node.op for node in record.consumers[record.single_output("body.0")]] == ["relu"]


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
    model["again"] = model["other"]  # one module of two names
    assert shared_parameters(model) == {"embed.weight", "head.weight"}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x, memory):
        scores = self.query(x) @ self.key(memory).mT
        return self.out(scores @ self.value(memory))


def test_layers_that_read_the_same_tensors():
    x, memory = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
    for given in ((x, memory), (x, x)):  # that an example gives one tensor twice says nothing of the data
        record = trace(Attention(), given)
        assert record.inputs_of("key") == record.inputs_of("value") != record.inputs_of("query")
        assert record.inputs_of("out") != record.inputs_of("key")


def test_an_only_reader_is_not_one_beside_the_models_output():
    class Returned(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            y = self.a(x)
            return F.relu(y), F.relu(self.b(x)), y

    record = trace(Returned(), torch.randn(1, 2))
    assert record.only_reader(record.single_output("a")) is None
    assert record.only_reader(record.single_output("b")).op == "relu"
    assert shape_of(record.single_output("a")) == (1, 2)


def test_sparse_tensors_have_a_place_in_a_trace():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("edges", torch.eye(3).to_sparse())
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return torch.sparse.mm(self.edges, self.layer(x))

    record = trace(Graph(), torch.randn(3, 2))
    assert record.producer[record.outputs[0]].inputs[-1] == record.single_output("layer")


def test_features_come_in_the_order_in_which_modules_finish():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.relu, self.pair = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), nn.ReLU(), Pair()
            self.head, self.unused = nn.Linear(8, 3), nn.Linear(3, 3)

        def forward(self, x):
            x = self.relu(self.body(self.relu(x)))
            return {"aux": x, "logits": self.head(self.pair(x)["kept"].flatten(1))}

    class Pair(nn.Module):
        def forward(self, x):
            return {"kept": x, "more": x[:, :1]}

    net = Net().train()
    found = features(net, torch.randn(2, 1, 4, 4))
    maps = (2, 2, 2, 2)
    assert found.each == (
        Feature("body.0", maps), Feature("body.1", maps), Feature("body", maps), Feature("relu", maps),
        Feature("pair", maps), Feature("head", (2, 3)),
    )  # fmt: skip
    assert found.classifier == "head" and found.output == (2, 3)
    assert net.training and not any(module._forward_hooks for module in net.modules())


def test_the_first_tensor_of_an_output_prefers_logits():
    logits = torch.zeros(1)
    assert first_tensor({"loss": torch.ones(2), "logits": logits}) is logits
    assert first_tensor(["text", None]) is None
