"""Options of what trains: rows of augmentations, and the packages that they need."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from compresskit.training.options import StepOptions, TrainOptions


def test_augmentations_are_rows_and_bring_the_packages_that_they_need():
    assert TrainOptions(augment=["flip", "mine.py:tilt"]).packages() == {}
    assert TrainOptions(augment=["flip", "erase"]).packages() == {"torchvision.transforms.v2": "vision"}
    assert [name for _, _, name in TrainOptions(augment=["flip", "mine.py:tilt"]).named_rows()] == [
        "flip",
        "mine.py:tilt",
    ]
    with pytest.raises(ValidationError, match="unknown augmentation 'flp'; did you mean 'flip'"):
        TrainOptions(augment=["flp"])


def test_training_options_without_training_are_refused():
    assert StepOptions(recover="kd", lr=0.1).trains()
    with pytest.raises(ValidationError, match="augment, lr would be ignored: recover is 'none'"):
        StepOptions(lr=0.1, augment=["flip"])


def test_the_options_import_no_torch():
    code = "import sys; import compresskit.training.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
