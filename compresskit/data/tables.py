"""Registries of what reads and changes data: readers and augmentations. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..core.registry import Registry, Row

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..core.types import Preprocessing
    from .splits.base import Splits

_PACKAGE = "compresskit.data"
#: of rows that stand on torchvision: the module that they import
_TORCHVISION: dict[str, Any] = {"imports": "torchvision.transforms.v2"}
#: of rows that move boxes, masks and maps with their images (`paired_augmentations`)
_PAIRED: dict[str, Any] = {"paired": True}
#: of readers whose values are numbers that a model takes as they are
_VALUES = {"values": "as given"}
#: what stands behind the colon of a data string
_FOLDER, _FILE = {"location": "folder"}, {"location": "file"}

READERS: Registry[Callable[[str, Preprocessing], Splits]] = Registry(
    "data form",
    _PACKAGE,
    {
        "digits": Row(
            "sources.images.digits:digits",
            "1,797 grey 8x8 digits of scikit-learn, embedded; no download",
            attributes={"location": "none"},
        ),
        "digits-detection": Row(
            "sources.images.digits_scenes:digits_detection",
            "scenes of those digits with their boxes, in torchvision's form; no download",
            attributes={"location": "none"},
        ),
        "digits-segmentation": Row(
            "sources.images.digits_scenes:digits_segmentation",
            "scenes of those digits with the class of every pixel; no download",
            attributes={"location": "none"},
        ),
        "imagefolder": Row(
            "sources.images.imagefolder:imagefolder",
            "imagefolder:DIR, images as SPLIT/CLASS/FILE; max_bad files are skipped",
            attributes=_FOLDER,
        ),
        "segfolder": Row(
            "sources.images.segfolder:segfolder",
            "segfolder:DIR, folders images and masks (classes of pixels)",
            attributes=_FOLDER,
        ),
        "coco": Row(
            "sources.images.coco:coco",
            "coco:ANN.json, boxes and masks; images=DIR, val=, test= are further files",
            attributes=_FILE,
        ),
        "yolo": Row(
            "sources.images.yolo:yolo", "yolo:data.yaml, images and a text file of boxes each", attributes=_FILE
        ),
        "npz": Row(
            "sources.tables.npz:npz",
            "npz:FILE, arrays x_train, y_train, x_test, y_test (or x and y)",
            attributes=_VALUES | _FILE,
        ),
        "csv": Row(
            "sources.tables.csv:csv",
            "csv:FILE, columns of numbers, categories or image paths; target=COLUMNS, else label, target or the last",
            attributes=_FILE,
        ),
        "jsonl": Row(
            "sources.tables.jsonl:jsonl",
            "jsonl:FILE, an object a line, read as the rows of a csv; by models of text as text: reads it",
            attributes=_FILE,
        ),
        "text": Row(
            "sources.text:text",
            "text:FILE_OR_DIR, a corpus for language models, else texts and classes of .csv, .jsonl or CLASS/FILE.txt; "
            "tokenizer=DIR_OR_ID (default: the model's, else bytes), length=, column=, samples=",
            attributes=_VALUES | {"location": "path"},
        ),
        "hf": Row(
            "sources.hf:hf",
            "hf:DIR_OR_ID, a Hugging Face data set; columns image, text or inputs, and label can be named",
        ),
        "wds": Row(
            "sources.images.wds:wds", "wds:name-{000..012}.tar, tar shards of webdataset with KEY.jpg and KEY.cls"
        ),
        "audio": Row(
            "sources.audio:audio",
            "audio:DIR, WAV files as SPLIT/CLASS/FILE; rate, seconds, form",
            attributes=_VALUES | _FOLDER,
        ),
    },
    group="readers",
    takes=("location", "preprocessing"),
    doc="""What reads data: the part of a data string before the colon; `file.py:name:LOCATION` names one's own.

A row is a function (location, preprocessing) -> splits: `location` is what stands behind the colon, `preprocessing`
(core.types.Preprocessing) what the model expects of images. It returns sources.Splits of anything that has a length
and `take(indices) -> (inputs, targets)`, uint8 inputs being images in [0, 255]; or (train, test) or
(train, val, test), each a pair (inputs (n, ...), targets (n, ...)).""",
)

COLLATES: Registry[Callable[[list[Any]], Any]] = Registry(
    "collate function",
    _PACKAGE,
    {
        "auto": Row("collate:auto", "list for boxes and for examples of several shapes, else stack"),
        "stack": Row("collate:stack", "tensors of one shape stacked, as torch's default_collate; boxes stay a list"),
        "list": Row("collate:as_list", "a list of inputs and a list of targets, as torchvision's detectors take them"),
        "pad": Row("collate:pad", "filled up to the longest with 0 (class targets with -100), then stacked"),
    },
    group="collates",
    takes=("examples",),
    doc="""What makes a batch of a list of examples.

A row is a function (examples) -> batch: `examples` is a list of what the data set gives for each index, the batch is
(inputs, targets) or a mapping with one of the keys labels, label, targets, target, y.""",
)

AUGMENTATIONS: Registry[Callable[[Tensor, torch.Generator], Tensor]] = Registry(
    "augmentation",
    _PACKAGE,
    {
        "crop": Row(
            "augmentation.transforms:random_crop",
            "pad by an eighth of the side with zeros and cut at a random place",
            attributes=_PAIRED,
        ),
        "flip": Row("augmentation.transforms:random_flip", "mirror half of the images left-right", attributes=_PAIRED),
        "resizedcrop": Row(
            "augmentation.image_operations:resized_crop",
            "a random part of half to all of an image, at its own size (needs torchvision)",
            "Szegedy et al., 2015",
            attributes=_TORCHVISION | _PAIRED,
        ),
        "randaugment": Row(
            "augmentation.image_operations:rand_augment",
            "RandAugment: two random operations an image (needs torchvision)",
            "Cubuk et al., 2020",
            attributes=_TORCHVISION,
        ),
        "trivialaugment": Row(
            "augmentation.image_operations:trivial_augment",
            "TrivialAugment: one random operation of random strength an image (needs torchvision)",
            "Müller & Hutter, 2021",
            attributes=_TORCHVISION,
        ),
        "colorjitter": Row(
            "augmentation.image_operations:color_jitter",
            "brightness, contrast and saturation change by up to 40 % (needs torchvision)",
            "Krizhevsky et al., 2012",
            attributes=_TORCHVISION | {"moves": False},
        ),
        "erase": Row(
            "augmentation.image_operations:erase",
            "half of the images lose a random rectangle (needs torchvision)",
            "Zhong et al., 2020",
            attributes=_TORCHVISION | {"moves": False},
        ),
    },  # fmt: skip
    group="augmentations",
    returns="row_checks:augmented",
    takes=("inputs", "generator"),
    doc="""Random changes of training inputs.

A row is a function (inputs, generator) -> inputs of the same shape: a batch (batch, ...), images in [0, 1], before
normalization. Every draw comes from the generator, so that a run repeats. Where targets are boxes, masks or maps, only
rows that move them too are taken, and those that move nothing: a function with an attribute `moves` that is False.""",
)
