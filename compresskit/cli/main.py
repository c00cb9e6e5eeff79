"""The command `compresskit`: a table of subcommands, each imported only when it is called."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from contextlib import suppress
from difflib import get_close_matches

import click

from .. import __version__
from ..core.errors import EXIT_CODES, CompresskitError, nearest, system_error
from ..core.reporting.results import anything_written, broken, printable
from ..core.user_code.user_imports import blame
from ..pipeline.techniques import TECHNIQUES
from .process import Interruption, close_streams, disk_error, interrupted, open_streams, separate_results, silence

#: name -> ("module:function making the command", summary)
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("recipes:run_command", "Run a recipe: a YAML file of steps."),
    "init": ("recipes:init_command", "Write a commented recipe for a model and data."),
    "schema": ("recipes:schema_command", "Print the recipe's JSON schema, or the options as a table."),
    "export": ("export:export_command", "Write a model for another runtime, and measure it there."),
    "bench": ("deploying:bench_command", "Measure models and files side by side: which of them to ship."),
    "predict": ("deploying:predict_command", "Run a model or file on images, arrays, sounds, texts."),
    "pack": ("deploying:pack_command", "Write one folder that runs with the runtime alone."),
    "inspect": ("looking:inspect_command", "Print layers, shapes, parameters, MACs, and what applies to each."),
    "evaluate": ("looking:evaluate_command", "Judge a model on data: the metric with its interval."),
    "diff": ("looking:diff_command", "Compare two models: layers, edits, measured figures."),
    "compare": ("looking:compare_command", "Put finished runs side by side, as a table and a page."),
    "verify": ("looking:verify_command", "Check an artifact: hash, probe, reload in a fresh process."),
    "explain": ("words:explain_command", "Say what an option, a choice or a term means."),
    "skill": ("words:skill_command", "Print a page about these commands for coding agents."),
    "completion": ("words:completion_command", "Print the completion script of a shell."),
    "doctor": ("looking:doctor_command", "Say which runtimes and extras work here."),
}


#: what other tools call a command or an option -> what it is called here
_ELSEWHERE = {
    "convert": "export", "benchmark": "bench", "eval": "evaluate", "val": "evaluate",
    "validate": "evaluate", "infer": "predict", "info": "inspect", "summary": "inspect",
    "show": "inspect", "print": "inspect", "profile": "bench", "quantise": "quantize", "factorise": "decompose",
    "factorize": "decompose", "sparsify": "prune", "compress": "search", "finetune": "train", "fit": "train",
    "--amount": "--ratio", "--sparsity": "--ratio", "--method": "--criterion", "--dtype": "--scheme",
    "--precision": "--scheme", "--format": "--scheme", "--type": "--scheme", "--dataset": "--data",
    "--checkpoint": "--weights", "--out": "--output", "--dest": "--output", "--bs": "--batch-size",
    "--learning-rate": "--lr", "--verbose": "--log-level", "--gpu": "--device", "--resume-from": "--resume",
}  # fmt: skip
#: what is no command, and why -> what there is in its place
_INSTEAD = {
    "help": "compresskit COMMAND --help, or compresskit explain OPTION",
    "version": "compresskit --version",
    "models": "a model is named where it is used, e.g. compresskit inspect torchvision:resnet18; "
    "compresskit explain model says the forms",
    "list": "compresskit explain model and compresskit explain data say what may be named; compresskit inspect MODEL "
    "lists a model's layers",
    "load": "every command takes an artifact's folder as its model, e.g. compresskit inspect runs/pruned; in Python it "
    "is compresskit.load",
    "save": "-o DIR says where a command writes; in Python it is compresskit.save",
    "measure": "compresskit bench times models, compresskit evaluate judges one on data; in Python it is "
    "compresskit.measure",
    "test": "compresskit evaluate judges a model on data, compresskit verify checks an artifact",
    "datasets": "compresskit explain data says the forms of data",
    "install": "pip install 'compresskit[EXTRA]'; compresskit doctor says what is missing",
}
_EXTRA_PAIR = re.compile(r"extra arguments? \((\w+=[^ )]*)")
_NEAR = 0.7  # options that are less alike have little to do with each other


class LazyGroup(click.Group):
    """Lists commands from tables; imports a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*TECHNIQUES, *COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in TECHNIQUES:
            return importlib.import_module(".technique", __package__).technique_command(cmd_name)
        if cmd_name in COMMANDS:
            module, _, function = COMMANDS[cmd_name][0].partition(":")
            return getattr(importlib.import_module(f".{module}", __package__), function)
        return None

    def resolve_command(self, ctx: click.Context, args: list[str]):
        if args and args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            raise click.UsageError(_no_command(args[0], self.list_commands(ctx)), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Techniques"):
            formatter.write_dl([(name, technique.summary) for name, technique in TECHNIQUES.items()])
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="compresskit")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Make trained PyTorch models smaller and faster, and measure what that did.

    Results go to stdout (--json for machines), progress to stderr. Exit codes: 0 done, 1 a bug, 2 bad input,
    3 a guard or budget was missed, 130 interrupted (Ctrl-C, SIGTERM, SIGHUP).
    """


def main() -> None:
    """Entry point of the console script: turns every error into one line and an exit code."""
    open_streams()
    debug = "--debug" in sys.argv[1:]
    if debug:  # the flag may stand anywhere
        sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    code = _run(debug)
    unwritten = close_streams()
    if unwritten and not code:
        code = _fail(unwritten, 2)
    sys.exit(code)


def _run(debug: bool) -> int:
    interruption = Interruption()
    if os.environ.get("_COMPRESSKIT_COMPLETE"):  # a shell asks, and nothing of the user's runs
        return cli(prog_name="compresskit")
    separate_results()
    results = sys.stdout
    try:
        interruption.listen()
        result = cli(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except BrokenPipeError:  # whoever reads stdout has seen enough; what was asked for is done
        silence()
        return 0
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _interrupted()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        if debug:
            raise
        return _fail(_usage(error), 2)
    except SystemExit as error:  # ours end otherwise
        if sys.stdout is not results:  # click puts another in its place once its reader is gone
            silence()
            return 0
        if debug:
            raise
        return _fail(f"the code that was named called sys.exit({error.code!r})", 2)
    except BaseException as error:  # code that was named may raise kinds of its own
        if interruption.came:  # a library made another exception of it
            return _interrupted()
        if debug:
            raise
        return _explain(error)


def _interrupted() -> int:
    return _fail(interrupted(), 130)


def _explain(error: BaseException) -> int:
    if isinstance(error, CompresskitError):
        return _fail(str(error), error.exit_code, artifact=getattr(error, "artifact", None))
    full = disk_error(error)
    if full is not None:
        return _fail(full, 2)
    if isinstance(error, OSError):
        return _fail(f"{error.filename or 'file system'}: {system_error(error)}", 2)
    theirs = blame(error)
    if theirs is not None:
        return _fail(f"the code that was named failed: {theirs}; --debug shows the traceback", 2)
    reason = (str(error).splitlines() or [""])[0]
    return _fail(f"a bug: {type(error).__name__}: {reason}; --debug shows the traceback", 1)


def _usage(error: click.ClickException) -> str:
    message = error.format_message().replace("\n", " ")
    pair = _EXTRA_PAIR.search(message)
    if pair is not None:
        message += f"; an option of KEY=VALUE takes one: repeat it, e.g. --data-arg {pair[1]}"
    elif message.startswith("Got unexpected extra argument") and _example(error):
        message += f"; what is no name of a model or file is an option, e.g. {_example(error)}"
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        message = _no_option(error.option_name, error.ctx.command)
    context = getattr(error, "ctx", None)
    return f"{message} (see {context.command_path} --help)" if context else message


def _example(error: click.ClickException) -> str:
    """The first example of the command that an error is about."""
    context = getattr(error, "ctx", None)
    return _first_example(context.command) if context else ""


def _first_example(command: click.Command) -> str:
    return (command.epilog or "").partition("\n")[0]


def _no_command(name: str, commands: list[str]) -> str:
    if name in _INSTEAD:
        return f"no command {name!r}; {_INSTEAD[name]}"
    if name in _ELSEWHERE:
        return f"no command {name!r}; did you mean {_ELSEWHERE[name]!r}?"
    return f"no command {name!r}{nearest(name, commands)}"


def _no_option(name: str, command: click.Command) -> str:
    """That a command has no such option, and the nearest of its own, or which techniques have it."""
    called = "compresskit" if isinstance(command, click.Group) else command.name
    own = [flag for option in command.params for flag in option.opts if flag.startswith("--")]
    positional = [one.metavar for one in command.params if isinstance(one, click.Argument) and one.name == name[2:]]
    if positional:
        return f"{called} takes {positional[0]} without {name}, e.g. {_first_example(command)}"
    others = [
        technique
        for technique, row in TECHNIQUES.items()
        if name.removeprefix("--").replace("-", "_") in (leaf.name for leaf in row.options_model().leaves())
    ]
    if _ELSEWHERE.get(name) in own:
        return f"{called} has no option {name}; it is called {_ELSEWHERE[name]} here"
    if others:
        listed = " and ".join(filter(None, [", ".join(others[:-1]), others[-1]]))
        return f"{called} has no option {name}, which {listed} {'has' if len(others) == 1 else 'have'}"
    close = get_close_matches(name, own, n=1, cutoff=_NEAR)
    return f"{called} has no option {name}{f'; did you mean {close[0]!r}?' if close else ''}"


def _fail(message: str, code: int, *, artifact: str | None = None) -> int:
    lines = [printable(line) for line in message.split("\n") if line.strip()]
    lines_asked = "--json-lines" in sys.argv[1:]
    if lines_asked or ("--json" in sys.argv[1:] and not anything_written()):
        record = {"kind": EXIT_CODES[code][0], "exit_code": code, "messages": lines, "artifact": artifact}
        with suppress(OSError):
            print(json.dumps({"event": "error", "error": record} if lines_asked else {"error": record}))
    # a name may hold a line end of another kind, which does not end the line of an error
    for line in message.split("\n") if message.strip() else [""]:
        print(broken(f"compresskit: {printable(line)}", sys.stderr), file=sys.stderr)
    return code
