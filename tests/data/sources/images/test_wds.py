"""Tar shards: samples by place, in order, without unpacking."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest

from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data
from compresskit.data.sources.images.wds import shards_of

Image = pytest.importorskip("PIL.Image")


def png(number, size=(4, 5)):
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), number, np.uint8)).save(file, "png")
    return file.getvalue()


def write(path, samples, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in samples:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def sample(number, target=None):
    return [(f"x/{number:03}.png", png(number)), target or (f"x/{number:03}.cls", str(number % 3).encode())]


def test_samples_of_several_shards(tmp_path):
    for shard in range(3):
        write(tmp_path / f"d-{shard:02}.tar", [m for number in range(10) for m in sample(10 * shard + number)])
    data = open_data(f"wds:{tmp_path}/d-{{00..02}}.tar", workers=0)
    found = [pair for split in ("train", "val", "test") for pair in data.batches(split, batch_size=1)]
    numbers = sorted(round(float(inputs[0, 0, 0, 0]) * 255) for inputs, _ in found)
    assert numbers == list(range(30)) and data.input_shape == (3, 4, 5)
    assert all(round(float(inputs[0, 0, 0, 0]) * 255) % 3 == int(targets[0]) for inputs, targets in found)
    assert open_data(f"wds:{tmp_path}", args={"size": 2, "test": f"{tmp_path}/d-0[01].tar"}).size("test") == 20


def test_targets_of_other_kinds(tmp_path):
    array = io.BytesIO()
    np.save(array, np.array([0.5, 1.5], np.float32))
    targets = {"json": json.dumps({"age": 4}).encode(), "npy": array.getvalue()}
    for kind, content in targets.items():
        write(tmp_path / f"{kind}.tar", [m for n in range(20) for m in sample(n, (f"x/{n:03}.{kind}", content))])
    json_data = open_data(f"wds:{tmp_path}/json.tar", args={"key": "age"})
    assert next(iter(json_data.batches("test", batch_size=2)))[1].tolist() == [4, 4]
    arrays = open_data(f"wds:{tmp_path}/npy.tar")
    assert next(iter(arrays.batches("test", batch_size=2)))[1].tolist() == [[0.5, 1.5]] * 2


def test_texts_are_classes_and_lists_labels_or_numbers(tmp_path):
    names = ("zebra", "ant")
    for shard in range(2):
        rows = [
            {"meta": {"name": names[n % 2]}, "tags": [n % 2, 1], "sure": n % 2 == 0, "place": [0.5, n]}
            for n in range(10)
        ]
        samples = [m for n, row in enumerate(rows) for m in sample(n, (f"x/{n:03}.json", json.dumps(row).encode()))]
        write(tmp_path / f"{shard}.tar", samples)

    def targets(key):
        data = open_data(f"wds:{tmp_path}/0.tar", args={"key": key, "test": f"{tmp_path}/1.tar"})
        return data, next(iter(data.batches("test", batch_size=2)))[1]

    data, classes = targets("meta.name")
    assert data.classes == ("ant", "zebra") and data.num_classes == 2 and classes.tolist() == [1, 0]
    _, tags = targets("tags")
    assert tags.tolist() == [[0, 1], [1, 1]] and not tags.is_floating_point()
    assert targets("sure")[1].tolist() == [1, 0]
    _, places = targets("place")
    assert places.tolist() == [[0.5, 0.0], [0.5, 1.0]] and places.is_floating_point()
    with pytest.raises(InputError, match="holds no target: 'meta.age'|holds no target: 'age'"):
        targets("meta.age")


@pytest.mark.parametrize(
    ("samples", "args", "message"),
    [
        ([("a.png", png(1))], {}, "sample './a' holds .png; it needs an image and one of .cls"),
        (
            [("a.png", png(1)), ("a.cls", b"x"), ("b.png", png(1)), ("b.cls", b"1")],
            {},
            "sample 0: .cls holds no target",
        ),
        (
            [("a.png", b"x"), ("a.cls", b"1"), ("b.png", png(1)), ("b.cls", b"1")],
            {},
            "d.tar sample 0.png' cannot be read",
        ),
        ([], {}, "hold no samples"),
        (sample(1), {"target": "jpg"}, "target is one of cls, json, txt, npy|target is one of cls"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, samples, args, message):
    write(tmp_path / "d.tar", samples)
    with pytest.raises(InputError, match=message):
        open_data(f"wds:{tmp_path}/d.tar", args=args)


def test_compressed_and_missing_shards_are_refused(tmp_path):
    write(tmp_path / "d.tar", sample(1), "w:gz")
    with pytest.raises(InputError, match="is no plain tar file"):
        open_data(f"wds:{tmp_path}/d.tar")
    with pytest.raises(InputError, match="d-1.tar' does not exist"):
        shards_of(f"{tmp_path}/d-{{1..2}}.tar")
    with pytest.raises(InputError, match="counts up"):
        shards_of("d-{2..1}.tar")
    with pytest.raises(InputError, match="no such shards"):
        shards_of(f"{tmp_path}/e*.tar")
