"""The small files that a transformers folder holds beside its weights: tokenizer, generation, preprocessing."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

_NAMES = (
    "tokenizer*.json", "tokenizer.model", "vocab.*", "vocab-*.json", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "*.spm", "spiece.model", "sentencepiece*.model", "source.spm", "target.spm", "normalizer.json",
    "generation_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json",
    "feature_extractor_config.json", "image_processor_config.json", "chat_template.*", "LICENSE*",
    "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json",
)  # fmt: skip
_FOLDERS = ("*_Pooling", "*_Normalize", "*_Dense", "additional_chat_templates")  # of sentence-transformers, templates
_LARGEST_BYTES = 256 << 20  # of one file


def companions(folder: Path) -> dict[str, Path]:
    """Files that users of a model need beside its configuration and weights: name in the folder -> path.

    Links that lead out of the folder, and files above 256 MB, are left.
    """
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        inner = sorted(path.iterdir()) if path.is_dir() and _matches(path.name, _FOLDERS) else []
        for file in (path, *inner):
            name = str(file.relative_to(folder))
            wanted = _matches(name, _NAMES) or (file in inner and file.suffix in (".json", ".jinja"))
            if wanted and file.is_file() and file.stat().st_size <= _LARGEST_BYTES and _inside(folder, file):
                found[name] = file
    return found


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _inside(folder: Path, file: Path) -> bool:
    # the hub's cache links a snapshot's files to blobs beside it
    cache = folder.resolve().parents[1] if folder.parent.name == "snapshots" else folder.resolve()
    return cache in file.resolve().parents
