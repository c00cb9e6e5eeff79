"""GGUF files of Llama-like models, for llama.cpp: weights in its blocks, the tokenizer inside.

Symmetric integers of up to 4 bits become Q4_0, of 5 bits Q5_0, of up to 8 bits Q8_0, those with zero points Q4_1 and
Q5_1, where their groups are multiples of 32 columns. Layers of the formats q2-k to q6-k become Q2_K to Q6_K where rows
are multiples of 256 columns, else those of 4 and 5 bits Q4_1 and Q5_1. What does not fit is written in float.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....core.errors import InputError, require
from ....core.limits.json_files import LARGEST_MANIFEST_BYTES, read_json
from ....core.types import Loaded
from ....quantization.layers.quantized_layer import quantized_layers
from ...folders.folder import check_source, naming
from ...folders.rebuild import library_model
from ...options import ExportOptions
from .gguf_blocks import blocks_of
from .hf import plain_module

#: transformers class -> architecture in the file, and whether queries and keys are turned for its rotary embedding
_ARCHITECTURES = {
    "LlamaForCausalLM": ("llama", True),
    "MistralForCausalLM": ("llama", True),
    "Qwen2ForCausalLM": ("qwen2", False),
    "Qwen3ForCausalLM": ("qwen3", False),
}


def gguf(loaded: Loaded, path: Path, options: ExportOptions) -> list[str]:
    """Write a model as one GGUF file.

    Args:
        loaded: a Llama-like transformers model, quantized or not.
        path: the file.
        options: what becomes of factored layers.
    Returns:
        how many tensors are in which block format, and what did not fit.
    Raises:
        InputError: if the architecture or the tokenizer has no form there.
    """
    check_source(loaded)
    library = require("gguf", "gguf")
    name = type(loaded.module).__name__
    if name not in _ARCHITECTURES:
        raise InputError(f"model {loaded.name!r} is a {name}; GGUF files are written of {', '.join(_ARCHITECTURES)}")
    architecture, turned = _ARCHITECTURES[name]
    module, _ = naming(loaded, lambda: plain_module(loaded, options))
    model = naming(loaded, lambda: library_model(module, loaded.edits))
    config: Any = model.config
    writer = library.GGUFWriter(str(path), architecture)
    _add_settings(writer, config)
    _add_tokenizer(library, writer, loaded, config)
    names = library.get_tensor_name_map(_number_of(library, architecture), config.num_hidden_layers)
    layers, counts, lost = quantized_layers(loaded.module), Counter[str](), list[str]()
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise InputError(f"model {loaded.name!r}: GGUF has no place for {key}")
        order = _order(key, config, len(tensor)) if turned else None
        owner = layers.get(key.removesuffix(".weight"))
        blocks = blocks_of(owner) if owner else None
        if owner and not blocks:
            lost.append(key)
        kind, data = blocks or _floats(tensor)
        counts[kind] += 1
        data = data if order is None else np.ascontiguousarray(data[order])
        writer.add_tensor(target, data, raw_dtype=library.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    notes = [f"tensors: {', '.join(f'{count} {kind}' for kind, count in counts.items())}"]
    if lost:
        notes.append(f"weights of {len(lost)} quantized layers fit no block and are floats in the file: {lost[0]} ...")
    return notes


def _number_of(library: Any, architecture: str) -> Any:
    return next(number for number, name in library.MODEL_ARCH_NAMES.items() if name == architecture)


def _add_settings(writer: Any, config: Any) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise InputError(f"rotary embeddings of type {rope['rope_type']!r} are not written to GGUF; export it as hf")
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))


def _add_tokenizer(library: Any, writer: Any, loaded: Loaded, config: Any) -> None:
    """Byte-level BPE, as tokenizer.json holds it; a model without a tokenizer has none in the file either."""
    path = loaded.companions.get("tokenizer.json")
    if path is None or not path.is_file():
        writer.add_tokenizer_model("no_vocab")
        return
    content = read_json(path, repr(str(path)), LARGEST_MANIFEST_BYTES)
    model, split = content.get("model") or {}, content.get("pre_tokenizer") or {}
    plain = split.get("type") == "ByteLevel" and split.get("use_regex", True) and not split.get("add_prefix_space")
    if model.get("type", "BPE") == "BPE" and isinstance(model.get("vocab"), dict) and not model.get("merges"):
        raise InputError(
            f"model {loaded.name!r}: the BPE of its tokenizer.json has no merges, without which llama.cpp loads no "
            "vocabulary; save the tokenizer again with them, or export it as hf"
        )
    if not isinstance(model.get("vocab"), dict) or not model.get("merges") or not plain:
        raise InputError(
            f"model {loaded.name!r}: its tokenizer is no plain byte-level BPE, the one kind that is written to GGUF; "
            "export it as hf, and convert that with llama.cpp"
        )
    added = {entry["id"]: entry["content"] for entry in content.get("added_tokens", []) if entry.get("special")}
    tokens = {index: token for token, index in model["vocab"].items()} | added
    kinds = library.TokenType
    count = config.vocab_size
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens.get(index, f"[PAD{index}]") for index in range(count)])
    types = [kinds.CONTROL if i in added else kinds.NORMAL if i in tokens else kinds.UNUSED for i in range(count)]
    writer.add_token_types(types)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    for name in ("bos", "eos", "pad"):
        value = getattr(config, f"{name}_token_id", None)
        if type(value) is int:
            getattr(writer, f"add_{name}_token_id")(value)
    writer.add_add_bos_token(False)


def _order(key: str, config: Any, rows: int) -> np.ndarray | None:
    """Rows of queries and keys as llama.cpp's rotary embedding wants them: halves of each head in turns."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(key.split(".")[-2])
    if heads is None:
        return None
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(-1)


def _floats(tensor: Tensor) -> tuple[str, np.ndarray]:
    """A tensor in its own number type; vectors (norms, biases) in float32, as llama.cpp wants them."""
    if tensor.dim() < 2 or tensor.dtype not in (torch.float16, torch.bfloat16):
        return "F32", tensor.detach().float().cpu().numpy()
    if tensor.dtype == torch.float16:
        return "F16", tensor.detach().cpu().numpy()
    return "BF16", tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
