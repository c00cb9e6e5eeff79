"""What a recipe names wrongly is refused at once, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compresskit.core.errors import InputError
from compresskit.pipeline.checks.names import check_names, refuse_early
from compresskit.pipeline.recipe import RecipeOptions, validate

SMALL = "builtin:digits_cnn_small"


def test_everything_is_said_at_once(tmp_path):
    content = {"model": "builtin:digits_cn", "weights": "w.pth", "data": "digit"}
    steps = [{"distill": {"teacher": ["runs/bse"]}}, {"export": {}}, {"export": {}}]
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError) as error:
        refuse_early(validate({**content, "steps": steps}), tmp_path / "out")
    lines = str(error.value).splitlines()
    said = ["unknown builtin model", "weights file 'w.pth'", "unknown data", "steps.0 (distill): model 'runs/bse'"]
    assert [line.startswith(start) for line, start in zip(lines, said, strict=False)] == [True] * 4
    assert "writes 'model.onnx', too" in lines[4] and lines[5].endswith("--resume to go on")


def test_an_output_that_may_be_replaced_passes(tmp_path):
    recipe = validate({"model": SMALL, "steps": [{"prune": {"ratio": 0.5}}]})
    refuse_early(recipe, tmp_path, replaces=True)
    refuse_early(recipe, None)
    with pytest.raises(InputError, match="exists"):
        refuse_early(recipe, tmp_path)


def test_files_for_runtimes_are_models_only_where_a_command_takes_them(tmp_path):
    (tmp_path / "net.onnx").touch()
    options = RecipeOptions(model=str(tmp_path / "net.onnx"))
    assert check_names(options, files=True) is options
    with pytest.raises(InputError, match="a model is one of"):
        check_names(options)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("prune", "runs/bse", "--ratio", "0.5"), "does not exist"),
        (("quantize", SMALL, "--scheme", "int8-static"), "needs data"),
        (("evaluate", SMALL, "--data", "imagefolder:nowhere"), "data directory 'nowhere'"),
        (("export", SMALL, "--weights", "w.pth"), "weights file 'w.pth'"),
        (("prune", SMALL, "--ratio", "0.5", "-o", "."), "exists; give --force"),
    ],
)
def test_such_mistakes_import_no_torch(command, said, tmp_path):
    code = (
        "import sys\nsys.argv = ['compresskit', *sys.argv[1:]]\nfrom compresskit.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout == "2 False\n" and said in done.stderr
    assert not list(Path(tmp_path).iterdir())
