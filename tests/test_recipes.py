"""Every recipe in configs/ and the two commands of the README."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from compresskit.pipeline.recipe import read_recipe
from compresskit.pipeline.reference.docs import options_markdown
from compresskit.pipeline.runner import Run, run
from tests.conftest import REPOSITORY
from tests.word_tokenizer import word_tokenizer

RECIPES = sorted((REPOSITORY / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_validates(path: Path):
    assert read_recipe(path).steps


@pytest.mark.slow
def test_quickstart_ends_smaller_with_its_accuracy(tmp_path):
    settings = (
        "latency_rounds=2", "steps.0.train.epochs=5", "steps.1.prune.recover.epochs=2",
        "steps.2.decompose.recover.epochs=1",
    )  # fmt: skip
    recipe = read_recipe(REPOSITORY / "configs" / "quickstart.yaml", settings)
    report = run(Run(recipe, tmp_path / "out"))
    original, final = report["original"], report["steps"][-1]["measurement"]
    assert [step["technique"] for step in report["steps"]] == ["train", "prune", "decompose", "quantize"]
    assert all(step["facts"]["layers_decomposed"] for step in report["steps"] if step["technique"] == "decompose")
    assert original["metric"]["value"] > 0.95
    assert final["metric"]["value"] > original["metric"]["value"] - 0.03
    assert final["size_bytes"] < 0.15 * original["size_bytes"]
    assert final["macs"] < 0.45 * original["macs"]
    assert final["latency"]["speedup"] > 0


@pytest.mark.slow
def test_the_exported_model_keeps_its_accuracy_in_its_runtime(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    settings = (
        "steps.0.train.epochs=3",
        "steps.1.prune.recover.epochs=1",
        "steps.3.export.rounds=0",
        "latency_rounds=0",
    )
    report = run(Run(read_recipe(REPOSITORY / "configs" / "export-int8.yaml", settings), tmp_path / "out"))
    quantized, exported = report["steps"][-2:]
    assert (tmp_path / "out" / "model.onnx").stat().st_size == exported["measurement"]["size_bytes"]
    assert exported["measurement"]["size_bytes"] < 0.25 * report["original"]["size_bytes"]
    assert abs(exported["measurement"]["metric"]["value"] - quantized["measurement"]["metric"]["value"]) < 0.01
    assert exported["facts"]["runtime"] == "onnxruntime" and exported["facts"]["agreement"] > 0.99
    assert report["labels"]["latency"].startswith("executed: onnxruntime")


@pytest.mark.integration
def test_the_export_recipe_plans(invoke):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    code, out, err = invoke("run", str(REPOSITORY / "configs" / "export-int8.yaml"), "--dry-run", "--json")
    assert code == 0, err
    rows = json.loads(out)["plan"]
    assert [row["step"] for row in rows] == ["original", "train", "prune", "quantize", "export"]
    assert rows[-1]["macs"] == rows[2]["macs"] < 0.51 * rows[0]["macs"]


def test_cifar_recipe_plans(cifar_dir, shared_dir, invoke):
    code, out, err = invoke(
        "run",
        str(REPOSITORY / "configs" / "cifar10-resnet56.yaml"),
        "--dry-run",
        "--json",
        "--set",
        f"weights={shared_dir}/models/resnet56_cifar10.safetensors",
        "--set",
        f"data=imagefolder:{cifar_dir}",
        "--set",
        "steps.0.prune.samples=256",  # what is planned here does not hang on how well layers are refitted
        "--set",
        "steps.0.prune.scope=local",
    )
    plan = json.loads(out)
    assert code == 0, err
    assert 0.48 < plan["plan"][1]["macs"] / plan["plan"][0]["macs"] <= 0.5


def test_the_options_table_is_up_to_date():
    assert (REPOSITORY / "docs" / "options.md").read_text() == options_markdown(), (
        "run: compresskit schema --markdown > docs/options.md"
    )


def test_the_readme_names_the_commands_that_ci_runs():
    readme = (REPOSITORY / "README.md").read_text()
    assert "pip install . && compresskit run configs/quickstart.yaml" in readme
    assert readme.count("pip install -e '.[test]' && python -m pytest") == 1
    assert "python -m pytest" not in (REPOSITORY / ".ci" / "run").read_text()  # it reads the command from the README


@pytest.mark.slow
def test_the_language_model_recipe_ends_smaller(tmp_path, shared_dir):
    pytest.importorskip("transformers")
    settings = (
        f"model=hf:{shared_dir / 'models' / 'tinylm'}", f"data=text:{shared_dir / 'data' / 'pytext'}",
        "data_arg.samples=64", "data_arg.length=64", "eval_limit=16", "latency_rounds=0", "steps.0.prune.samples=8",
        "steps.1.prune.samples=32", "steps.2.quantize.calibration_samples=32", "steps.2.quantize.max_drop=300%",
    )  # fmt: skip
    report = run(Run(read_recipe(REPOSITORY / "configs" / "llm.yaml", settings), tmp_path / "out"))
    original, (depth, width, final) = report["original"], [step["measurement"] for step in report["steps"]]
    assert original["metric"]["name"] == "perplexity" and original["metric"]["value"] < 40
    assert depth["macs"] < 0.75 * original["macs"] and width["macs"] < 0.7 * depth["macs"]
    assert final["size_bytes"] < 0.2 * original["size_bytes"]
    assert final["metric"]["value"] < 3 * original["metric"]["value"]


@pytest.mark.slow
def test_the_encoder_recipe_ends_with_half_the_work(tmp_path, encoder_dir):
    (tmp_path / "corpus.txt").write_text(" ".join(f"w{number * number % 40}" for number in range(4000)))
    settings = (
        f"model=hf:{encoder_dir}", f"data=text:{tmp_path / 'corpus.txt'}", "data_arg.length=16", "latency_rounds=0",
        "steps.0.prune.samples=32", "steps.0.prune.recover.epochs=1", "steps.1.quantize.max_drop=0.9",
    )  # fmt: skip
    report = run(Run(read_recipe(REPOSITORY / "configs" / "encoder.yaml", settings), tmp_path / "out"))
    original, final = report["original"], report["steps"][-1]["measurement"]
    assert original["metric"]["value"] == pytest.approx(1) and final["metric"]["value"] > 0.5
    assert final["macs"] < 0.56 * original["macs"] and final["size_bytes"] < 0.6 * original["size_bytes"]


@pytest.fixture
def encoder_dir(tmp_path):
    """A small BERT of random weights in a folder with a tokenizer of words."""
    transformers = pytest.importorskip("transformers")
    folder = word_tokenizer(tmp_path / "encoder")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=45, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder
