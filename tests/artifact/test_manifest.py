"""Manifests from strangers: each malformed or oversized one is refused on one line, before anything is built."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from compresskit.artifact import artifact
from compresskit.artifact.edits import EDITS, check
from compresskit.artifact.manifest import read_checked
from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.core.types import Preprocessing


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "artifact"
    artifact.save(load_model("builtin:digits_cnn_small"), folder)
    return folder


def changed(good: Path, tmp_path: Path, text: str | None = None, **changes) -> Path:
    folder = tmp_path / "artifact"
    if folder != good:
        folder.parent.mkdir(exist_ok=True)
        shutil.copytree(good, folder)
    path = folder / "manifest.json"
    path.write_text(text if text is not None else json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def tensor(*shape: int) -> dict:
    return {"shape": list(shape), "dtype": "float32"}


WRONG = {
    "a name that is a number": ({"name": 3}, "name: Input should be a valid string"),
    "no source": ({"source": None}, "source"),
    "a source of an unknown kind": ({"source": {"kind": "url", "name": "x"}}, "source.kind"),
    "a source without its name": ({"source": {"kind": "builtin", "args": {}}}, "'builtin' lacks name"),
    "a source without arguments": ({"source": {"kind": "builtin", "name": "lenet5"}}, "'builtin' lacks args"),
    "hf without a configuration": ({"source": {"kind": "hf", "name": "x", "class": "X"}}, "'hf' lacks config"),
    "edits that are no list": ({"edits": {}}, "edits: Input should be a valid list"),
    "an edit that is a list": ({"edits": [[]]}, "edits.0"),
    "an edit of an unknown op": ({"edits": [{"op": ["remove"], "target": "0"}]}, "edit 0: op"),
    "an edit with a foreign key": ({"edits": [{"op": "remove", "target": "0", "a": "x"}]}, "edit 0 (remove 0): a: "),
    "an enormous tensor": (
        {"edits": [{"op": "resize", "target": "0", "shapes": {"weight": [10**6, 10**6, 3]}}]},
        "a tensor of 3,000,000,000,000 elements",
    ),
    "a negative size": ({"edits": [{"op": "resize", "target": "0", "shapes": {"weight": [-1]}}]}, "weight.0"),
    "bits that are a float": ({"edits": [{"op": "quantized", "target": "0", "bits": 8.0}]}, "bits"),
    "operands without end": ({"edits": [{"op": "quantized", "target": "0", "operands": 10**12}]}, "operands"),
    "ranks of text": ({"edits": [{"op": "factored", "target": "0", "kind": "svd", "rank": "4"}]}, "rank"),
    "an unknown codec": ({"storage": {"0.weight": "zip"}}, "unknown storage codec"),
    "ties that are no names": ({"tied": {"a": 1}}, "tied.a"),
    "inputs that are a list": ({"inputs": []}, "inputs"),
    "inputs without end": ({"inputs": tensor(1, 10**6, 10**6)}, "shape: a tensor of 1,000,000,000,000 elements"),
    "inputs of a thousand tensors": ({"inputs": {"tuple": [tensor(10**6)] * 1000}}, "inputs of 1,000,000,000 elements"),
    "a mapping of inputs that is a list": ({"inputs": {"mapping": []}}, "mapping must hold a mapping"),
    "a size without end": ({"preprocessing": {"mean": [], "std": [], "size": [10**9, 1]}}, "preprocessing.size.0"),
    "a standard deviation of zero": ({"preprocessing": {"mean": [0.5], "std": [0.0]}}, "a standard deviation of zero"),
    "a device that is a list": ({"built_on": ["meta"]}, "built_on"),
    "a provenance that is text": ({"provenance": "x"}, "provenance"),
    "a hash that is none": ({"weights_sha256": "x"}, "weights_sha256"),
    "a probe of text": ({"probe": {"values": ["x"], "norm": 0.0, "shape": []}}, "probe.values"),
    "a norm that is no number": ({"probe": {"values": [], "norm": "nan", "shape": []}}, "probe.norm"),
    "a norm of another output that is text": (
        {"probe": {"values": [], "norm": 0.0, "shape": [], "outputs": {"a": {"norm": "x", "shape": []}}}},
        "probe.outputs.a.norm",
    ),
    "a probe without end": ({"probe": {"values": [0.0] * 10_000, "norm": 0.0, "shape": []}}, "probe.values"),
    "a version that is true": ({"format_version": True}, "format version"),
}


@pytest.mark.parametrize(("changes", "says"), WRONG.values(), ids=WRONG)
def test_malformed_manifests(changes, says, good, tmp_path):
    folder = changed(good, tmp_path, **changes)
    started = time.process_time()
    with pytest.raises(InputError) as error:
        artifact.load(folder, trust_source=True)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert time.process_time() - started < 2


TEXTS = {
    "brackets": ("[" * 100_000, "nested too deep|damaged"),
    "nested objects": ('{"a":' * 200 + "1" + "}" * 200, "nested more than"),
    "NaN": ('{"format_version": 1, "x": NaN}', "NaN is no number"),
    "infinity by digits": ('{"x": 1e999}', "beyond the largest float"),
    "5,000 digits": ('{"x": ' + "9" * 5000 + "}", "5,000 digits"),
    "10 to the 30": ('{"x": 1' + "0" * 30 + "}", "31 digits"),
    "a key twice": ('{"format_version": 1, "format_version": 1}', "stands twice"),
    "nothing": ("", "damaged"),
    "a list": ("[]", "format version"),
}


@pytest.mark.parametrize(("text", "says"), TEXTS.values(), ids=TEXTS)
def test_files_that_are_no_manifest(text, says, good, tmp_path):
    with pytest.raises(InputError, match=says):
        artifact.load(changed(good, tmp_path, text=text))


def test_files_that_are_no_text(good, tmp_path):
    folder = changed(good, tmp_path)
    (folder / "manifest.json").write_bytes(b'{"name": "\xff"}')
    with pytest.raises(InputError, match="damaged"):
        artifact.load(folder)
    (folder / "manifest.json").write_bytes(b"")
    os.truncate(folder / "manifest.json", 1 << 30)
    with pytest.raises(InputError, match="larger than"):
        artifact.load(folder)
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(InputError, match="no manifest"):
        artifact.load(folder)


def test_keys_of_later_releases_are_read_past(good, tmp_path):
    content = json.loads((good / "manifest.json").read_text())
    folder = changed(
        good, tmp_path, new_key={"a": [1]}, probe={**content["probe"], "outputs": {}}, inputs={**content["inputs"]}
    )
    assert artifact.load(folder).name == "digits_cnn_small"


def test_links_out_of_the_folder_are_refused(good, tmp_path):
    folder = changed(good, tmp_path)
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(InputError, match="leaves the artifact's folder"):
        artifact.load(folder)


def test_code_behind_a_link_is_refused(tmp_path):
    (tmp_path / "net.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(4, 2)\n")
    folder = tmp_path / "artifact"
    artifact.save(load_model(f"{tmp_path}/net.py:make", inputs=["4"]), folder)
    assert artifact.load(folder, trust_source=True).module.in_features == 4
    (folder / "net.py").unlink()
    (folder / "net.py").symlink_to(tmp_path / "net.py")
    with pytest.raises(InputError, match="leaves the artifact's folder"):
        artifact.load(folder, trust_source=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_never_load(value, good, tmp_path):
    from safetensors.torch import load_file, save_file

    from compresskit.model.checkpoints.weights import sha256_of

    folder = changed(good, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["0.weight"][0] = value
    save_file(tensors, folder / "model.safetensors")
    changed(folder, tmp_path, weights_sha256=sha256_of(folder / "model.safetensors"))
    with pytest.raises(InputError, match="0.weight holds NaN or infinite"):
        artifact.load(folder, check=False)


def test_every_op_has_a_record():
    for op in EDITS:
        record = EDITS.load(op).record
        assert record.model_config["extra"] == "forbid"
        with pytest.raises(InputError, match="edit 0"):
            check([{"op": op, "target": 3}], "manifest")


@pytest.mark.parametrize(
    ("model", "argument", "value"),
    [
        ("timm:resnet18", "checkpoint_path", "/etc/passwd"),
        ("timm:resnet18", "pretrained", True),
        ("timm:resnet18", "pretrained_cfg", {"file": "x.pth"}),
        ("timm:resnet18", "cache_dir", "x"),
        ("timm:resnet18", "num_classes", 10**12),
        ("timm:resnet18", "act_layer", "../../evil"),
        ("timm:resnet18", "no_such_argument", 1),
        ("torchvision:resnet18", "weights", "DEFAULT"),
        ("torchvision:fasterrcnn_resnet50_fpn", "weights_backbone", "DEFAULT"),
        ("torchvision:resnet18", "num_classes", [[[[[[1]]]]]]),
    ],
)
def test_library_arguments_of_a_manifest(model, argument, value, good, tmp_path):
    kind, _, name = model.partition(":")
    pytest.importorskip(kind)
    folder = changed(good, tmp_path, source={"kind": kind, "name": name, "args": {argument: value}})
    with pytest.raises(InputError, match=f"{name}: .*argument '{argument}'"):
        artifact.load(folder)


@pytest.mark.integration
def test_library_arguments_that_shape_a_model_pass(tmp_path):
    pytest.importorskip("timm")
    loaded = load_model("timm:vit_tiny_patch16_224", model_args={"num_classes": 3, "drop_rate": 0.1})
    artifact.save(loaded, tmp_path / "a")
    assert torch.equal(artifact.load(tmp_path / "a").module(loaded.example), loaded.module(loaded.example))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"auto_map": {"AutoModel": "evil--model.Net"}}, "auto_map"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"use_pretrained_backbone": True}, "use_pretrained_backbone"),
        ({"backbone": "someone/repository"}, "backbone"),
        ({"vision_config": {"checkpoint_path": "x.pt"}}, "checkpoint_path"),
        ({"index_path": "/etc"}, "index_path"),
        ({"_attn_implementation": "someone/kernel"}, "_attn_implementation"),
        ({"backbone_kwargs": {"checkpoint_path": "x"}}, "checkpoint_path"),
        ({"num_labels": 10**9}, "num_labels"),
        ({"model_type": 3}, "model_type"),
        ({"model_type": "no_such_type"}, "no_such_type"),
        ({"hidden_size": "wide"}, "hf:"),
        ({"hidden_size": -1}, "hf:"),
    ],
)
def test_transformers_configurations_of_a_manifest(change, says, good, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = {**json.loads(transformers.ViTConfig(num_hidden_layers=1).to_json_string(use_diff=False)), **change}
    record = {"kind": "hf", "name": "someone/vit", "class": "ViTForImageClassification", "config": config}
    with pytest.raises(InputError, match=says):
        artifact.load(changed(good, tmp_path, source=record))


@pytest.mark.integration
def test_descriptions_of_models_without_end(good, tmp_path):
    for args, says in [
        ({"name": "digits_mlp", "args": {"hidden": 100_000}}, "takes 4|missing|has shape"),
        ({"name": "chain", "args": {"layers": [{"op": "conv", "out": 2, "kernel": 3}] * 4000}}, "is made of"),
    ]:
        folder = changed(good, tmp_path / args["name"], source={"kind": "builtin", **args})
        started = time.process_time()
        with pytest.raises(InputError, match=says):
            artifact.load(folder)
        assert time.process_time() - started < 15


def test_a_transformers_name_outside_is_refused_and_none_is_followed(good, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8,
                                    image_size=16, patch_size=8)  # fmt: skip
    original = tmp_path / "vit"
    transformers.ViTForImageClassification(config).save_pretrained(original)
    loaded = load_model(f"hf:{original}")
    folder = tmp_path / "saved"
    artifact.save(loaded, folder, provenance={"model": f"hf:{original}"})
    shutil.rmtree(original)
    again = artifact.load(folder)
    assert torch.equal(again.module(**again.example).logits, loaded.module(**loaded.example).logits)
    source = json.loads((folder / "manifest.json").read_text())["source"]
    with pytest.raises(InputError, match="path outside of the artifact"):
        artifact.load(changed(folder, tmp_path, source={**source, "name": "/etc"}))


def test_ties_to_nothing(good, tmp_path):
    with pytest.raises(InputError, match="which the weights file does not hold"):
        artifact.load(changed(good, tmp_path, tied={"0.weight": "nowhere"}))


def test_what_is_checked_is_what_is_written(good):
    assert read_checked(good / "manifest.json")["source"]["name"] == "digits_cnn_small"


@pytest.mark.parametrize(
    "left", [{}, {"mean": [0.5]}, {"std": [0.5]}, {"size": None}, {"mean": [0.5, 0.5], "std": [1]}]
)
def test_a_part_of_the_preprocessing_is_no_normalization(left, good, tmp_path):
    assert artifact.load(changed(good, tmp_path, preprocessing=left)).preprocessing == Preprocessing()


def test_keys_that_earlier_releases_did_not_write_get_their_defaults(good, tmp_path):
    folder = changed(good, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    for key in ("seed", "unset_buffers", "built_on", "provenance"):
        del manifest[key]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    checked = artifact.read_manifest(folder)
    assert [checked[key] for key in ("seed", "unset_buffers", "built_on", "provenance")] == [0, [], None, {}]
    assert artifact.load(folder).seed == 0
