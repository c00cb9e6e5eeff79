"""What a shell completes: model and data strings, files, and the layers of the artifact that is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from ..core.errors import InputError
from ..core.limits.safetensors_header import check_header
from ..core.registry import Registry

_LIBRARIES = ("torchvision:", "timm:", "hf:", "builtin:")
_WEIGHTS_FILE = "model.safetensors"
#: shell -> (a line of click's script, its replacement): a word that ends in : or / goes on, so no space follows it
_GOES_ON = {
    "bash": (
        "            COMPREPLY+=($value)\n",
        "            COMPREPLY+=($value)\n            [[ $value == *[:/] ]] && compopt -o nospace\n",
    ),
    "zsh": (
        '        if [[ "$type" == "plain" ]]; then\n',
        '        if [[ "$type" == "plain" && "$key" == *[:/] ]]; then\n'
        "            compadd -U -V unsorted -S '' -- \"${key//\\\\:/:}\"\n"
        '        elif [[ "$type" == "plain" ]]; then\n',
    ),
}


class Completed(click.types.StringParamType):
    """Text, completed by the kind of thing that it names.

    Args:
        kind: a key of COMPLETIONS.
    """

    def __init__(self, kind: str):
        self.kind = kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return COMPLETIONS[self.kind](ctx, incomplete)


def completion_script(command: click.Command, shell: str) -> str:
    """What a shell reads so that it completes the command."""
    completion = get_completion_class(shell)
    assert completion is not None  # click knows these shells
    script = completion(command, {}, "compresskit", "_COMPRESSKIT_COMPLETE").source()
    if shell in _GOES_ON:
        script = script.replace(*_GOES_ON[shell])
    if shell == "bash":  # which else ends a word at the colon of a model string
        script = "COMP_WORDBREAKS=${COMP_WORDBREAKS//:}\n" + script
    return script


def _models(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    if incomplete.startswith("builtin:"):
        from ..model.tables import BUILTINS

        return _rows(BUILTINS, incomplete, "builtin:")
    return [*_starting(_LIBRARIES, incomplete), *_files(ctx, incomplete)]


def _data(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    from ..data.tables import READERS

    form, colon, path = incomplete.partition(":")
    if not colon:
        rows = READERS.rows().items()
        forms = [(name if READERS.attribute(name, "location", "") == "none" else f"{name}:", row) for name, row in rows]
        return [CompletionItem(name, help=row.help) for name, row in forms if name.startswith(form)]
    parent, name = path.rpartition("/")[::2]
    try:
        found = sorted(Path(parent or ("/" if path.startswith("/") else ".")).iterdir())
    except OSError:
        return []
    prefix = f"{form}:{parent}/" if "/" in path else f"{form}:"
    return _starting([f"{prefix}{one.name}{'/' * one.is_dir()}" for one in found], prefix + name)


def _files(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


def _layers(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    model = ctx.params.get("model") or next(iter(ctx.args), None)  # an option without its value ends the parsing
    if not isinstance(model, str) or not (Path(model) / _WEIGHTS_FILE).is_file():
        return []  # other models would have to be built first
    try:
        tensors = check_header(Path(model) / _WEIGHTS_FILE, "weights")
    except (InputError, OSError):  # a completion has no errors to show
        return []
    names = (name.rpartition(".")[0] for name in tensors)
    return _starting(dict.fromkeys(name for name in names if name), incomplete)


def _terms(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    from ..pipeline.reference.explaining import explained_names

    return _starting((name for name in explained_names() if " " not in name), incomplete)


def _rows(registry: Registry[Any], incomplete: str, prefix: str) -> list[CompletionItem]:
    rows = registry.rows().items()
    return [
        CompletionItem(prefix + name, help=row.help) for name, row in rows if (prefix + name).startswith(incomplete)
    ]


def _starting(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


#: what an option takes (`core.fields.option`) -> what completes it
COMPLETIONS: dict[str, Callable[[click.Context, str], list[CompletionItem]]] = {
    "model": _models,
    "data": _data,
    "file": _files,
    "layers": _layers,
    "term": _terms,
}
