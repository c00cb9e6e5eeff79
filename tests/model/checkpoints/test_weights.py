"""Checkpoints as training code leaves them: found, matched and loaded whole, or refused in one line."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import pathlib
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, prune

from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.model.checkpoints.weights import load_into, read_weights, sha256_of_weights


class Net(nn.Module):
    def __init__(self, norm=lambda layer: layer):
        super().__init__()
        self.conv1, self.bn1 = norm(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8)
        self.conv2 = norm(nn.Conv2d(8, 8, 3))
        self.layers = nn.Sequential(norm(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 4))

    def forward(self, x):
        return self.layers(self.conv2(self.bn1(self.conv1(x)).relu()).mean((2, 3)))


def state_of(seed: int = 1, net=Net) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return net().state_dict()


def load(content, net=Net, where="weights 'w'"):
    """A net with what `content` holds, by way of a file, and the notes."""
    from compresskit.model.checkpoints.files import flatten

    module = net()
    notes = load_into(module, flatten(content, pathlib.Path("w")), where)
    return module, notes


def same(module: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


segments = st.sampled_from(["net", "model", "module", "_orig_mod", "backbone", "state_dict", "x.y", "0", "student"])


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(segments, max_size=5),
    prefix=st.lists(segments, max_size=3),
    wraps=st.lists(st.booleans(), max_size=5),
)
@pytest.mark.integration
def test_any_nesting_and_prefix_is_found_again(keys, prefix, wraps):
    state = state_of()
    content = {"".join(f"{part}." for part in prefix) + name: value for name, value in state.items()}
    for number, key in enumerate(keys):
        in_list = number < len(wraps) and wraps[number]
        content = [7, content, "text"] if in_list else {"epoch": 3, key: content, "optimizer": {"state": {0: {"s": 1}}}}
    module, _ = load(content)
    assert same(module, state)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_one_missing_tensor_is_always_named(data):
    state = state_of()
    name = data.draw(st.sampled_from([name for name in state if "num_batches" not in name]))
    value = state.pop(name)
    module = Net()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(InputError, match=f"1 missing \\({name}\\)"):
        load_into(module, {f"model.{key}": tensor for key, tensor in state.items()}, "w")
    with pytest.raises(InputError, match=f"did you mean '{name}'"):
        load_into(module, {**state, name[:-1] + "X": value}, "w")
    assert same(module, before)


def test_a_prefix_that_only_the_model_has():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = Net()

    state = state_of()
    module, notes = load({"model": state}, Wrapped)
    assert same(module.backbone, state)
    assert "put 'backbone.' before its names" in notes[0]


def test_compiled_and_checkpointed_parts_inside():
    state = state_of()
    names = {name: name.replace("layers.", "layers._orig_mod._checkpoint_wrapped_module.") for name in state}
    assert same(load({names[name]: value for name, value in state.items()})[0], state)


def test_what_is_not_the_models_is_dropped_and_named():
    state = state_of()
    content = {
        "state_dict": {
            **{f"model.{name}": value for name, value in state.items()},
            "criterion.centers": torch.zeros(3),
            "model.conv1.total_ops": torch.zeros(1),
            "model.aux_head.weight": torch.zeros(2, 2),
        },
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(8)}}}],
    }
    module, notes = load(content)
    assert same(module, state)
    assert "took 'state_dict.model'" in notes[0]
    for part in ("state_dict.criterion (1)", "optimizer_states (1)", "state_dict.model.aux_head (1)"):
        assert part in notes[0]
    assert load(state)[1] == []


@pytest.mark.parametrize("extra", ["conv1.extra", "layers.4.weight", "conv3.weight", "bn1.scale"])
def test_a_checkpoint_of_another_model_is_refused(extra):
    with pytest.raises(InputError, match=f"1 unexpected \\({extra}\\)"):
        load({**state_of(), extra: torch.zeros(2)})


def test_the_plain_weights_come_before_their_average_unless_asked_for(tmp_path):
    plain, average = state_of(1), state_of(2)
    content = {"state_dict_ema": average, "state_dict": plain, "epoch": 1}
    torch.save(content, tmp_path / "w.pth.tar")
    module = Net()
    notes = load_into(module, read_weights(tmp_path / "w.pth.tar"), "w")
    assert same(module, plain)
    assert notes == ["w: took 'state_dict'; left out #state_dict_ema, which fits too"]
    load_into(module, read_weights(f"{tmp_path}/w.pth.tar#state_dict_ema"), "w")
    assert same(module, average)
    module, notes = load({"params_ema": average})
    assert same(module, average)
    assert "averaged" in notes[0]
    module, _ = load({"module": average, "n_averaged": torch.tensor(3)})
    assert same(module, average)


def test_two_that_fit_alike_are_asked_about(tmp_path):
    content = {"student": state_of(1), "teacher": {"net": state_of(2)}}
    with pytest.raises(InputError, match=r"several sets .*#student.*#teacher.net.*FILE#student"):
        load(content)
    assert same(load({"student": state_of(1), "teacher": state_of(1)})[0], state_of(1))  # equal: nothing to ask
    torch.save(content, tmp_path / "w.bin")
    module = Net()
    load_into(module, read_weights(f"{tmp_path}/w.bin#teacher.net"), "w")
    assert same(module, state_of(2))
    with pytest.raises(InputError, match="no tensors under 'techer'; did you mean 'teacher'"):
        read_weights(f"{tmp_path}/w.bin#techer")


def test_the_larger_of_two_networks_is_not_taken_for_the_smaller():
    generator = {
        f"g.{name}": torch.cat([value, value]) if value.dim() else value for name, value in state_of(3).items()
    }
    assert same(load({**generator, **{f"d.{name}": value for name, value in state_of(1).items()}})[0], state_of(1))


NORMS = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm hook": nn.utils.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "spectral_norm hook": nn.utils.spectral_norm,
    "mask": lambda layer: prune.l1_unstructured(layer, "weight", 0.4),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("norm", NORMS)
def test_stored_forms_of_weights_go_into_plain_layers(norm):
    torch.manual_seed(3)
    source, x = Net(NORMS[norm]).eval(), torch.randn(2, 3, 9, 9)
    module, notes = load({"model": source.state_dict()})
    assert "computed 3 plain weights" in notes[0]
    assert torch.allclose(module.eval()(x), source(x), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("stored", ["plain", *NORMS])
@pytest.mark.parametrize("built", ["weight_norm", "spectral_norm hook", "mask"])
def test_a_model_with_norms_takes_every_form(tmp_path, monkeypatch, stored, built):
    monkeypatch.setitem(sys.modules, "nets_of_the_test", types.ModuleType("nets_of_the_test"))
    sys.modules["nets_of_the_test"].make = lambda: Net(NORMS[built])
    torch.manual_seed(3)
    source, x = Net(NORMS.get(stored, lambda layer: layer)).eval(), torch.randn(2, 3, 9, 9)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    loaded = load_model("nets_of_the_test:make", weights=str(tmp_path / "w.pt"), inputs=["3,9,9"])
    assert torch.allclose(loaded.module(x), source(x), atol=1e-5)
    assert len(loaded.edits) == 3
    assert any("folded into plain weights" in note for note in loaded.notes)


def test_plain_data_beside_the_weights(tmp_path):
    state = state_of()
    default = collections.defaultdict(list)
    default["loss"].append(0.5)
    torch.save(
        {
            "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs")),
            "best": np.float64(0.5),
            "history": np.zeros((3, 2)),
            "loss": default,
            "time": datetime.datetime(2020, 1, 2),
            "shape": types.SimpleNamespace(a=1),
            "weights": collections.OrderedDict(state),
        },
        tmp_path / "w.ckpt",
    )
    module = Net()
    load_into(module, read_weights(tmp_path / "w.ckpt"), "w")
    assert same(module, state)


def test_configuration_containers_of_other_packages_are_skipped_without_importing_them(tmp_path, monkeypatch):
    package = types.ModuleType("easydict")
    exec("class EasyDict(dict):\n    pass\n", package.__dict__)
    monkeypatch.setitem(sys.modules, "easydict", package)
    torch.save({"config": package.EasyDict(lr=0.1), "model": state_of()}, tmp_path / "w.pt")
    monkeypatch.delitem(sys.modules, "easydict")
    module = Net()
    load_into(module, read_weights(tmp_path / "w.pt"), "w")
    assert same(module, state_of())
    assert "easydict" not in sys.modules


def test_numpy_arrays_are_weights_too(tmp_path):
    state = state_of()
    torch.save({name: value.numpy() for name, value in state.items()}, tmp_path / "w.pt")
    module = Net()
    load_into(module, read_weights(tmp_path / "w.pt"), "w")
    assert same(module, state)


def test_code_in_a_file_never_runs(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pathlib.Path.touch, (pathlib.Path(tmp_path / "ran"),))

    class Call:
        def __reduce__(self):
            return (collections.defaultdict, (exec, f"open({str(tmp_path / 'ran')!r}, 'w')"))

    for number, content in enumerate(({"a": Evil(), **state_of()}, {"a": Call(), **state_of()})):
        torch.save(content, tmp_path / f"{number}.pt")
        with pytest.raises(InputError, match="holds more than tensors"):
            read_weights(tmp_path / f"{number}.pt")
    assert not (tmp_path / "ran").exists()


def shards(folder: pathlib.Path, suffix: str, state) -> None:
    names = sorted(state)
    index = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"part-{number}{suffix}"
        content = {name: state[name] for name in part}
        save_file(content, folder / file) if suffix == ".safetensors" else torch.save(content, folder / file)
        index.update(dict.fromkeys(part, file))
    stem = "model.safetensors" if suffix == ".safetensors" else "pytorch_model.bin"
    (folder / f"{stem}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_by_folder_or_index(tmp_path, suffix):
    state = state_of()
    shards(tmp_path, suffix, state)
    index = next(tmp_path.glob("*.index.json"))
    for string in (str(tmp_path), str(index)):
        module = Net()
        load_into(module, read_weights(string), "w")
        assert same(module, state)
    before = sha256_of_weights(str(tmp_path))
    (tmp_path / f"part-1{suffix}").write_bytes((tmp_path / f"part-0{suffix}").read_bytes())
    assert sha256_of_weights(str(tmp_path)) != before
    with pytest.raises(InputError, match="lacks .*, which its index names"):
        read_weights(tmp_path)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""])
def test_a_shard_never_leaves_its_folder(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(InputError, match="leaves its folder"):
        read_weights(tmp_path)


def scripted(path):
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(2, 2))), path)


def exported(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("archive_format", "byteorder", "models/model.json", "data/weights/model_weights_config.json"):
            archive.writestr(f"w/{name}", b"x")


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/model.pth", b"x")


FOREIGN = {
    "empty": (lambda path: path.write_bytes(b""), "w.pt", "is empty"),
    "html": (lambda path: path.write_text("\n<!DOCTYPE html><html>"), "w.pth", "HTML page"),
    "lfs": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid"),
        "w.safetensors",
        "git lfs",
    ),
    "module": (lambda path: torch.save(nn.Sequential(nn.Linear(2, 2)), path), "w.pt", "whole pickled module"),
    "nested module": (lambda path: torch.save({"model": nn.Linear(2, 2)}, path), "w.pt", "whole pickled module"),
    "torchscript": (scripted, "w.pt", "TorchScript archive"),
    "exported": (exported, "w.pt2", "exported program"),
    "zip": (zipped, "w.pth", "zip archive; unpack it and name 'weights/model.pth'"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b\x08\x00rest"), "w.tar", "gzip archive"),
    "npz": (lambda path: np.savez(path, a=np.zeros(3)), "w.npz", "numpy .npz"),
    "onnx": (lambda path: path.write_bytes(b"\x08\x07\x12\x07pytorch\x1a"), "w.bin", "ONNX graph"),
    "gguf": (lambda path: path.write_bytes(b"GGUF\x03\x00"), "w.gguf", "GGUF"),
    "json": (lambda path: path.write_text('{"a": 1}'), "w.bin", "JSON"),
    "text": (lambda path: path.write_text("Not found"), "w.pt", "damaged or truncated|not a torch file"),
    "other": (lambda path: path.write_text("Not found"), "w.txt", "unknown kind"),
    "tensor": (lambda path: torch.save(torch.zeros(3), path), "w.pt", "holds a Tensor, not a mapping"),
    "number": (lambda path: torch.save(3, path), "w.pt", "holds a int, not a mapping"),
    "folder": (lambda path: path.mkdir(), "w", "is a directory: it holds none of"),
    "address": (lambda path: None, "https://x.org/w.pt", "nothing is downloaded"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize("kind", FOREIGN)
def test_other_files_say_what_they_are(tmp_path, kind):
    make, name, says = FOREIGN[kind]
    path = name if "://" in name else tmp_path / name
    make(path)
    with pytest.raises(InputError, match=says) as error:
        read_weights(path)
    assert "\n" not in str(error.value)


def test_the_content_decides_and_not_the_suffix(tmp_path):
    state = state_of()
    save_file(state, tmp_path / "w.pt")
    torch.save(state, tmp_path / "w.safetensors")
    for name in ("w.pt", "w.safetensors"):
        assert set(read_weights(tmp_path / name)) == set(state)


@pytest.mark.integration
def test_endless_nesting_is_refused(tmp_path):
    loop: dict = {}
    loop["again"] = loop
    torch.save(loop, tmp_path / "loop.pt")
    wide: list = [1]
    for _ in range(40):
        wide = [wide, wide]
    torch.save(wide, tmp_path / "wide.pt")
    for name in ("loop.pt", "wide.pt"):
        with pytest.raises(InputError, match="without end"):
            read_weights(tmp_path / name)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_is_an_input_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut")
    torch.save({"model": {"weight": torch.zeros(3)}}, folder / "w.pt")
    content = bytearray((folder / "w.pt").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "w.pt").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        read_weights(folder / "w.pt")
    except InputError as error:
        assert str(folder) in str(error)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.zeros(8, 3, 3, 3, dtype=torch.int8), "int8 numbers where the model has floats"),
        (torch.zeros(8, 3, 3, 3, device="meta"), "meta device"),
        (torch.zeros(8, 3, 3, 3, dtype=torch.complex64), "complex"),
        (torch.zeros(8, 3, 3, 3).to_sparse(), "sparse"),
        (torch.full((8, 3, 3, 3), float("inf")), "NaN or infinite"),
        (torch.zeros(8, 3, 5, 5), r"has shape \[8, 3, 5, 5\]"),
    ],
)
def test_values_that_are_no_weights_of_the_model(value, says):
    with pytest.raises(InputError, match=f"conv1.weight.*{says}"):
        load({**state_of(), "conv1.weight": value})


def test_half_checkpoints_keep_their_type():
    state = {name: value.half() if value.is_floating_point() else value for name, value in state_of().items()}
    module, _ = load({"model": state})
    assert module.conv1.weight.dtype == torch.float16
    assert same(module, state)
