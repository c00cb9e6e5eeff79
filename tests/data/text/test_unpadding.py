"""Cutting padding off: lengths, what stays whole, and the moments that calibration takes."""

import numpy as np
import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.data.text.blocks import padded
from compresskit.data.text.unpadding import without_padding
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context


def batch(*lengths, width=6):
    rows = [np.arange(1, length + 1) + 10 * number for number, length in enumerate(lengths)]
    return padded(rows, width, 0)


def test_rows_of_one_length_stay_together_and_end_where_the_mask_does():
    others = {"token_type_ids": torch.ones(4, 6), "labels": torch.arange(4), "scale": torch.ones(())}
    inputs = {**batch(6, 2, 6, 3), **others}
    found = without_padding([inputs])
    assert [one["input_ids"].tolist() for one in found] == [
        [[1, 2, 3, 4, 5, 6], [21, 22, 23, 24, 25, 26]], [[11, 12]], [[31, 32, 33]],
    ]  # fmt: skip
    assert all(one["attention_mask"].all() for one in found)
    assert [tuple(one["token_type_ids"].shape) for one in found] == [(2, 6), (1, 2), (1, 3)]
    assert [one["labels"].tolist() for one in found] == [[0, 2], [1], [3]]
    assert all(one["scale"].dim() == 0 for one in found)


@pytest.mark.parametrize(
    "inputs",
    [
        torch.ones(2, 3),
        (torch.ones(2), torch.ones(2)),
        {"input_ids": torch.ones(2, 3)},
        batch(6, 6),
        {"input_ids": torch.ones(1, 3), "attention_mask": torch.tensor([[0, 1, 1]])},
        {"input_ids": torch.ones(2, 3), "attention_mask": torch.tensor([[1, 0, 0], [0, 0, 0]])},
        {"input_ids": torch.ones(1, 2), "attention_mask": torch.tensor([[0.0, -1e9]])},
        {"input_ids": torch.ones(1, 2), "attention_mask": torch.tensor([[[1, 0]]])},
    ],
)
def test_other_batches_stay_as_they_are(inputs):
    (found,) = without_padding([inputs])
    assert found is inputs


def test_a_model_that_heeds_the_mask_says_the_same():
    torch.manual_seed(0)
    attention, embedding = nn.MultiheadAttention(8, 2, batch_first=True).eval(), nn.Embedding(40, 8)

    def run(inputs):
        x = embedding(inputs["input_ids"])
        return attention(x, x, x, key_padding_mask=inputs["attention_mask"] == 0)[0]

    inputs = batch(6, 2, 3)
    whole = run(inputs)
    for number, part in enumerate(without_padding([inputs])):
        found = run(part)
        torch.testing.assert_close(found, whole[number : number + 1, : found.shape[1]])


def test_gptq_takes_moments_of_tokens_alone():
    """What stands behind the ends changes nothing."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.linear = nn.Embedding(40, 16), nn.Linear(16, 16)

        def forward(self, input_ids, attention_mask):
            return self.linear(self.embedding(input_ids)) * attention_mask.unsqueeze(-1)

    def codes(pad):
        class Texts:
            def calibration(self, samples, *, batch_size=64, seed=0):
                return [padded([np.arange(1, 2 + number % 9) for number in range(30)], 12, pad)]

        torch.manual_seed(0)
        loaded = Loaded(Net().eval(), {}, batch(6))
        options = QuantizeOptions(scheme="int4-weight", rounding="gptq", reconstruct="none", layers=["linear"])
        quantize(loaded, options, Context(loaded.clone(), data=Texts()))
        return loaded.module.linear.weight.detach()

    assert torch.equal(codes(30), codes(31))
