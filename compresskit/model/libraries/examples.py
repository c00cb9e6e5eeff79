"""Example inputs of transformers models: text, images, audio, several of these, encoders with decoders."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import InputError, described
from ...core.tensors.dtypes import model_dtype
from ...core.types import Inputs
from ..example_inputs import settle, spread

_TOKENS = 16
_FRAMES = 100  # of audio features, where the configuration names no length
_SAMPLES = 50  # frames that a waveform makes
_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "decoder_start_token_id")


def _made(
    makers: Mapping[str, Callable[[], Tensor]], names: Sequence[str], first: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    return {**first, **{name: makers[name]() for name in names}}


def transformers_example(module: nn.Module, config: Any, name: str) -> Inputs:
    """Inputs of batch size 1 that a transformers model takes, in its own dtype.

    Args:
        module: the model, with or without its weights.
        config: its configuration.
        name: what to call it in errors.
    Raises:
        InputError: if no combination of ids, pixels and audio goes through its forward; --input says what does.
    """
    main = getattr(module, "main_input_name", "input_ids")
    takes = set(inspect.signature(module.forward).parameters)
    makers = _makers(config, model_dtype(module) or torch.float32)
    first = {main: makers[main]()} if main in makers else {"input_ids": makers["input_ids"]()}
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in takes:
        first["decoder_input_ids"] = makers["decoder_input_ids"]()
    others = [key for key in makers if key in takes and key not in first and key != "decoder_input_ids"]
    choices: list[Callable[[], dict[str, Tensor]]] = [lambda: first]
    choices += [partial(_made, makers, [key], first) for key in others]
    choices += [partial(_made, makers, [key], {}) for key in others]
    choices += [partial(_made, makers, others, first)] if len(others) > 1 else []
    reasons: list[str] = []
    for choice in choices:
        example = settle(choice())
        if len(choices) == 1:
            return example
        reason = _failure(module, example)
        if reason is None:
            return example
        reasons.append(reason)
    return first if _is_meta(module) else _refuse(name, reasons)


def _refuse(name: str, reasons: list[str]) -> Inputs:
    raise InputError(
        f"hf:{name}: no example input is known that its forward takes ({reasons[0]}); say what it takes with --input, "
        "e.g. --input input_ids=16:int64:1000"
    )


def _is_meta(module: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in module.parameters())


@torch.no_grad()
def _failure(module: nn.Module, example: dict[str, Tensor]) -> str | None:
    training = module.training
    try:
        module.eval()(**example)
    except Exception as error:  # the next combination is tried, and the first one's reason told
        return described(error)
    finally:
        module.train(training)
    return None


def _makers(config: Any, dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """Name of an input -> what makes it; each only where the configuration has a part for it."""
    text = _part(config, "text_config")
    makers: dict[str, Callable[[], Tensor]] = {
        "input_ids": lambda: _ids(text),
        "decoder_input_ids": lambda: _ids(text),
    }
    vision = _part(config, "vision_config")
    if any(hasattr(vision, key) for key in ("image_size", "num_channels", "patch_size")):
        makers["pixel_values"] = lambda: _pixels(vision, dtype)
    audio = _part(config, "audio_config")
    if hasattr(audio, "conv_stride"):
        length = math.prod(_numbers(audio.conv_stride)) * _SAMPLES + max(_numbers(getattr(audio, "conv_kernel", 0)))
        makers["input_values"] = lambda: spread([1, length], dtype)
    elif hasattr(audio, "num_mel_bins"):
        makers["input_features"] = lambda: _mel(audio, dtype)
        makers["input_values"] = lambda: spread([1, getattr(audio, "max_length", _FRAMES), audio.num_mel_bins], dtype)
    elif hasattr(audio, "input_feat_per_channel") or hasattr(audio, "feature_projection_input_dim"):
        width = getattr(audio, "feature_projection_input_dim", None) or audio.input_feat_per_channel
        makers["input_features"] = lambda: spread([1, _FRAMES, width], dtype)
    return makers


def _part(config: Any, name: str) -> Any:
    return getattr(config, name, None) or config


def _numbers(value: Any) -> list[int]:
    return [int(size) for size in value] if isinstance(value, list | tuple) else [int(value)]


def _ids(config: Any) -> Tensor:
    """Token ids spread over the vocabulary, special tokens left out; the last one ends the sequence."""
    vocabulary = int(getattr(config, "vocab_size", None) or 100)
    special = {token for name in _SPECIAL for token in _numbers(getattr(config, name, None) or 0)}
    ordinary = [token for token in _walk(vocabulary) if token not in special]
    length = min(_TOKENS, int(getattr(config, "max_position_embeddings", None) or _TOKENS))
    ids = [(ordinary or [0])[index % max(len(ordinary), 1)] for index in range(length)]
    end = getattr(config, "eos_token_id", None)
    if isinstance(end, int) and 0 <= end < vocabulary and getattr(config, "is_encoder_decoder", False):
        ids[-1] = end  # classifiers of encoder-decoders read the state there
    return torch.tensor([ids], dtype=torch.int64)


def _walk(vocabulary: int) -> Iterator[int]:
    """The first few of a walk through a vocabulary in steps that reach all of it."""
    step = next(step for step in (7919, 104729, 1) if math.gcd(step, vocabulary) == 1)
    return (index * step % vocabulary for index in range(1, min(vocabulary, 64) + 1))


def _pixels(config: Any, dtype: torch.dtype) -> Tensor:
    sizes = _numbers(getattr(config, "image_size", None) or 224)
    frames = [int(config.num_frames)] if hasattr(config, "num_frames") else []
    return spread([1, *frames, int(getattr(config, "num_channels", None) or 3), sizes[0], sizes[-1]], dtype)


def _mel(config: Any, dtype: torch.dtype) -> Tensor:
    """(1, mel bins, frames): whisper's encoder takes exactly twice its positions."""
    positions = getattr(config, "max_source_positions", None)
    return spread([1, config.num_mel_bins, 2 * positions if positions else _FRAMES], dtype)
