"""Options of what trains: rows of augmentations, and the packages that they need."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from compresskit.pruning.options import PruneOptions
from compresskit.quantization.options import QuantizeOptions
from compresskit.search.options import SearchOptions
from compresskit.training.options import RecoverOptions, StepOptions, TrainOptions


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


def test_options_of_recovery_are_one_group_with_a_short_form():
    nested = PruneOptions(ratio=0.5, recover={"mode": "kd", "epochs": 2, "augment": ["flip"]})
    beside = PruneOptions(ratio=0.5, recover="kd", epochs=2, augment=["flip"])
    assert nested == beside and nested.recover.epochs == 2 and nested.recover.lr == 0.01
    assert beside.model_dump(exclude_unset=True)["recover"] == {"mode": "kd", "epochs": 2, "augment": ["flip"]}
    assert PruneOptions(ratio=0.5, recover="kd").recover == RecoverOptions(mode="kd")
    assert "recover" not in PruneOptions(ratio=0.5).model_dump(exclude_unset=True)
    assert "flip" in [name for _, _, name in nested.named_rows()]
    erasing = PruneOptions(ratio=0.5, recover={"mode": "kd", "augment": ["erase"], "tensorboard": True})
    assert set(erasing.packages()) == {"torch.utils.tensorboard", "torchvision.transforms.v2"}
    assert not nested.without_training().trains()


def test_an_option_of_the_group_is_given_once():
    with pytest.raises(ValidationError, match="epochs is given twice, by itself and as recover.epochs"):
        PruneOptions(ratio=0.5, recover={"mode": "kd", "epochs": 2}, epochs=3)
    with pytest.raises(ValidationError, match="schedule is now lr_schedule"):
        PruneOptions(ratio=0.5, recover={"mode": "kd", "schedule": "cosine"})


def test_an_option_with_the_name_of_a_groups_keeps_it():
    common = {"target_macs": 0.5, "recover": "kd"}
    options = SearchOptions(**common, warmup=0.5, recover_warmup=0.1, policy="amc")
    assert options.warmup == 0.5 and options.recover.warmup == 0.1
    assert SearchOptions(**common).recover.warmup == RecoverOptions().warmup


def test_learned_steps_train_by_the_groups_options_and_defaults_of_their_own():
    options = QuantizeOptions(qat="kd", recover={"epochs": 3, "lr": 0.1})
    assert (options.qat_options().lr, options.qat_options().grad_clip, options.qat_options().epochs) == (0.1, 1.0, 3)
