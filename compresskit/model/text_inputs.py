"""What a language model expects of text: how its examples are laid out, its tokenizer, its longest sequence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

#: causal: next tokens; masked: hidden tokens; seq2seq: an encoder's and a decoder's; encoder: no targets of its own;
#: classifier: a class a text
TextKind = Literal["causal", "masked", "seq2seq", "encoder", "classifier"]

#: a folder that holds one of these holds a tokenizer
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")
_ROWS_BEFORE_THE_FIRST = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")


@dataclass(frozen=True)
class TextInputs:
    """What a model expects of text.

    Attributes:
        kind: how examples are laid out, and what their targets are.
        tokenizer: folder or identifier of its tokenizer; None where none is known.
        max_length: longest sequence in tokens; None where there is no limit.
        vocabulary: number of tokens that it embeds.
        start: the token that a decoder starts with; of encoder-decoders.
    """

    kind: TextKind
    tokenizer: str | None = None
    max_length: int | None = None
    vocabulary: int | None = None
    start: int | None = None


def text_inputs_of(module: nn.Module, *folders: str | Path) -> TextInputs | None:
    """What a transformers model expects of text; None for models of another library, and for those of other inputs.

    Args:
        module: the model.
        folders: where its tokenizer may lie, the first that holds one counts; the last may be an identifier of the hub.
    """
    config: Any = getattr(module, "config", None)
    if getattr(module, "main_input_name", None) != "input_ids" or not hasattr(config, "model_type"):
        return None
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    longest = getattr(text, "max_position_embeddings", None)
    if longest and config.model_type in _ROWS_BEFORE_THE_FIRST:
        longest -= (config.pad_token_id or 0) + 1
    start = getattr(config, "decoder_start_token_id", None)
    return TextInputs(
        kind_of(module),
        tokenizer_among(*folders),
        longest if isinstance(longest, int) and longest > 0 else None,
        getattr(text, "vocab_size", None),
        getattr(config, "pad_token_id", 0) if start is None else start,
    )


def kind_of(module: Any) -> TextKind:
    """How the examples of a transformers model are laid out."""
    name = type(module).__name__
    generates = bool(getattr(module, "can_generate", lambda: False)())
    if getattr(module.config, "is_encoder_decoder", False):
        return "seq2seq" if generates else "encoder"
    if "MaskedLM" in name:
        return "masked"
    if generates:
        return "causal"
    return "classifier" if name.endswith("ForSequenceClassification") else "encoder"


def is_causal(module: nn.Module) -> bool:
    """Whether a transformers model predicts next tokens."""
    inputs = text_inputs_of(module)
    return inputs is not None and inputs.kind == "causal"


def tokenizer_among(*folders: str | Path) -> str | None:
    """The first folder that holds a tokenizer."""
    for folder in folders:
        if any((Path(folder) / name).is_file() for name in TOKENIZER_FILES):
            return str(folder)
    return None
