"""Watching layers: what is seen, in which order, and that nothing is left behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.analysis.calibration.hooks import Reached, Sums, run_watched, stream, watch, watch_calls
from compresskit.core.errors import InputError


class Named(nn.Module):
    """Calls its layers by position and by name, one of them twice."""

    def __init__(self):
        super().__init__()
        self.first, self.twice = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.twice(input=self.twice(self.first(input=x)))


def _no_hooks(model: nn.Module) -> bool:
    return not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


@pytest.mark.integration
def test_watchers_see_inputs_however_they_are_given_and_may_replace_outputs():
    model, x, seen = Named(), torch.randn(2, 3), []

    def look(_layer, inputs, output):
        seen.append(inputs[0])
        return output * 0

    with watch(model, {"first": look}):
        changed = model(x)
    assert torch.equal(seen[0], x)
    torch.testing.assert_close(changed, model.twice(model.twice(torch.zeros(2, 3))))
    assert _no_hooks(model)


class Mapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU())

    def forward(self, x):
        return torch.vmap(self.body)(x)


def test_layers_under_vmap_are_seen_with_all_examples():
    model, x, seen = Mapped(), torch.randn(5, 3), []
    stream(model, [x], {"body.0": lambda _layer, inputs, output: seen.append((inputs[0], output))})
    run_watched(model, x, lambda _name, given, _named, output: seen.append((*given, output)), ["body.0"])
    assert len(seen) == 2
    for given, output in seen:
        assert torch.equal(given, x) and torch.allclose(output, model.body[0](x))


def test_a_watcher_may_end_the_run():
    model = Named()

    def stop(*_):
        raise Reached

    with watch(model, {"first": stop}), pytest.raises(Reached):
        model(torch.randn(2, 3))
    assert _no_hooks(model)


def test_calls_are_seen_in_the_order_in_which_they_finish():
    model, calls = Named(), []
    output = run_watched(
        model, torch.randn(2, 3), lambda name, given, named, _: calls.append((name, len(given), [*named]))
    )
    assert calls == [("first", 0, ["input"]), ("twice", 1, []), ("twice", 0, ["input"]), ("", 1, [])]
    assert not output.requires_grad and _no_hooks(model)
    some = []
    with watch_calls(model, lambda name, *_: some.append(name), ["twice"]):
        model(torch.randn(2, 3))
    assert some == ["twice", "twice"]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_scripted_layers_are_left_out_and_unknown_ones_refused():
    model, calls = nn.Sequential(torch.jit.script(nn.Linear(2, 2)), nn.ReLU()), []
    run_watched(model, torch.randn(1, 2), lambda name, *_: calls.append(name))
    assert calls == ["1", ""]
    with pytest.raises(InputError, match="no layer named 'frist' in the model; did you mean 'first'"):
        run_watched(Named(), torch.randn(1, 3), lambda *_: None, ["frist"])


def test_streaming_evaluates_and_puts_modes_back():
    model, modes = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)), []
    model[1].eval()
    stream(
        model, [torch.ones(1, 2)] * 3, {"0": lambda layer, *_: modes.append((layer.training, torch.is_grad_enabled()))}
    )
    assert modes == [(False, False)] * 3
    assert model.training and model[0].training and not model[1].training


def test_sums_tell_what_is_added():
    seen, sums, branch, shortcut = [], Sums(), torch.randn(2, 3), torch.randn(2, 3)
    with sums:
        sums.wait(branch, lambda own, other: seen.append((own, other)))
        _ = branch + shortcut[:1]  # another shape
        made = shortcut + branch
        _ = branch + shortcut  # no longer waited for
    assert len(seen) == 1 and seen[0][1] is shortcut
    torch.testing.assert_close(made, branch + shortcut)
