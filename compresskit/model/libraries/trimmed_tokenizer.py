"""A tokenizer without the tokens that a corpus does not use, as the files of a transformers folder.

On the corpus it makes the same tokens: what is left out took part in none of them. Of merges (BPE) every step that
leads to a token stays, of other models every token of one character, so that other texts still have tokens.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ...core.errors import InputError, first_line
from ...core.limits.reading import read_bounded

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
#: files that hold the whole vocabulary in another form
OTHER_FORMS = ("vocab.", "vocab-", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece", "source.spm",
               "target.spm", "added_tokens.json")  # fmt: skip
_LARGEST_BYTES = 256 << 20
_NUMBERS_OF_TOKENS = ("_token_id", "_token_ids", "_token_index")


def read_tokenizer(path: Path) -> dict[str, Any]:
    """The content of a tokenizer.json.

    Raises:
        InputError: if it is none, or of a model that is not known.
    """
    content = _json_of(path)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or _kind(model) not in ("BPE", "WordPiece", "WordLevel", "Unigram"):
        raise InputError(f"{str(path)!r} holds no tokenizer of the kinds BPE, WordPiece, WordLevel and Unigram")
    return content


def _json_of(path: Path) -> Any:
    try:
        return json.loads(read_bounded(path, repr(str(path)), _LARGEST_BYTES))
    except ValueError as error:
        raise InputError(f"{str(path)!r} is no JSON: {first_line(error)}") from error


def _kind(model: Mapping[str, Any]) -> str:
    known = "BPE" if "merges" in model else "Unigram" if isinstance(model.get("vocab"), list) else "WordLevel"
    return str(model.get("type", known))


def kept_tokens(content: Mapping[str, Any], used: Collection[int]) -> list[int]:
    """Numbers of the tokens that stay, ascending.

    Args:
        content: of a tokenizer.json.
        used: tokens of the corpus, and those that the model's configuration names.
    """
    model = content["model"]
    numbers = _numbers(model)
    names = {number: name for name, number in numbers.items()}
    kept = {*used, *(one["id"] for one in content.get("added_tokens", ()))}
    kept |= {numbers[model["unk_token"]]} if model.get("unk_token") in numbers else set()
    kept |= {model["unk_id"]} if isinstance(model.get("unk_id"), int) else set()
    if _kind(model) == "BPE":
        made = defaultdict(list)
        for left, right in _merges(model):
            made[_merged(model, left, right)].append((left, right))
        kept |= {number for name, number in numbers.items() if name not in made}
        waiting = [names[number] for number in kept if number in names]
        while waiting:
            for part in (part for pair in made.get(waiting.pop(), ()) for part in pair):
                if numbers[part] not in kept:
                    kept.add(numbers[part])
                    waiting.append(part)
    elif _kind(model) != "WordLevel":
        prefix = model.get("continuing_subword_prefix") or ""
        short = (name for name in numbers if len(name.removeprefix(prefix).removeprefix("▁")) <= 1 or _is_byte(name))
        kept |= {numbers[name] for name in short}
    return sorted(kept)


def trimmed(content: Mapping[str, Any], kept: Iterable[int]) -> dict[str, Any]:
    """The content of a tokenizer.json with the kept tokens alone, numbered anew in their order."""
    places = {old: new for new, old in enumerate(kept)}
    found: dict[str, Any] = json.loads(json.dumps(content))
    model = found["model"]
    numbers = _numbers(model)
    if isinstance(model["vocab"], list):
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in places]
    else:
        model["vocab"] = {name: places[number] for name, number in numbers.items() if number in places}
    if "merges" in model:
        stay = {name for name, number in numbers.items() if number in places}
        model["merges"] = [
            merge
            for merge, (left, right) in zip(model["merges"], _merges(model), strict=True)
            if {left, right, _merged(model, left, right)} <= stay
        ]
    if isinstance(model.get("unk_id"), int):
        model["unk_id"] = places[model["unk_id"]]
    found["added_tokens"] = [
        {**one, "id": places[one["id"]]} for one in found.get("added_tokens", ()) if one["id"] in places
    ]
    if found.get("padding"):
        found["padding"]["pad_id"] = places.get(found["padding"]["pad_id"], 0)
    _renumber_processor(found.get("post_processor"), places)
    return found


def _numbers(model: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        return {entry[0]: number for number, entry in enumerate(vocabulary)}
    return vocabulary


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of tokens; older files hold each as one string."""
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in pairs]


def _merged(model: Mapping[str, Any], left: str, right: str) -> str:
    return left + right.removeprefix(model.get("continuing_subword_prefix") or "")


def _is_byte(name: str) -> bool:
    return len(name) == 6 and name.startswith("<0x") and name.endswith(">")


def _renumber_processor(processor: Any, places: Mapping[int, int]) -> None:
    """Give the tokens around a text their new numbers, in place."""
    if not isinstance(processor, dict):
        return
    for inner in processor.get("processors", ()):
        _renumber_processor(inner, places)
    special = processor.get("special_tokens")
    for entry in special.values() if isinstance(special, dict) else ():
        entry["ids"] = [places[number] for number in entry["ids"]]
    for side in ("sep", "cls"):
        if isinstance(processor.get(side), list):
            processor[side][1] = places[processor[side][1]]


def tokens_named(settings: Any) -> set[int]:
    """Tokens that a configuration names: keys that end in _token_id and the like, at any depth."""
    if not isinstance(settings, Mapping):
        return set()
    found: set[int] = set()
    for key, value in settings.items():
        entries = value if isinstance(value, list) else [value]
        if str(key).endswith(_NUMBERS_OF_TOKENS):
            found |= {entry for entry in entries if type(entry) is int and entry >= 0}
        found |= tokens_named(value)
    return found


def renumbered(settings: Any, places: Mapping[int, int]) -> Any:
    """A configuration whose named tokens have their new numbers; in lists those that are gone are left out."""
    if not isinstance(settings, Mapping):
        return settings
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if str(key).endswith(_NUMBERS_OF_TOKENS) and type(value) is int:
            found[key] = places.get(value, value)
        elif str(key).endswith((*_NUMBERS_OF_TOKENS, "suppress_tokens")) and isinstance(value, list):
            found[key] = [places[entry] for entry in value if entry in places]
        else:
            found[key] = renumbered(value, places)
    return found


def write_trimmed(companions: Mapping[str, Path], kept: Iterable[int], folder: Path) -> dict[str, Path]:
    """Write a trimmed tokenizer and what names tokens beside it.

    Args:
        companions: files of the model: name -> path.
        kept: tokens that stay, ascending.
        folder: where to write.
    Returns:
        the files of the model now: name -> path.
    """
    kept = list(kept)
    places = {old: new for new, old in enumerate(kept)}
    found = {name: path for name, path in companions.items() if not name.startswith(OTHER_FORMS)}
    written: dict[str, Any] = {TOKENIZER: trimmed(read_tokenizer(companions[TOKENIZER]), kept)}
    for name in (CONFIG, "generation_config.json"):
        if name in companions:
            content = renumbered(_json_of(companions[name]), places)
            decoder = content.get("added_tokens_decoder")
            if isinstance(decoder, dict):
                content["added_tokens_decoder"] = {
                    str(places[int(number)]): entry for number, entry in decoder.items() if int(number) in places
                }
            written[name] = content
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in written.items():
        found[name] = folder / name
        found[name].write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    return found
