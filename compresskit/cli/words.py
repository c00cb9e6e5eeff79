"""Commands about names: explain, and the completion of them by a shell."""

from __future__ import annotations

from typing import Any

import click

from ..core.options import Options
from ..core.reporting.results import write_prose, write_result
from ..pipeline.recipe import RecipeOptions
from ..pipeline.techniques import STEPS
from .completion import Completed, completion_script
from .derive import FieldOption
from .help import SectionedCommand

_SHELLS = ("bash", "zsh", "fish")
_WHERE = {
    "bash": 'eval "$(compresskit completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(compresskit completion zsh)"   # in ~/.zshrc',
    "fish": "compresskit completion fish > ~/.config/fish/completions/compresskit.fish",
}


@click.command(
    "explain",
    cls=SectionedCommand,
    no_args_is_help=True,
    context_settings={"ignore_unknown_options": True},  # an option may be typed as it is typed elsewhere
    epilog="compresskit explain target-macs\ncompresskit explain taylor\ncompresskit explain perplexity --json",
)
@click.argument("term", metavar="TERM", nargs=-1, required=True, type=Completed("term"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def explain_command(term: tuple[str, ...], as_json: bool) -> None:
    """Say what an option, a choice of an option, or a term of the glossary means, wherever it is used."""
    from ..core.reporting.report import print_json
    from ..pipeline.reference.explaining import explain_term, explained

    found = explain_term(" ".join(term), _commands_and_flags())
    if as_json:
        print_json(found)
        return
    write_prose("\n\n".join(map(explained, found)))


def _commands_and_flags() -> list[dict[str, Any]]:
    """Records of the commands, and of those of their flags that set no option of a recipe."""
    models: list[type[Options]] = [RecipeOptions, *(step.options_model() for step in STEPS.values())]
    in_recipes = {(leaf.name, leaf.field.description) for model in models for leaf in model.leaves()}
    group = click.get_current_context().find_root().command
    assert isinstance(group, click.Group)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None  # it was listed
        example = (command.epilog or "").partition("\n")[0]
        found[name, ""] = {
            "kind": "command", "name": name.replace("-", "_"), "meaning": command.get_short_help_str(200),
            "example": example,
        }  # fmt: skip
        for flag in command.params:
            if isinstance(flag, click.Option) and not flag.hidden:
                key, meaning = max(flag.opts, key=len), flag.help or ""
                if isinstance(flag, FieldOption):
                    meaning = (flag.plain_help or "").partition("  [default: ")[0]
                    if (flag.field, meaning) in in_recipes:
                        continue
                same = found.setdefault((key, meaning), {
                    "kind": "flag", "name": key.strip("-").replace("-", "_"), "flag": ", ".join(flag.opts),
                    "meaning": meaning, "commands": [],
                })  # fmt: skip
                same["commands"].append(name)
    return list(found.values())


@click.command("skill", cls=SectionedCommand, epilog="compresskit skill > SKILL.md")
def skill_command() -> None:
    """Print a page for coding agents: commands, exit codes, typical sequences, pitfalls."""
    from ..pipeline.reference.skill import skill_page
    from .main import COMMANDS

    write_result(skill_page({name: summary for name, (_, summary) in COMMANDS.items()}), end="")


@click.command(
    "completion", cls=SectionedCommand, no_args_is_help=True, epilog="\n".join(_WHERE[shell] for shell in _SHELLS)
)
@click.argument("shell", metavar="SHELL", type=click.Choice(_SHELLS))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell (bash, zsh, fish) complete commands, options, choices, models, data and layers."""
    write_result(completion_script(ctx.find_root().command, shell))
