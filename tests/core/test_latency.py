import torch
from torch import nn

from compresskit.core.latency import interleaved_ms, layer_inputs, layer_latencies


def test_all_take_turns_equally_often():
    counts = [0, 0]

    def run(place):
        counts[place] += 1
        torch.ones(512, 512) @ torch.ones(512, 512)

    ms = interleaved_ms([lambda: run(0), lambda: run(1)], rounds=3)
    assert len(ms) == 2 and min(ms) > 0
    assert min(counts) >= 5  # two rounds of warm-up and three that count


def test_inputs_of_every_call_are_seen_and_hooks_leave():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    x = torch.randn(2, 4)
    seen = layer_inputs(model, x, ["0", "1"])
    assert [t.shape for t in seen["0"]] == [(2, 4), (2, 4)] and torch.equal(seen["0"][0], x)
    assert torch.equal(seen["1"][0], layer(x)) and not layer._forward_pre_hooks


def test_a_layer_that_is_never_called_takes_nearly_nothing():
    model = nn.ModuleDict({"used": nn.Linear(512, 512), "idle": nn.Linear(512, 512)})
    model.forward = lambda x: model["used"](x)
    found = layer_latencies(model, torch.randn(256, 512), ["used", "idle"])
    assert list(found) == ["used", "idle"] and found["idle"] < found["used"]
