"""The logit cache: rows are computed once, survive a kill, and never answer for another teacher."""

from __future__ import annotations

import pytest
import torch

from compresskit.distillation.cache import LogitCache

WEIGHTS = {"w": torch.ones(2)}


def double(inputs: torch.Tensor) -> torch.Tensor:
    return 2 * inputs


def refuse(inputs: torch.Tensor) -> torch.Tensor:
    pytest.fail("computed again")


def cache(folder, *, record=None, weights=WEIGHTS) -> LogitCache:
    return LogitCache(folder, rows=10, shape=(3,), record=record or {"data": "digits"}, weights=weights)


def test_only_missing_rows_are_computed(tmp_path):
    store = cache(tmp_path)
    inputs = torch.arange(12.0).reshape(4, 3)
    assert torch.equal(store(inputs[:2], torch.tensor([7, 3]), double), 2 * inputs[:2])
    seen = []

    def watching(part):
        seen.append(part)
        return 2 * part

    rows = torch.tensor([3, 1, 7, 0])
    assert torch.equal(store(inputs[[1, 2, 0, 3]], rows, watching), 2 * inputs[[1, 2, 0, 3]])
    assert [part.tolist() for part in seen] == [inputs[[2, 3]].tolist()]
    assert (store.computed, store.found) == (4, 2)


def test_another_run_finds_them(tmp_path):
    inputs = torch.rand(2, 3)
    cache(tmp_path)(inputs, torch.tensor([0, 9]), double)
    assert torch.equal(cache(tmp_path)(inputs, torch.tensor([0, 9]), refuse), 2 * inputs)


@pytest.mark.parametrize("other", [{"record": {"data": "cifar"}}, {"weights": {"w": torch.zeros(2)}}])
def test_another_teacher_or_data_does_not(tmp_path, other):
    inputs = torch.rand(2, 3)
    cache(tmp_path)(inputs, torch.tensor([0, 9]), double)
    assert torch.equal(cache(tmp_path, **other)(inputs, torch.tensor([0, 9]), torch.zeros_like), torch.zeros(2, 3))


def test_inputs_that_are_not_one_tensor_are_computed_whole(tmp_path):
    store = cache(tmp_path)
    inputs = {"x": torch.rand(2, 3)}
    store({"x": inputs["x"][:1]}, torch.tensor([4]), lambda batch: batch["x"])
    found = store(inputs, torch.tensor([4, 5]), lambda batch: batch["x"])
    assert torch.equal(found, inputs["x"])


def test_the_largest_logits_are_kept_and_the_others_share_what_is_left(tmp_path):
    logits = torch.randn(2, 5, 40, generator=torch.Generator().manual_seed(0))
    store = LogitCache(tmp_path, rows=4, shape=(5, 40), record={"data": "text"}, weights=WEIGHTS, largest=3)
    inputs = torch.zeros(2, 5)
    found = store(inputs, torch.tensor([2, 0]), lambda part: logits)
    again = store(inputs, torch.tensor([2, 0]), refuse)
    assert torch.equal(found, again) and found.shape == logits.shape
    mine, wanted = found.softmax(-1), logits.softmax(-1)
    values, classes = wanted.topk(3, dim=-1)
    assert torch.allclose(mine.gather(-1, classes), values, atol=1e-6)
    others = mine.scatter(-1, classes, 0.0)
    assert torch.allclose(others.sum(-1), 1 - values.sum(-1), atol=1e-6)
    assert torch.allclose(others.amax(-1), others.sum(-1) / 37, atol=1e-6)
    size_bytes = sum(path.stat().st_size for path in tmp_path.glob("*.f32"))
    assert size_bytes == 4 * 4 * 5 * 7
