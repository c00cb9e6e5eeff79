"""The inputs of ../shared/cases, end to end: what its README says is right, row by row."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import compresskit as package
from compresskit.pipeline.inspection import looking
from tests.fresh_process import forks

pytestmark = pytest.mark.integration

LATENCY = ("--latency-rounds", "0", "-q")


@pytest.fixture(scope="module")
def torch_forks(tmp_path_factory: pytest.TempPathFactory):
    with forks(tmp_path_factory.mktemp("forks")) as server:
        yield server


@pytest.fixture(autouse=True)
def verify_in_forks(torch_forks, monkeypatch: pytest.MonkeyPatch):
    """`verify` reloads in a fresh process; test_looking.py and test_import_path.py have it start one from nothing."""

    class Processes:
        DEVNULL, run = subprocess.DEVNULL, torch_forks.run

    monkeypatch.setattr(looking, "subprocess", Processes)
    return torch_forks


@pytest.fixture
def cases(shared_dir: Path, tmp_path: Path) -> Path:
    """The folder of case files, beside which a test may write."""
    if not (shared_dir / "cases").is_dir():
        pytest.skip(f"there are no cases at {shared_dir}")
    for file in (shared_dir / "cases").glob("*.py"):
        shutil.copy(file, tmp_path / file.name)
    return tmp_path


@pytest.fixture(scope="module")
def hf_folder(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory, torch_forks):
    """A function that makes one transformers folder of hf_folders.py: (family) -> path."""
    pytest.importorskip("transformers")
    torch_forks.imports += ("transformers.modeling_utils",)
    script = shared_dir / "cases" / "hf_folders.py"
    if not script.is_file():
        pytest.skip(f"{script} is not there")
    root = tmp_path_factory.mktemp("hf")

    def make(family: str) -> Path:
        if not (root / family).is_dir():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", [str(script), str(root), family])
                runpy.run_path(str(script))
        return root / family

    return make


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def macs_kept(folder: Path) -> float:
    report = report_of(folder)
    return report["steps"][-1]["measurement"]["macs"] / report["original"]["macs"]


def succeeds(result: tuple[int, str, str]) -> None:
    assert result[0] == 0, result[2]


TECHNIQUES = {
    "prune": ("--target-macs", "0.5"),
    "quantize": ("--scheme", "int8-weight"),
    "decompose": ("--keep-ratio", "0.5", "--slower-layers", "allow"),
}


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize(
    ("factory", "shape"), [("linspace", "3,32,32"), ("dry", "3,32,32"), ("sobel", "1,32,32"), ("gcn", "6,8")]
)
def test_a_constructor_may_compute_with_tensors(invoke, cases, technique, factory, shape):
    model = f"constructors.py:{factory}"
    succeeds(invoke(technique, model, "--input", shape, *TECHNIQUES[technique], *LATENCY, "-o", "out"))
    succeeds(invoke("verify", "out", "--trust-source"))


@pytest.mark.parametrize(
    ("model", "example"),
    [
        ("small.py:ids", "16:int64:1000"),
        ("recurrent.py:tagger", "20:int64:500"),
        ("lm.py:make", "24:int64:4000"),
    ],
)
def test_token_models_are_saved_and_verified(invoke, cases, model, example):
    succeeds(invoke("quantize", model, "--input", example, "--scheme", "int8-weight", *LATENCY, "-o", "out"))
    succeeds(invoke("verify", "out", "--source", model))


def test_inputs_without_further_dimensions(invoke, cases):
    inputs = ("--input", "gray=1,16,16", "--input", "color=3,32,32", "--input", "user=:int64:500")
    succeeds(invoke("prune", "multi.py:make", *inputs, "--target-macs", "0.5", *LATENCY, "-o", "out"))
    assert macs_kept(cases / "out") <= 0.5
    succeeds(invoke("verify", "out", "--trust-source"))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "bert", "gpt2", "t5", "distilbert", "clip", "whisper", "wav2vec2"])
def test_transformers_families_end_to_end(invoke, hf_folder, tmp_path, family):
    model = f"hf:{hf_folder(family)}"
    succeeds(invoke("inspect", model))
    succeeds(invoke("prune", model, "--ratio", "0.3", *LATENCY, "-o", "out"))
    succeeds(invoke("verify", "out"))
    succeeds(invoke("quantize", "out", "--scheme", "int4-weight", *LATENCY, "-o", "int4"))
    succeeds(invoke("verify", "int4"))


def test_a_bfloat16_folder_stays_bfloat16(invoke, hf_folder, tmp_path):
    folder = hf_folder("llama-bf16")
    succeeds(invoke("prune", f"hf:{folder}", "--ratio", "0.3", *LATENCY, "-o", "out"))
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys() if "inv_freq" not in name}  # noqa: SIM118
    assert kinds == {torch.bfloat16}
    own = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert report_of(tmp_path / "out")["original"]["size_bytes"] == pytest.approx(own, rel=0.02)


def test_a_bfloat16_language_model_is_quantized(invoke, cases):
    succeeds(invoke("quantize", "lm.py:with_example_bf16", "--scheme", "int8-weight", *LATENCY, "-o", "out"))
    succeeds(invoke("verify", "out", "--trust-source"))


#: batch 1, 20 steps, 2 layers, 2 directions: gates * hidden * (input + hidden) a step, then embedding and head
@pytest.mark.parametrize(("factory", "gates"), [("lstm", 4), ("gru", 3)])
def test_macs_of_recurrent_layers(invoke, cases, factory, gates):
    code, out, _ = invoke("inspect", f"seq.py:{factory}", "--json")
    assert code == 0
    recurrent = 20 * 2 * gates * 64 * ((48 + 64) + (128 + 64))
    assert json.loads(out)["macs"] == recurrent + 20 * 10 * 48 + 128 * 5


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize(
    ("model", "example"),
    [
        ("parametrized.py:tcn", "16,32"),
        ("parametrized.py:tcn_old", "16,32"),
        ("parametrized.py:disc", "3,32,32"),
        ("parametrized.py:disc_old", "3,32,32"),
        ("small.py:gn_two", "3,16,16"),
        ("small.py:gn_skip", "3,16,16"),
        ("small.py:new_zeros", "5,16"),
        ("recurrent.py:convlstm", "3,1,8,8"),
        ("small.py:normalize", "3,16,16"),
        ("small.py:width_assert", "3,16,16"),
    ],
)
def test_half_of_the_macs_go(invoke, cases, model, example):
    succeeds(invoke("prune", model, "--input", example, "--target-macs", "0.5", *LATENCY, "-o", "out"))
    assert 0.25 < macs_kept(cases / "out") <= 0.5
    succeeds(invoke("verify", "out", "--trust-source"))


def test_a_width_that_forward_spells_out_stays_and_is_named(invoke, cases):
    """Its state is `new_zeros(batch, 128)`: what goes are the cell's inputs alone."""
    args = ("--input", "5,16", *LATENCY, "-o", "out")
    code, _, err = invoke("prune", "recurrent.py:cell", "--target-macs", "0.5", *args)
    assert code == 2 and "give at least 0.701" in err
    succeeds(invoke("prune", "recurrent.py:cell", "--target-macs", "0.71", *args))
    assert 0.5 < macs_kept(cases / "out") <= 0.71
    assert "with a tensor of fixed size in cell" in json.dumps(report_of(cases / "out")["steps"][-1]["notes"])
    succeeds(invoke("verify", "out", "--trust-source"))


def test_a_spline_network_is_cut_or_its_reason_is_true(invoke, cases):
    code, out, err = invoke(
        "prune", "parametrized.py:kan", "--input", "64", "--target-macs", "0.5", *LATENCY, "-o", "o"
    )
    assert code in (0, 2)
    assert "they are the model's outputs or fixed inputs" not in out + err
    if code == 0:
        assert macs_kept(cases / "o") <= 0.5


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
def test_a_scripted_layer_is_left_out_and_named(invoke, cases):
    code, _, err = invoke(
        "prune", "small.py:scripted", "--input", "3,16,16", "--target-macs", "0.5", *LATENCY, "-o", "out"
    )
    assert code == 0, err
    report = report_of(cases / "out")
    assert "fc" in json.dumps([report["steps"][-1]["notes"], report["steps"][-1]["tables"]])
    succeeds(invoke("verify", "out", "--trust-source"))


@pytest.mark.parametrize("flag", ["--resume", "--force"])
def test_a_folder_of_somebody_else_is_not_replaced(invoke, cases, flag):
    (cases / "mine").mkdir()
    (cases / "mine" / "thesis.txt").write_text("years of work")
    code, _, err = invoke(
        "quantize", "builtin:digits_cnn_small", "--scheme", "int8-weight", *LATENCY, "-o", "mine", flag
    )
    assert code == 2
    assert "mine" in err
    assert (cases / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_steps_folder_of_somebody_else_is_not_replaced(invoke, cases):
    (cases / "out.steps").mkdir()
    (cases / "out.steps" / "thesis.txt").write_text("years of work")
    code, _, _ = invoke("quantize", "builtin:digits_cnn_small", "--scheme", "int8-weight", *LATENCY, "-o", "out")
    assert code == 2
    assert (cases / "out.steps" / "thesis.txt").read_text() == "years of work"


BOMB = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))])


@pytest.mark.parametrize(
    "text",
    [
        f"model: builtin:lenet5\n{BOMB}\n",
        "model: &m [*m]\nsteps: []\n",
        "model: " + "[" * 10_000 + "\n",
        "model: a\0b\nsteps: []\n",
        f"model: builtin:digits_cnn_small\ndata: digits\nseed: {2**63}\nsteps:\n  - train: {{epochs: 1}}\n",
    ],
    ids=["aliases", "recursion", "nesting", "nul", "seed"],
)
def test_a_hostile_recipe_is_refused_in_one_line(invoke, cases, text):
    (cases / "recipe.yaml").write_text(text)
    code, out, err = invoke("run", "recipe.yaml", "-o", "out")
    assert (code, out, len(err.splitlines())) == (2, "", 1), err


def test_a_decomposition_replayed_with_its_timings_decides_alike(invoke, cases):
    hashes = set()
    for number, replayed in enumerate([(), ("--timings", "o0"), ("--timings", "o0")]):
        succeeds(invoke("decompose", "builtin:digits_cnn", "--energy", "0.85", *replayed, *LATENCY, "-o", f"o{number}"))
        hashes.add(report_of(cases / f"o{number}")["weights_sha256"])
    assert len(hashes) == 1


def test_code_beside_an_artifact_never_runs(compresskit, cases, digits_model):
    folder = cases / "artifact"
    shutil.copytree(digits_model, folder)
    (folder / "json.py").write_text("open('ran', 'w').close()\nraise SystemExit(0)\n")
    done = compresskit("verify", ".", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "timm", "name": "resnet18", "args": {"checkpoint_path": "/etc/passwd"}},
        {"kind": "timm", "name": "resnet18", "args": {"pretrained": True}},
        {"kind": "torchvision", "name": "resnet18", "args": {"weights": "DEFAULT"}},
        {"kind": "hf", "name": "/etc", "class": "BertModel", "config": {"model_type": "bert"}},
    ],
    ids=lambda source: "-".join([source["kind"], *source.get("args", {})]),
)
def test_a_manifest_cannot_reach_outside(cases, digits_model, source):
    pytest.importorskip({"hf": "transformers"}.get(source["kind"], source["kind"]))
    folder = cases / "artifact"
    shutil.copytree(digits_model, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "source": source}))
    from compresskit.core.errors import InputError

    with pytest.raises(InputError, match="|".join([*source.get("args", {}), "outside", "missing tensors"])):
        package.load(str(folder))
