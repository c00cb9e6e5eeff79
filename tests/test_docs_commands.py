"""Every command block of README and docs: its commands are there, take its options, and open their models and data.

A block is read line by line. Each command of compresskit is parsed and its options are validated; a technique or a
recipe is then checked as `run --dry-run` checks it, and what looks at a model really runs. Models, weights and data
that a page only names are replaced by a small trained network and the digits. A block that needs what is not here
carries a comment `<!-- not run: reason -->` on the line before. Python blocks of the pages run in
tests/api/test_examples.py and tests/test_extending.py.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from compresskit.cli.main import COMMANDS, cli
from compresskit.pipeline.recipe import Recipe, Step, read_recipe, validate
from compresskit.pipeline.techniques import TECHNIQUES
from tests.conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
#: of fences; one without a language holds commands
LANGUAGES = {"", "bash", "python", "yaml", "toml", "json", "text"}
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S)
#: what a page names -> what stands in for it
STAND_INS = [
    (
        r"(?:torchvision:\w+|hf:[\w/]+|examples/detection_ssd\.py:make|examples/segmentation_unet\.py:UNet|net\.py:make"
        r"|builtin:digits_cnn)\b",
        "runs/base",
    ),
    (r"(?:--weights|--source) \S+", ""),
    (r"\b(?:imagefolder|coco|text|audio|csv):[\w./]+", "digits"),
    (r"data\.py:make|digits-segmentation", "digits"),
    (r"layer1\.0\.conv2", "3"),
    (r"bytes 1MB\b", "bytes 40kB"),  # the small network has less than a megabyte
]  # fmt: skip
#: pages of models and data of other kinds: their commands are parsed, and their methods have tests of their own
PARSED_ONLY = {"docs/deployment.md", "docs/language-models.md", "docs/transformers-folders.md"}
#: pages whose commands run for real elsewhere
ELSEWHERE = {"docs/extending.md"}  # tests/test_extending.py


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def blocks_of(page: Path) -> list[re.Match[str]]:
    return list(BLOCK.finditer(page.read_text()))


def commands_of(page: Path) -> list[str]:
    """Lines of a page's blocks of commands that are to run, continued lines joined."""
    lines = []
    for block in blocks_of(page):
        if block["language"] in ("", "bash") and not block["reason"]:
            lines += block["text"].replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


COMMAND_LINES = [
    pytest.param(page, line, id=f"{name_of(page)}: {' '.join(line.split()[:4])}")
    for page in PAGES if name_of(page) not in ELSEWHERE
    for line in commands_of(page)
    if line.startswith("compresskit ")
]  # fmt: skip


def with_stand_ins(line: str) -> str:
    for pattern, stand_in in STAND_INS:
        line = re.sub(pattern, stand_in, line)
    return line


#: each command once, whatever it is called on another page; those of DEAR are parsed only, they have tests of their own
DEAR = {"export", "doctor", "verify"}
DISTINCT = {
    tuple(with_stand_ins(parameter.values[1]).split()): parameter for parameter in reversed(COMMAND_LINES)
    if name_of(parameter.values[0]) not in PARSED_ONLY and parameter.values[1].split()[1] not in DEAR
}  # fmt: skip


def words_of(line: str) -> list[str]:
    """Arguments of a command; a loop's variable has one of its values, and what goes to a file is left out."""
    return shlex.split(line.replace("$share", "0.5").split(" > ")[0])[1:]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_of_a_kind_that_is_tested(page):
    blocks = blocks_of(page)
    assert page.read_text().count("\n```") == 2 * len(blocks)  # none is missed
    assert [block["text"] for block in blocks if block["language"] not in LANGUAGES] == []
    assert [block["reason"] for block in blocks if block["reason"] is not None and len(block["reason"]) < 10] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_yaml_block_is_read(page):
    for block in blocks_of(page):
        if block["language"] == "yaml":
            read = yaml.safe_load(block["text"])
            if isinstance(read, dict) and "steps" in read and not block["reason"]:
                assert validate(read).steps


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_block_of_the_shell_holds_commands_that_are_known(page):
    known = re.compile(r"compresskit (\S+)|for \w+ in .*; do|done|pip install .*|python -m .*")
    for line in commands_of(page):
        found = known.match(line)
        assert found, line
        if found[1]:
            assert found[1] in {*TECHNIQUES, *COMMANDS}, line


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES)
def test_a_command_takes_its_options(page, line):
    words = words_of(line)
    command = cli.get_command(click.Context(cli), words[0])
    parsed = command.make_context(words[0], words[1:], resilient_parsing=False)
    if words[0] in TECHNIQUES:
        assert recipe_of(words[0], parsed).steps


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_says_how_it_is_run(path):
    lines = [line[2:].split("   ")[0] for line in path.read_text().splitlines() if line.startswith("# compresskit")]
    assert lines
    for line in lines:
        words = words_of(line)
        assert words[:2] == ["run", f"configs/{path.name}"]
        cli.get_command(click.Context(cli), "run").make_context("run", words[1:])
        assert read_recipe(path, [word for word in words if "=" in word]).steps


def recipe_of(technique: str, parsed: click.Context) -> Recipe:
    """The one-step recipe that a technique's command makes of its flags."""
    from compresskit.cli.console import validated
    from compresskit.cli.derive import given_values, options_of
    from compresskit.pipeline.recipe import RecipeOptions

    model = TECHNIQUES[technique].options_model()
    with parsed:  # which flags were given is known to the context
        own = given_values(options_of(model), parsed.params)
        shared = given_values(options_of(RecipeOptions, leave_out=("model", "output")), parsed.params)
    options = validated(RecipeOptions, {"model": parsed.params["model"], **shared}, technique)
    return Recipe(options, (Step(technique, validated(model, own, technique)),))


@pytest.fixture(scope="module")
def workplace(digits_model, tmp_path_factory):
    """A folder in which all that the pages name is there: runs/base is a trained model, and so is any other run."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(digits_model, folder / "runs" / "base")
    for name in ("configs", "examples"):
        shutil.copytree(REPOSITORY / name, folder / name)
    recipe = next(block["text"] for block in blocks_of(REPOSITORY / "docs" / "start.md") if block["language"] == "yaml")
    (folder / "recipe.yaml").write_text(recipe)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("page", "line"), DISTINCT.values())
def test_a_command_opens_what_it_names(page, line, workplace, monkeypatch):
    from compresskit.pipeline.checks.preflight import checked_context

    monkeypatch.chdir(workplace)
    words = words_of(with_stand_ins(line))
    output = words[words.index("-o") + 1] if "-o" in words else None
    for run in words:
        if re.fullmatch(r"runs/[\w.-]+", run) and run != output and not Path(run).exists():
            shutil.copytree("runs/base", run)
    if words[0] == "run":
        assert read_recipe(Path(words[1])).steps
    elif words[0] in TECHNIQUES:
        command = cli.get_command(click.Context(cli), words[0])
        recipe = recipe_of(words[0], command.make_context(words[0], words[1:]))
        if recipe.steps[0].options.prints_only():
            assert CliRunner().invoke(cli, words, catch_exceptions=False).exit_code == 0
        else:
            assert checked_context(recipe, lambda _: None, output=workplace / "out").original is not None
    else:
        result = CliRunner().invoke(cli, [*words, *(["--force"] if output else [])], catch_exceptions=False)
        assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_the_first_page_runs_as_it_stands(tmp_path, monkeypatch):
    """docs/start.md but its export, on a narrower network and without timing."""
    monkeypatch.chdir(tmp_path)
    lines = [line for line in commands_of(REPOSITORY / "docs" / "start.md") if "recipe.yaml" not in line]
    for line in lines:
        words = words_of(re.sub(r"builtin:digits_cnn\b", "builtin:digits_cnn_small", line))
        if words[0] in TECHNIQUES:
            words += ["--latency-rounds", "0", "-q"]
        if words[0] not in ("export", "verify"):
            result = CliRunner().invoke(cli, words, catch_exceptions=False)
            assert result.exit_code == 0, result.output
