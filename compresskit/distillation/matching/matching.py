"""Which layer of the student learns from which layer of the teacher: stages found in traced runs, and paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from ...analysis.answering_layers import answering_layers, layers_behind_choices
from ...analysis.dataflow import Feature, Features
from ...core.errors import InputError, nearest
from ...core.tensors.modules import get_module
from ...core.types import Inputs


@dataclass(frozen=True)
class Pair:
    """A student layer and the teacher layer that it learns from."""

    student: Feature
    teacher: Feature


def stages(module: nn.Module, run: Features) -> list[Feature]:
    """The layers that end a stage, shallow to deep.

    Convolutional networks: the last module to finish at each height and width above 1x1. Transformers: every block,
    that is every module of the longest family of like siblings with equal token outputs. Otherwise: every activation,
    or every linear layer where there is none.
    """
    # attention heads are (batch, heads, tokens, channels) and no maps
    maps = [
        feature
        for feature in run.each
        if len(feature.shape) == 4 and max(feature.shape[2:]) > 1 and _holds_convolutions(module, feature)
    ]
    whole = [feature for feature in maps if not _inside_a_changing_block(module, feature, run)]
    # a container is noted after its children, so the last one is the outermost
    by_size = {feature.shape[2:]: feature for feature in whole}
    if len(by_size) < 2:
        by_size = {feature.shape[2:]: feature for feature in maps}
    if len(by_size) > 1:
        return sorted(by_size.values(), key=run.each.index)
    blocks = _blocks(module, run)
    if blocks:
        return blocks
    if by_size:
        return list(by_size.values())
    return _dense_stages(module, run)


def _holds_convolutions(module: nn.Module, feature: Feature) -> bool:
    """Whether a feature comes from, or after, layers over places: no norm or linear layer over the last axis."""
    layer = get_module(module, feature.name)
    return not isinstance(layer, nn.LayerNorm | nn.Linear | nn.RMSNorm | nn.Dropout | nn.Identity)


def _inside_a_changing_block(module: nn.Module, feature: Feature, run: Features) -> bool:
    """Whether a feature is internal to a block that changes the resolution (a widening before its stride)."""
    shapes = {other.name: other.shape for other in run.each}
    parent = feature.name.rpartition(".")[0]
    while parent:
        is_list = type(get_module(module, parent)) in (nn.Sequential, nn.ModuleList)
        if not is_list and shapes.get(parent, feature.shape)[2:] != feature.shape[2:]:
            return True
        parent = parent.rpartition(".")[0]
    return False


def _blocks(module: nn.Module, run: Features) -> list[Feature]:
    families: dict[tuple, list[Feature]] = {}
    for feature in run.each:
        if len(feature.shape) != 3:
            continue
        parent, _, number = feature.name.rpartition(".")
        if number.isdigit() or number.rpartition("_")[2].isdigit():
            families.setdefault((parent, type(get_module(module, feature.name)), feature.shape), []).append(feature)
    longest = max(families.values(), key=len, default=[])
    return longest if len(longest) > 1 else []


def _dense_stages(module: nn.Module, run: Features) -> list[Feature]:
    flat = [
        feature
        for feature in run.each
        if feature.shape != run.output
        and len(feature.shape) in (2, 3)
        and not list(get_module(module, feature.name).children())
    ]
    active = [feature for feature in flat if _is_activation(get_module(module, feature.name))]
    return active or [feature for feature in flat if isinstance(get_module(module, feature.name), nn.Linear)]


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == "torch.nn.modules.activation" and not isinstance(module, nn.MultiheadAttention)


def match(
    student: nn.Module, student_run: Features, teacher: nn.Module, teacher_run: Features, layers: Mapping[str, str]
) -> list[Pair]:
    """Pairs of layers, shallow to deep: those named, or stages matched by resolution, else by relative depth.

    Args:
        student: the student.
        student_run: its traced run.
        teacher: the teacher.
        teacher_run: its traced run.
        layers: student layer -> teacher layer; empty matches by itself.
    Raises:
        InputError: if a named layer does not exist or gave no tensor.
    """
    if layers:
        return [
            Pair(_named(name, student_run, "student"), _named(other, teacher_run, "teacher"))
            for name, other in layers.items()
        ]
    mine, theirs = stages(student, student_run), stages(teacher, teacher_run)
    by_size: dict[tuple[int, ...], Feature] = {
        feature.shape[2:]: feature for feature in theirs if len(feature.shape) == 4
    }
    matched = [Pair(feature, by_size[feature.shape[2:]]) for feature in mine if feature.shape[2:] in by_size]
    if len(by_size) == len(theirs) and 2 * len(matched) > min(len(mine), len(theirs)):
        return matched
    return [Pair(mine[a], theirs[b]) for a, b in _by_depth(len(mine), len(theirs))]


def heads(student: nn.Module, inputs: Inputs, student_run: Features, teacher_run: Features) -> list[Pair]:
    """Layers whose maps are answers: no other layer that learns reads them, and the teacher has their like.

    Detectors and segmenters answer with several maps (classes and boxes of each resolution), of which a stage can hold
    one at most. A pair has one name and one shape in both models.

    Args:
        student: the student.
        inputs: a batch that it takes.
        student_run: its traced run on them.
        teacher_run: the teacher's.
    """
    theirs = {feature.name: feature for feature in teacher_run.each}
    alike = {
        feature.name: Pair(feature, theirs[feature.name])
        for feature in student_run.each
        if len(feature.shape) == 4 and feature.name in theirs and theirs[feature.name].shape == feature.shape
    }
    return [alike[name] for name in answering_layers(student, inputs, list(alike))]


def aligned(module: nn.Module, inputs: Inputs, run: Features) -> Features:
    """A run without the layers whose rows were picked, of which two detectors have others in another order."""
    behind = layers_behind_choices(module, inputs)
    return replace(run, each=tuple(feature for feature in run.each if feature.name not in behind))


def _by_depth(mine: int, theirs: int) -> list[tuple[int, int]]:
    """Every layer of the shallower side with the other's at the same share of depth; the last with the last."""
    count = min(mine, theirs)
    return [((i + 1) * mine // count - 1, (i + 1) * theirs // count - 1) for i in range(count)]


def _named(name: str, run: Features, side: str) -> Feature:
    names = [feature.name for feature in run.each]
    if name not in names:
        raise InputError(f"layers: the {side} has no layer {name!r} that returns a tensor{nearest(name, names)}")
    return run.each[names.index(name)]


def attention_pairs(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Indices of matched attention layers, by relative depth.

    Raises:
        InputError: if either model has no attention that can be seen.
    """
    for side, count in (("student", student_layers), ("teacher", teacher_layers)):
        if not count:
            raise InputError(
                f"the {side} makes no call of scaled_dot_product_attention; losses on attention need one (for "
                "transformers models, attn_implementation sdpa)"
            )
    return _by_depth(student_layers, teacher_layers)


def norm_before_relu(module: nn.Module, run: Features, stage: Feature) -> str | None:
    """The last batch norm that ran inside or before a stage with the stage's shape, or None.

    Its output is the feature before the last ReLU of a plain network; of a residual block, the branch before the sum.
    """
    position = run.each.index(stage)
    for feature in reversed(run.each[:position]):
        if feature.shape == stage.shape and isinstance(get_module(module, feature.name), nn.BatchNorm2d):
            return feature.name
    return None


def table(pairs: Sequence[Pair]) -> list[dict[str, str]]:
    """Rows for the console and report."""
    return [
        {
            "student layer": pair.student.name,
            "student shape": _shape(pair.student),
            "teacher layer": pair.teacher.name,
            "teacher shape": _shape(pair.teacher),
        }
        for pair in pairs
    ]


def _shape(feature: Feature) -> str:
    return " x ".join(map(str, feature.shape[1:]))
