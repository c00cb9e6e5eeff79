import gc
import time

import pytest
import torch
from torch import nn

from compresskit.analysis.measure.latency import layer_inputs, layers_in_model_ms, quartiles, take_turns


def test_all_take_turns_equally_often():
    counts = [0, 0]

    def run(place):
        counts[place] += 1
        torch.ones(512, 512) @ torch.ones(512, 512)

    times = take_turns([lambda: run(0), lambda: run(1)], rounds=3)
    assert [len(one.rounds_ms) for one in times] == [3, 3] and all(0 < one.best_ms <= one.median_ms for one in times)
    assert min(counts) >= 5  # two rounds of warm-up and three that count


def test_inputs_of_every_call_are_seen_and_hooks_leave():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    x = torch.randn(2, 4)
    seen = layer_inputs(model, x, ["0", "1"])
    assert [t.shape for t in seen["0"]] == [(2, 4), (2, 4)] and torch.equal(seen["0"][0], x)
    assert torch.equal(seen["1"][0], layer(x)) and not layer._forward_pre_hooks


def test_shares_of_known_times_and_their_quartiles():
    slow, fast = take_turns([lambda: time.sleep(0.008), lambda: time.sleep(0.002)], rounds=5, clock="wall")
    assert slow.best_ms >= 8 and len(slow.over(fast)) == 5
    assert quartiles(slow.over(fast)).median > 1.2
    assert quartiles([1.0, 2.0, 3.0]) == (1.0, 2.0, 3.0) and quartiles([1.0, 2.0, 3.0]).spread == 1.0
    assert quartiles([4.0]) == (4.0, 4.0, 4.0)
    assert gc.isenabled()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's clock is the one on the wall")
def test_the_processors_clock_does_not_count_sleep(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    (asleep,) = take_turns([lambda: time.sleep(0.005)], rounds=2)
    assert asleep.best_ms < 4


def test_layers_inside_a_model_take_part_of_its_time():
    model = nn.Sequential(nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 2))
    whole_ms, layers_ms = layers_in_model_ms(model, torch.randn(64, 400), ["0", "2"], rounds=3)
    assert layers_ms["0"] > layers_ms["2"] > 0 and sum(layers_ms.values()) <= whole_ms
    assert not model[0]._forward_hooks and not model[0]._forward_pre_hooks
