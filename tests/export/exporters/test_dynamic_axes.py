"""Which dimensions of inputs may vary, as the model itself shows it."""

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.export.exporters.dynamic_axes import free_axes, resized, second_size, with_mask


class OfLength(nn.Module):
    """Takes features of one length only."""

    def forward(self, features):
        return features.reshape(-1, 6 * 4)


def test_batch_height_and_width_of_images():
    found = free_axes(nn.Conv2d(3, 2, 3), torch.randn(1, 3, 32, 48), ["batch", "height", "width"])
    assert found == [{0: "batch", 2: "height", 3: "width"}]


def test_a_length_is_where_the_model_takes_another_one():
    assert free_axes(nn.GRU(4, 3, batch_first=True), torch.randn(1, 6, 4), ["length"]) == [{1: "length"}]
    assert free_axes(nn.Conv1d(6, 3, 2), torch.randn(1, 6, 4), ["length"]) == [{2: "length"}]
    assert free_axes(nn.Embedding(9, 3), torch.tensor([[1, 2]]), ["length"]) == [{1: "length"}]


def test_encoders_and_decoders_have_lengths_of_their_own():
    class Both(nn.Module):
        def forward(self, input_ids, decoder_input_ids):
            return input_ids.sum(1), decoder_input_ids.sum(1)

    example = {"input_ids": torch.ones(1, 4, dtype=torch.long), "decoder_input_ids": torch.ones(1, 6, dtype=torch.long)}
    assert free_axes(Both(), example, ["batch", "length"]) == [
        {0: "batch", 1: "length"}, {0: "batch", 1: "decoder_length"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "module, example, name, match",
    [
        (nn.Linear(6, 2), torch.randn(1, 6), "length", "takes no other size there .*shapes cannot be multiplied"),
        (OfLength(), torch.randn(1, 6, 4), "length", "takes no other size there"),
        (nn.Linear(6, 2), torch.randn(1, 6), "height", "no input has such a dimension"),
    ],
)
def test_a_model_of_one_size_is_refused_with_the_reason(module, example, name, match):
    with pytest.raises(InputError, match=f"dynamic '{name}': .*{match}.*leave it out of --dynamic"):
        free_axes(module, example, [name])


def test_other_sizes_repeat_what_is_there():
    found = resized({"ids": torch.tensor([[5, 7]])}, [{0: "batch", 1: "length"}], lambda size, name: size + 1)
    assert found["ids"].tolist() == [[5, 7, 5], [5, 7, 5]]


def test_a_model_that_takes_nothing_longer_is_tried_with_less():
    assert second_size(nn.Embedding(9, 3), torch.ones(1, 8, dtype=torch.long), [{1: "length"}]).shape == (1, 12)

    class AtMostEight(nn.Module):
        def forward(self, ids):
            return ids + torch.zeros(8)[: ids.shape[1]]

    assert second_size(AtMostEight(), torch.ones(1, 8), [{1: "length"}]).shape == (1, 4)


def test_token_ids_get_the_mask_that_the_model_takes():
    class Reads(nn.Module):
        def forward(self, input_ids, attention_mask=None):
            return input_ids

    found = with_mask(Reads(), {"input_ids": torch.tensor([[3, 4]])})
    assert found["attention_mask"].tolist() == [[1, 1]]
    assert with_mask(nn.Linear(2, 2), {"input_ids": torch.ones(1, 2)}).keys() == {"input_ids"}
