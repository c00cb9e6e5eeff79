"""Help in layers: short by default, a section or everything when asked."""

from __future__ import annotations

import pytest

from compresskit.cli.help import _shortened, slug
from compresskit.cli.main import COMMANDS
from compresskit.pipeline.techniques import STEPS, TECHNIQUES

SHORT = 40  # lines of a terminal of 80 columns


@pytest.mark.parametrize("name", [*STEPS, "inspect", "run", "init", "explain"])
def test_help_fits_a_screen_and_ends_with_examples(name, invoke):
    code, out, _ = invoke(name, "--help")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) < SHORT
    assert "Examples:" in lines
    assert any(f"  compresskit {name} " in line for line in lines)


@pytest.mark.parametrize("name", [*TECHNIQUES, *COMMANDS])
def test_every_line_of_help_fits_80_columns_and_examples_stay_commands(name, invoke):
    for flag in ("--help", "--help-all"):
        code, out, _ = invoke(name, flag)
        assert code == 0
        assert max(map(len, out.splitlines())) <= 80
    examples = out.split("Examples:\n")[1].partition("\n\n")[0].replace(" \\\n     ", "")
    assert all(line.startswith(("  compresskit ", "  eval ")) for line in examples.splitlines())


@pytest.mark.parametrize("name", TECHNIQUES)
def test_common_options_exist_and_come_first(name, invoke):
    technique = TECHNIQUES[name]
    _, out, _ = invoke(name, "--help")
    places = [out.index(f"\n  --{field.replace('_', '-')} ") for field in technique.common]
    assert places == sorted(places)
    assert len(places) >= 6


def test_a_section_shows_its_options_whole(invoke):
    code, out, _ = invoke("prune", "--help", "training")
    assert code == 0
    assert "Training:" in out and "--warmup" in out and "share of all steps spent warming up" in out
    assert "  --target-macs" not in out
    assert invoke("prune", "-h", "How much")[1] == invoke("prune", "--help", "how-much")[1] != out


def test_help_all_holds_every_section(invoke):
    _, out, _ = invoke("quantize", "--help-all")
    _, short, _ = invoke("quantize", "--help")
    names = [
        name.strip(" ") for name in " ".join(short.split("--help SECTION:")[1].split()).replace("- ", "-").split(",")
    ]
    assert len(names) > 8
    headings = {slug(line[:-1]) for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")}
    assert set(names) <= headings
    assert len(out.splitlines()) > 200


def test_an_unknown_section_is_one_line_with_the_nearest(invoke):
    code, out, err = invoke("prune", "--help", "trainin")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "'trainin'" in err and "did you mean 'training'" in err


def test_a_command_without_arguments_shows_its_help_as_it_is(invoke):
    code, out, err = invoke("prune")
    assert (code, out) == (2, "")
    assert err.startswith("Usage: ")
    assert "\n  --target-macs " in err


def test_short_texts_end_at_the_end_of_a_clause():
    more = ", " + "x" * 60
    assert _shortened("weights file, or 'pretrained'; .safetensors, shards" + more) == "weights file, or 'pretrained'"
    assert _shortened("largest loss, e.g. 1% (of a share points, else percent)" + more) == "largest loss, e.g. 1%"
    assert _shortened("data string: digits, npz:FILE" + more) == "data string: digits, npz:FILE…"
    assert _shortened("a short text; whole") == "a short text; whole"
