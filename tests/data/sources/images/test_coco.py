"""COCO annotations: boxes and masks in pixels, changed with their images."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data
from compresskit.data.sources.images.coco import mask_of, run_lengths

Image = pytest.importorskip("PIL.Image")


def written(folder, change=None, count=20):
    """An annotation file: image n of 20x(10 + n) with a box at (n, 2), 4 wide and 6 high, and a crowd."""
    (folder / "images").mkdir(parents=True)
    content = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]}
    for number in range(count):
        Image.fromarray(np.full((20, 10 + number, 3), number, np.uint8)).save(folder / "images" / f"{number}.png")
        content["images"].append({"id": 100 + number, "file_name": f"{number}.png"})
        for crowd in (0, 1):
            content["annotations"].append({
                "id": 2 * number + crowd, "image_id": 100 + number, "category_id": (3, 7)[number % 2],
                "bbox": [number, 2, 4, 6], "iscrowd": crowd,
                "segmentation": [[number, 2, number + 3, 2, number + 3, 7, number, 7]],
            })  # fmt: skip
    if change:
        change(content)
    (folder / "instances_train.json").write_text(json.dumps(content))
    return f"coco:{folder}/instances_train.json"


def test_boxes_and_masks_are_those_of_the_file(tmp_path):
    data = open_data(written(tmp_path), args={"masks": True})
    assert data.size("test") == 4 and data.classes[3] == "cat" and data.num_classes is None
    (images,), targets = next(iter(data.batches("train", batch_size=7)))
    for image, target in zip(images, targets, strict=True):
        number = round(float(image[0, 0, 0]) * 255)
        assert image.shape == (3, 20, 10 + number)
        assert target["boxes"].tolist() == [[number, 2, number + 4, 8]]
        assert target["labels"].tolist() == [(3, 7)[number % 2]]
        assert int(target["masks"].sum()) == 24 and bool(target["masks"][0, 2:8, number : number + 4].all())


def test_a_size_changes_images_boxes_and_masks(tmp_path):
    data = open_data(written(tmp_path), args={"size": "40x30", "masks": True}, collate="stack")
    inputs, targets = next(iter(data.batches("train", batch_size=8)))
    assert inputs.shape[1:] == (3, 40, 30)
    for image, target in zip(inputs, targets, strict=True):
        number = round(float(image[0, 0, 0]) * 255)
        scale = 30 / (10 + number)
        torch.testing.assert_close(target["boxes"], torch.tensor([[number * scale, 4, (number + 4) * scale, 16]]))
        assert target["masks"].shape == (1, 40, 30)


def with_keypoints(content):
    for entry in content["annotations"]:
        x = entry["bbox"][0]
        entry["keypoints"] = [x, 2, 2, x + 2, 5, 1] if entry["id"] != 2 else [0] * 6


def test_keypoints_follow_the_size_and_instances_without_any_are_left_out(tmp_path):
    location = written(tmp_path, with_keypoints)
    counts = []
    for size in ({}, {"size": "40x30"}):
        data = open_data(location, args={"keypoints": True, **size}, collate="list")
        for split in ("train", "val", "test"):
            for (images,), targets in data.batches(split, batch_size=4):
                for image, target in zip(images, targets, strict=True):
                    number = round(float(image[0, 0, 0]) * 255)
                    scale, tall = (30 / (10 + number), 2) if size else (1, 1)
                    points = torch.tensor([[number * scale, 2 * tall, 2], [(number + 2) * scale, 5 * tall, 1]]).float()
                    counts.append(len(target["keypoints"]))
                    torch.testing.assert_close(target["keypoints"], points.expand(len(target["boxes"]), 2, 3))
    assert sum(counts) == 2 * 19 and counts.count(0) == 2  # the one image whose points are not labelled


@pytest.mark.parametrize(
    ("change", "first", "message"),
    [
        (lambda c: None, {}, "has instances of \\[\\] keypoints"),
        (with_keypoints, {"keypoints": [1, 2, 2]}, "has instances of \\[1, 2\\] keypoints"),
        (with_keypoints, {"keypoints": [1, 2, 2, 4]}, "annotation 0 needs keypoints"),
    ],
)
def test_keypoints_that_do_not_fit_are_refused(tmp_path, change, first, message):
    location = written(tmp_path, lambda content: change(content) or content["annotations"][0].update(first))
    with pytest.raises(InputError, match=message):
        open_data(location, args={"keypoints": True})


def test_run_lengths_are_as_pycocotools_writes_them():
    coding = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((37, 23), np.uint8)
    mask[3:30, 2:9] = 1
    mask[::5, 10:22] = 1
    coded = coding.encode(np.asfortranarray(mask))
    found = mask_of({"size": [37, 23], "counts": coded["counts"].decode()}, 37, 23)
    assert np.array_equal(found, mask.astype(bool))
    plain = mask_of({"size": [37, 23], "counts": run_lengths(coded["counts"].decode())}, 37, 23)
    assert np.array_equal(plain, found)


@pytest.mark.parametrize(
    ("change", "args", "message"),
    [
        (lambda c: c.pop("images"), {}, "is no COCO annotation file: KeyError 'images'"),
        (lambda c: c["annotations"][0].update(image_id=5), {}, "annotation 0 is of image 5, which is not there"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2]), {}, "annotation 0 needs bbox"),
        (lambda c: c["annotations"][2].pop("segmentation"), {"masks": True}, "annotation 2 has no segmentation"),
        (lambda c: c["images"][4].update(file_name="no.png"), {}, "image '.*no.png' does not exist; .*images=DIR"),
        (lambda c: c["images"].clear() or c["annotations"].clear(), {}, "names no images"),
        (lambda c: None, {"images": "nowhere"}, "image folder 'nowhere' does not exist"),
        (lambda c: None, {"masks": "all"}, "masks is true or false"),
        (lambda c: None, {"test": "no.json"}, "annotations 'no.json' does not exist"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, args, message):
    with pytest.raises(InputError, match=message):
        open_data(written(tmp_path, change), args=args)


def test_bad_segmentations_are_named():
    with pytest.raises(InputError, match="three corners"):
        mask_of([[1, 2, 3]], 4, 4)
    with pytest.raises(InputError, match="is of size .5, 4., its image .4, 4."):
        mask_of({"size": [5, 4], "counts": [20]}, 4, 4)
    with pytest.raises(InputError, match="add up to 3 of 16 pixels"):
        mask_of({"size": [4, 4], "counts": [3]}, 4, 4)
    with pytest.raises(InputError, match="end in the middle"):
        run_lengths("P")
