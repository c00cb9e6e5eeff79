import torch
from torch import nn

from compresskit.analysis.measure.layer_latency import interleaved_ms, layer_inputs


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
