"""What is applied to images: arguments, values, and the line that says it."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset

from compresskit.core.errors import InputError
from compresskit.core.types import Preprocessing
from compresskit.core.user_code.in_memory import named_objects
from compresskit.data.dataset import open_data
from compresskit.data.preprocessing import Asked, ImageTransform, resized_map, take_arguments


def test_arguments_of_every_form_are_read_as_text_or_lists():
    asked, rest = take_arguments(
        {"size": "32x48", "mean": "0.5,0.4,0.3", "std": [1, 2, 3], "order": "bgr", "n": 3}, "d"
    )
    assert asked == Asked((32, 48), (0.5, 0.4, 0.3), (1.0, 2.0, 3.0), "bgr")
    assert rest == {"n": 3}
    asked, rest = take_arguments({"size": 8, "mean": 0.5}, "d", own=["size", "mean"])
    assert asked == Asked() and rest == {"size": 8, "mean": 0.5}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"size": 0}, "size must be an integer from 1 to 8192, or HEIGHTxWIDTH, got 0"),
        ({"size": "3x4x5"}, "size must be"),
        ({"channels": "rgb"}, "channels must be an integer from 1 to 1024, got 'rgb'"),
        ({"mean": 0.5}, "give mean and std together"),
        ({"mean": "a", "std": 1}, "mean must be a number, or one a channel"),
        ({"mean": [0.5, 0.5], "std": 1}, "one number a channel each"),
        ({"mean": 0.5, "std": 0}, "std above 0"),
        ({"order": "grb"}, "order is one of rgb, bgr, got 'grb'"),
        ({"preprocess": True}, "preprocess is one of auto, model, none, got True"),
    ],
)
def test_bad_arguments_are_named(args, message):
    with pytest.raises(InputError, match=message):
        take_arguments(args, "d")


def test_order_and_normalization_of_stacked_and_listed_images():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1).expand(3, 2, 2)
    transform = ImageTransform(Preprocessing((0.5, 0.5, 0.5), (0.5, 0.25, 1.0)), order="bgr")
    expected = torch.tensor([(1 - 0.5) / 0.5, (0.2 - 0.5) / 0.25, (0 - 0.5) / 1.0]).reshape(3, 1, 1).expand(3, 2, 2)
    torch.testing.assert_close(transform(image[None]), expected[None])
    (listed,) = transform(([image, image[:, :1]],))
    torch.testing.assert_close(listed[0], expected)
    assert listed[1].shape == (3, 1, 2)
    rows = torch.rand(4, 3)
    assert transform(rows) is rows
    assert transform({"ids": rows})["ids"] is rows


def test_values_of_a_factory_are_touched_only_where_it_is_asked_for():
    model = Preprocessing((0.5,), (0.5,), (4, 4), 1)
    images, classes = torch.rand(20, 1, 8, 8), torch.arange(20) % 2
    with named_objects({"f": lambda: ((images, classes), (images, classes))}):
        inputs, _ = next(iter(open_data("in-memory:f", model).batches("test", batch_size=20)))
        assert torch.equal(inputs, images)
        data = open_data("in-memory:f", model, {"mean": 0.5, "std": 0.5})
        assert data.applied == "images are normalized with mean 0.5 and std 0.5"
        torch.testing.assert_close(next(iter(data.batches("test", batch_size=20)))[0], images * 2 - 1)
        assert open_data("in-memory:f", model, {"size": 6}).input_shape == (1, 6, 6)
        coloured, _ = next(iter(open_data("in-memory:f", model, {"channels": "3"}).batches("test", batch_size=20)))
        assert torch.equal(coloured, images.expand(-1, 3, -1, -1))
    with named_objects({"f": lambda size: ((images[:size], classes[:size]), (images, classes))}):
        data = open_data("in-memory:f", model, {"size": 10})  # its own argument
        assert (data.size("train"), data.input_shape) == (9, (1, 8, 8))
    with named_objects({"f": lambda: ((rows, classes), (rows, classes))}):
        rows = torch.rand(20, 3)
        assert open_data("in-memory:f", model).applied == ""


def test_maps_take_the_nearest_pixel():
    values = torch.arange(12).reshape(3, 4)
    assert resized_map(values, (6, 8))[::2, ::2].tolist() == values.tolist()
    assert resized_map(values, (3, 2)).tolist() == [[1, 3], [5, 7], [9, 11]]
    assert resized_map(values, None) is values


def test_boxes_masks_and_maps_get_the_size_of_their_images():
    transform = ImageTransform(Preprocessing(size=(4, 16)))
    image = torch.rand(3, 8, 8)
    boxed = {
        "boxes": torch.tensor([[2.0, 2.0, 6.0, 8.0]]), "labels": torch.tensor([1]), "area": torch.tensor([24.0]),
        "masks": torch.arange(64).reshape(1, 8, 8),
    }  # fmt: skip
    (images,), (target,) = transform.pair(([image],), [boxed])
    assert images[0].shape == (3, 4, 16)
    assert target["boxes"].tolist() == [[4.0, 1.0, 12.0, 4.0]]
    assert (target["area"].tolist(), target["labels"].tolist()) == ([24.0], [1])
    assert target["masks"].shape == (1, 4, 16) and target["masks"][0, 0, 0] == 8
    maps = torch.arange(64).reshape(1, 8, 8)
    inputs, found = transform.pair(image[None], maps)
    assert inputs.shape == (1, 3, 4, 16) and torch.equal(found, target["masks"])
    _, named = transform.pair(image[None], {"depth": torch.ones(1, 8, 8), "class": torch.tensor([3])})
    assert torch.equal(named["depth"], torch.ones(1, 4, 16)) and named["class"].tolist() == [3]
    vectors = torch.rand(5, 8)
    assert transform.pair(vectors, maps) == (vectors, maps)  # no images


class Sizes(Dataset):
    """Images of several sizes, with a class or a map of classes."""

    def __init__(self, maps: bool):
        self.maps = maps

    def __len__(self):
        return 20

    def __getitem__(self, index):
        image = torch.full((3, 8 + index % 3, 6), index / 20)
        return image, torch.full(image.shape[1:], index % 2) if self.maps else index % 2


@pytest.mark.parametrize("maps", [False, True])
def test_images_of_several_sizes_are_one_tensor_where_a_size_is_asked_for(maps):
    def batch(args, collate="auto"):
        with named_objects({"d": (Sizes(maps), Sizes(maps))}):
            data = open_data("in-memory:d", args=args, collate=collate)
            return data, *next(iter(data.batches("test", batch_size=4)))

    data, inputs, targets = batch({"size": 8})
    assert data.input_shape == (3, 8, 8) and inputs.shape == (4, 3, 8, 8)
    torch.testing.assert_close(inputs[:, 0, 0, 0], torch.arange(4) / 20)
    assert targets.shape == ((4, 8, 8) if maps else (4,)) and targets[1].unique().tolist() == [1]
    for args, collate in (({}, "auto"), ({"size": 8}, "list")):  # a list is what the user said, or all there is
        _, (images,), _ = batch(args, collate)
        assert len(images) == 4 and images[0].shape == ((3, 8, 8) if args else (3, 8, 6))


def test_images_in_bytes_beside_other_inputs_are_fitted_and_these_stay():
    images, row = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8), torch.tensor([[300.0], [2.0]])
    transform = ImageTransform(Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3))
    found, same = transform((images, row))
    assert torch.equal(found, torch.ones(2, 3, 4, 4)) and torch.equal(same, row)
    assert transform.described((row, images)).startswith("images are bytes scaled to [0, 1]")
    assert transform.described((row, row)) == ""
