"""Batches of single examples: what is stacked, what stays a list, what are inputs and targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.data.collate import Collate, as_list, auto, input_name, make_collate, pad, pair_of, stack


def boxes(count):
    return {"boxes": torch.rand(count, 4), "labels": torch.arange(count)}


DETECTION = [(torch.rand(3, 4, 5), boxes(1)), (torch.rand(3, 4, 5), boxes(2)), (torch.rand(3, 6, 2), boxes(0))]


@pytest.mark.parametrize("function", [None, as_list, lambda batch: tuple(zip(*batch, strict=True))])
def test_detection_in_the_form_of_torchvision(function):
    for count in (1, 2, 3):
        inputs, targets = Collate.fitting(function, DETECTION[:2], "d")(DETECTION[:count])
        assert isinstance(inputs, tuple) and len(inputs) == 1  # one argument of forward
        assert [image.shape for image in inputs[0]] == [image.shape for image, _ in DETECTION[:count]]
        assert isinstance(targets, list) and [len(target["boxes"]) for target in targets] == [1, 2, 0][:count]


def test_images_of_one_size_are_stacked_where_that_is_asked_for():
    inputs, targets = Collate.fitting(stack, DETECTION[:2], "d")(DETECTION[:2])
    assert inputs.shape == (2, 3, 4, 5) and [len(target["labels"]) for target in targets] == [1, 2]


def test_columns_are_no_lists_even_where_their_number_is_that_of_the_examples():
    examples = [((torch.ones(3), torch.zeros(2)), {"class": n, "size": float(n)}) for n in range(4)]
    for count in (1, 2, 3):
        inputs, targets = Collate.fitting(None, examples[:2], "d")(examples[:count])
        assert [tuple(column.shape) for column in inputs] == [(count, 3), (count, 2)]
        assert targets["class"].dtype == torch.int64 and targets["size"].tolist() == list(range(count))


def test_examples_of_several_lengths_are_a_list_with_classes_in_one_tensor():
    examples = [(torch.ones(2), 0), (torch.ones(5), 1), (torch.ones(1), 2)]
    (inputs,), targets = Collate.fitting(None, examples[:2], "d")(examples)
    assert [len(one) for one in inputs] == [2, 5, 1] and targets.tolist() == [0, 1, 2]
    inputs, _ = auto(examples)
    assert len(inputs) == 3


def test_padding_fills_inputs_with_0_and_classes_with_the_ignored_one():
    examples = [({"ids": torch.ones(2, dtype=torch.long)}, torch.ones(2, dtype=torch.long)),
                ({"ids": torch.ones(4, dtype=torch.long)}, torch.ones(4, dtype=torch.long))]  # fmt: skip
    inputs, targets = Collate.fitting(pad, examples, "d")(examples)
    assert inputs["ids"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert targets.tolist() == [[1, 1, -100, -100], [1, 1, 1, 1]]


def test_ready_batches_tell_lists_from_columns_by_themselves():
    images = [torch.rand(3, 4, 4), torch.rand(3, 5, 5)]
    inputs, targets = pair_of((images, [boxes(1), boxes(2)]), "d")
    assert len(inputs[0]) == 2 and len(targets) == 2
    inputs, targets = pair_of(([torch.rand(2, 3), torch.rand(2, 4)], torch.zeros(2)), "d")
    assert [tuple(column.shape) for column in inputs] == [(2, 3), (2, 4)]
    inputs, targets = pair_of((images, np.array([0.5, 1.5])), "d")
    assert len(inputs[0]) == 2 and targets.dtype == torch.float64
    _, targets = pair_of((torch.rand(2, 3), ["ab", "c"]), "d")
    assert targets == ["ab", "c"]


def test_names(tmp_path):
    assert make_collate("auto") is None and make_collate("pad") is pad
    (tmp_path / "mine.py").write_text("def fn(examples):\n    return examples[0]\n")
    assert make_collate(f"{tmp_path}/mine.py:fn")([3]) == 3
    with pytest.raises(InputError, match="unknown collate function 'padd'.*did you mean 'pad'"):
        make_collate("padd")


def test_a_dataclass_is_read_by_the_names_of_its_fields():
    @dataclass
    class Example:
        image: torch.Tensor
        label: torch.Tensor

    image, label = torch.rand(2, 3), torch.tensor([1, 0])
    assert pair_of(Example(image, label), "d")[0] is image and pair_of(Example(image, label), "d")[1] is label


def test_the_name_of_a_lone_input():
    @dataclass
    class Example:
        image: int
        label: int

    assert input_name({"image": 1, "label": 2}) == input_name(Example(1, 2)) == input_name({"image": 1}) == "image"
    assert {input_name(one) for one in ({"a": 1, "b": 2}, (1, 2), {"label": 1}, {}, {3: 1})} == {""}
