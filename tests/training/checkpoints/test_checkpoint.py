"""Training state on disk: round trips, atomic replacement, damage."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.training.checkpoints import checkpoint


def test_tensors_and_state_come_back_bit_for_bit(tmp_path):
    shared = torch.rand(3, 4)
    tensors = {"a": shared, "tied": shared, "strided": shared.T, "step": torch.tensor(7), "flag": torch.tensor(True)}
    checkpoint.write(tmp_path / "c.safetensors", tensors, {"loss": 0.1 + 0.2, "history": [{"epoch": 1}]})
    found, state = checkpoint.read(tmp_path / "c.safetensors")
    assert state == {"loss": 0.1 + 0.2, "history": [{"epoch": 1}]}
    assert all(torch.equal(tensors[name], found[name]) for name in tensors)
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.write(path, {"a": torch.ones(1)}, {})
    with pytest.raises(TypeError):
        checkpoint.write(path, {"a": torch.zeros(1)}, {"not": object()})
    assert checkpoint.read(path)[0]["a"].item() == 1


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_damage_is_named(tmp_path, content):
    (tmp_path / "c.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="is damaged .* delete it to start anew"):
        checkpoint.read(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), lambda p: torch.optim.AdamW(p, lr=0.1)]
)
def test_a_restored_optimizer_goes_on_as_the_old_one(make):
    def stepped(module, optimizer, times):
        for _ in range(times):
            optimizer.zero_grad()
            module(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    old, new = make(first.parameters()), make(second.parameters())
    stepped(first, old, 3)
    second.load_state_dict(first.state_dict())
    checkpoint.restore_optimizer(new, {k: v.clone() for k, v in checkpoint.optimizer_tensors(old).items()})
    stepped(first, old, 2)
    stepped(second, new, 2)
    assert torch.equal(first.weight, second.weight)


def test_the_fingerprint_changes_with_options_values_and_types():
    base = checkpoint.fingerprint({"lr": 0.1}, {"w": torch.zeros(2)})
    assert base == checkpoint.fingerprint({"lr": 0.1}, {"w": torch.zeros(2)})
    others = [
        checkpoint.fingerprint({"lr": 0.2}, {"w": torch.zeros(2)}),
        checkpoint.fingerprint({"lr": 0.1}, {"w": torch.ones(2)}),
        checkpoint.fingerprint({"lr": 0.1}, {"w": torch.zeros(2, dtype=torch.float64)}),
        checkpoint.fingerprint({"lr": 0.1}, {"w": torch.zeros(1, 2)}),
    ]
    assert base not in others
    assert len(set(others)) == 4


def test_prefixes_are_taken_on_and_off():
    tensors = {"w": torch.ones(1)}
    both = checkpoint.prefixed("a", tensors) | checkpoint.prefixed("ab", {"w": torch.zeros(1)})
    assert checkpoint.under("a", both) == tensors
