"""GGUF files of Llama-like models, for llama.cpp: weights in its blocks, the tokenizer inside.

Symmetric integers of up to 4 bits become Q4_0, of up to 8 bits Q8_0, those of up to 4 bits with zero points Q4_1, where
their groups are multiples of 32 columns; what does not fit is written in float.
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
from ....quantization.formats.layers import Quantized, matrix_shape, quantized_layers
from ....quantization.formats.uniform import expand_groups, middle_code
from ...folders.folder import check_source, naming
from ...folders.rebuild import library_model
from ...options import ExportOptions
from .hf import plain_module

#: transformers class -> architecture in the file, and whether queries and keys are turned for its rotary embedding
_ARCHITECTURES = {
    "LlamaForCausalLM": ("llama", True),
    "MistralForCausalLM": ("llama", True),
    "Qwen2ForCausalLM": ("qwen2", False),
    "Qwen3ForCausalLM": ("qwen3", False),
}
BLOCK = 32  # columns that share a scale


def gguf(loaded: Loaded, path: Path, options: ExportOptions) -> list[str]:
    """Write a model as one GGUF file.

    Args:
        loaded: a Llama-like transformers model, quantized or not.
        path: the file.
        options: what becomes of factored layers.
    Returns:
        how many tensors are in which block format.
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
    layers, counts = quantized_layers(loaded.module), Counter[str]()
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise InputError(f"model {loaded.name!r}: GGUF has no place for {key}")
        order = _order(key, config, len(tensor)) if turned else None
        owner = layers.get(key.removesuffix(".weight"))
        kind, data = (None if owner is None else _blocks(owner)) or _floats(tensor)
        counts[kind] += 1
        data = data if order is None else np.ascontiguousarray(data[order])
        writer.add_tensor(target, data, raw_dtype=library.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [f"tensors: {', '.join(f'{count} {kind}' for kind, count in counts.items())}"]


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
    if not isinstance(model.get("vocab"), dict) or "merges" not in model or not plain:
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


def _blocks(layer: Quantized) -> tuple[str, np.ndarray] | None:
    """The codes of a layer as (rows, bytes) of blocks of 32 columns; None where they do not fit."""
    spec = layer.spec
    if spec.format != "int" or spec.parameters != ("weight",) or spec.input_multiplier or spec.axis != 0:
        return None
    shape = layer.parameter_shapes["weight"]
    rows, columns = matrix_shape(shape, spec.axis)
    if columns % BLOCK or (spec.granularity == "group" and (spec.group_size or 0) % BLOCK):
        return None
    codes = layer.number_format.unpack(layer.get_buffer("weight_values"), shape, spec).reshape(rows, columns)
    scale = _a_block(layer.get_buffer("weight_scale"), layer, rows, columns)
    levels = codes.to(torch.int16).reshape(rows, columns // BLOCK, BLOCK)
    if spec.symmetric and spec.bits > 4:
        return "Q8_0", _joined(scale, (levels - middle_code(spec.bits)).to(torch.int8).view(torch.uint8))
    if spec.symmetric:
        return "Q4_0", _joined(scale, _nibbles(levels - middle_code(spec.bits) + 8))
    if spec.bits > 4:
        return None
    zero_point = _a_block(layer.get_buffer("weight_zero_point"), layer, rows, columns)
    return "Q4_1", _joined(scale, _nibbles(levels), -scale * zero_point)


def _a_block(values: Tensor, layer: Quantized, rows: int, columns: int) -> Tensor:
    """What groups share, for each block: (rows, blocks) float32."""
    wide = expand_groups(values.float(), columns, layer.spec.group_size).expand(rows, columns)
    return wide[:, ::BLOCK]


def _nibbles(levels: Tensor) -> Tensor:
    """(rows, blocks, 32) codes of 4 bits as (rows, blocks, 16) bytes: the first half low, the second half high."""
    levels = levels.to(torch.uint8)
    return levels[..., : BLOCK // 2] | (levels[..., BLOCK // 2 :] << 4)


def _joined(scale: Tensor, codes: Tensor, low: Tensor | None = None) -> np.ndarray:
    heads = [value.to(torch.float16).unsqueeze(-1).view(torch.uint8) for value in (scale, low) if value is not None]
    return torch.cat([*heads, codes], -1).flatten(1).contiguous().numpy()
