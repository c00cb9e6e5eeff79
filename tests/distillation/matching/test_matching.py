"""Stages found in traced runs, and how they are paired."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.analysis.dataflow import features
from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.distillation.matching.matching import attention_pairs, heads, match, norm_before_relu, stages, table


def traced(string: str):
    loaded = load_model(string)
    return loaded.module, features(loaded.module, loaded.example)


def names(string: str) -> list[str]:
    return [feature.name for feature in stages(*traced(string))]


def pairs(student: str, teacher: str, **layers) -> list[tuple[str, str]]:
    found = match(*traced(student), *traced(teacher), layers)
    return [(pair.student.name, pair.teacher.name) for pair in found]


def test_stages_of_convolutional_networks_end_at_each_resolution():
    assert names("builtin:cifar_resnet56") == ["layer1", "layer2", "layer3"]
    assert names("builtin:digits_cnn") == ["5", "9"]


@pytest.mark.integration
def test_stages_of_library_models():
    pytest.importorskip("torchvision")
    assert names("torchvision:resnet18")[1:] == ["layer1", "layer2", "layer3", "layer4"]


def test_stages_of_a_transformer_are_its_blocks():
    pytest.importorskip("timm")
    assert names("timm:vit_tiny_patch16_224") == [f"blocks.{number}" for number in range(12)]


def test_stages_of_a_dense_network_are_its_activations():
    assert names("builtin:digits_mlp") == ["2", "4"]


def test_equal_resolutions_are_paired():
    assert pairs("builtin:cifar_resnet20", "builtin:cifar_resnet56") == [(f"layer{n}", f"layer{n}") for n in (1, 2, 3)]


def test_other_depths_are_paired_by_share():
    student, teacher = nn.Sequential(*_layers(2)), nn.Sequential(*_layers(6))
    example = torch.zeros(1, 4)
    found = match(student, features(student, example), teacher, features(teacher, example), {})
    assert [(pair.student.name, pair.teacher.name) for pair in found] == [("1", "5"), ("3", "11")]


def _layers(depth: int) -> list[nn.Module]:
    return [layer for _ in range(depth) for layer in (nn.Linear(4, 4), nn.ReLU())] + [nn.Linear(4, 3)]


def test_named_layers_are_taken_as_they_are():
    assert pairs("builtin:digits_mlp", "builtin:digits_mlp", **{"2": "4"}) == [("2", "4")]
    with pytest.raises(InputError, match="the student has no layer '22' that returns a tensor; did you mean '2'"):
        pairs("builtin:digits_mlp", "builtin:digits_mlp", **{"22": "4"})


def test_the_classifier_is_the_linear_layer_that_gave_the_logits():
    assert traced("builtin:cifar_resnet20")[1].classifier == "linear"
    assert traced("builtin:digits_mlp")[1].classifier == "5"


def test_the_table_shows_shapes():
    found = match(*traced("builtin:digits_cnn_small"), *traced("builtin:digits_cnn"), {})
    assert table(found)[0] == {
        "student layer": "5",
        "student shape": "32 x 8 x 8",
        "teacher layer": "5",
        "teacher shape": "128 x 8 x 8",
    }


def test_the_norm_before_a_stages_relu():
    module, run = traced("builtin:cifar_resnet20")
    assert norm_before_relu(module, run, stages(module, run)[1]) == "layer2.2.bn2"


def test_attention_layers_are_paired_by_depth():
    assert attention_pairs(3, 6) == [(0, 1), (1, 3), (2, 5)]
    with pytest.raises(InputError, match="the teacher makes no call of scaled_dot_product_attention"):
        attention_pairs(3, 0)


def test_widening_inside_a_block_that_strides_ends_no_stage():
    pytest.importorskip("torchvision")
    assert names("torchvision:mobilenet_v3_small") == [
        "features.0",
        "features.1",
        "features.3",
        "features.8",
        "features",
    ]


class TwoHeads(nn.Module):
    """Classes and boxes of two resolutions, and functional ReLUs between layers."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, 2, 1)
        self.classes = nn.ModuleList(nn.Conv2d(width, 5, 1) for _ in range(2))
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in range(2))
        self.integral = nn.Conv2d(4, 4, 1, bias=False).requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        fine = self.first(images).relu()
        maps = [fine, self.second(fine).relu()]
        rows = [
            torch.cat([one(x).sigmoid(), self.integral(two(x))], 1).flatten(2)
            for one, two, x in zip(self.classes, self.boxes, maps, strict=True)
        ]
        return torch.cat(rows, 2)


def test_heads_are_the_layers_that_answer():
    images = torch.rand(2, 3, 8, 8)
    student, teacher = TwoHeads(4).eval(), TwoHeads(6).eval()
    runs = [features(module, images) for module in (student, teacher)]
    found = [(pair.student.name, pair.teacher.name) for pair in heads(student, images, *runs)]
    assert sorted(found) == [(name, name) for name in ("boxes.0", "boxes.1", "classes.0", "classes.1")]
