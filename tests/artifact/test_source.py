"""Model strings: every form loads, and what it says of its inputs is right."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import compresskit
from compresskit.artifact import artifact
from compresskit.artifact.source import load_model, with_example
from compresskit.core.errors import InputError
from compresskit.core.types import Preprocessing, call, main_output
from compresskit.data.dataset import open_data
from compresskit.model.builders import own_example, preprocessing_of
from compresskit.model.checkpoints.weights import read_weights
from compresskit.model.example_inputs import describe, make as make_inputs
from compresskit.model.tables import BUILTINS
from compresskit.model.zoo import cifar_resnet56


@pytest.mark.parametrize("name", BUILTINS)
def test_every_builtin_takes_its_example(name):
    loaded = load_model(f"builtin:{name}")
    assert not loaded.module.training
    assert loaded.module(loaded.example).shape == (1, 10)


@pytest.mark.filterwarnings("ignore:The default weight initialization of inception_v3")
@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 224),
        ("inception_v3", 299),
        ("deeplabv3_mobilenet_v3_large", 224),
        ("ssdlite320_mobilenet_v3_large", 224),
    ],
)
def test_torchvision(name, size):
    pytest.importorskip("torchvision")
    loaded = load_model(f"torchvision:{name}")
    with torch.no_grad():
        outputs = call(loaded.module, loaded.example)
    assert isinstance(main_output(outputs), torch.Tensor) or isinstance(outputs, list)
    if isinstance(loaded.example, torch.Tensor):
        assert loaded.example.shape[-1] == size
    assert loaded.preprocessing.channels == 3


def test_timm_names_its_preprocessing():
    pytest.importorskip("timm")
    loaded = load_model("timm:vit_tiny_patch16_224", model_args={"num_classes": 7})
    assert loaded.module(loaded.example).shape == (1, 7)
    assert loaded.preprocessing.mean == (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=99, num_labels=3
    )
    folder = tmp_path_factory.mktemp("bert")
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


class _WithAttributes(nn.Module):
    """Normalizes by itself, or declares what it expects; attributes of these names may be anything."""

    def __init__(self, **attributes):
        super().__init__()
        for name, value in attributes.items():
            self.register_buffer(name, value) if isinstance(value, torch.Tensor) else setattr(self, name, value)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"mean": [0.5], "std": (2,), "input_shape": [1, 8, 9]}, Preprocessing((0.5,), (2.0,), (8, 9), 1)),
        ({"mean": torch.zeros(1, 3, 1, 1), "std": torch.ones(1, 3, 1, 1)}, Preprocessing()),
        ({"mean": 0.5, "std": 0.2}, Preprocessing()),
        ({"mean": [0.5, 0.5], "std": [0.2]}, Preprocessing()),
        ({"mean": [0.5], "std": None}, Preprocessing()),
        ({"mean": "imagenet", "std": "imagenet"}, Preprocessing()),
        ({"mean": [float("nan")], "std": [1.0]}, Preprocessing()),
        ({"mean": len, "input_shape": 5}, Preprocessing()),
        ({"input_shape": (3, "a", 8)}, Preprocessing()),
        ({"input_shape": (3, 0, 8)}, Preprocessing()),
        ({"input_shape": torch.Size([64])}, Preprocessing()),
    ],
    ids=str,
)
def test_only_lists_of_numbers_declare_a_preprocessing(attributes, expected):
    module = _WithAttributes(**attributes)
    assert preprocessing_of(module) == expected
    assert (own_example(module) is None) == (expected.size is None and attributes.get("input_shape") != (64,))


def test_a_declared_standard_deviation_of_zero_is_refused():
    with pytest.raises(InputError, match="standard deviation of zero"):
        preprocessing_of(_WithAttributes(mean=(0.0, 0.0), std=(1.0, 0.0)))


def test_transformers_folder_with_its_weights(bert_folder):
    loaded = load_model(f"hf:{bert_folder}")
    assert type(loaded.module).__name__ == "BertForSequenceClassification"
    assert set(loaded.example) == {"input_ids"}
    assert call(loaded.module, loaded.example).logits.shape == (1, 3)
    stored = read_weights(bert_folder / "model.safetensors")
    assert torch.equal(loaded.module.state_dict()["classifier.weight"], stored["classifier.weight"])


def test_transformers_weights_load_without_progress_bars(bert_folder, capfd):
    from transformers.utils import logging

    assert logging.is_progress_bar_enabled()
    load_model(f"hf:{bert_folder}")
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "damaged"),
        ("[]", "holds a list, not a mapping"),
        ('{"image_mean": [0.5], "image_std": [0]}', "standard deviation of zero"),
    ],
)
def test_a_damaged_image_configuration_is_refused_in_one_line(tmp_path, content, says):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(InputError, match=says) as error:
        load_model(f"hf:{tmp_path}")
    assert "preprocessor_config.json" in str(error.value)


def test_transformers_artifact_needs_neither_folder_nor_hub(bert_folder, tmp_path):
    from compresskit.artifact import artifact

    loaded = load_model(f"hf:{bert_folder}")
    loaded.source["name"] = "somewhere/else"
    artifact.save(loaded, tmp_path / "a")
    again = artifact.load(tmp_path / "a")
    assert torch.equal(main_output(call(again.module, again.example)), main_output(call(loaded.module, loaded.example)))


def test_user_file_and_module(tmp_path, monkeypatch):
    (tmp_path / "my_net.py").write_text(
        "from torch import nn\ndef make(width: int = 4):\n    return nn.Linear(width, 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for string in ("my_net:make", "my_net.py:make", f"{tmp_path}/my_net.py:make"):
        loaded = load_model(string, model_args={"width": 6}, inputs=["6"])
        assert loaded.module(loaded.example).shape == (1, 2)


@pytest.mark.integration
def test_code_that_was_named_in_the_same_process_needs_no_second_word(tmp_path, monkeypatch):
    (net := tmp_path / "net.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(3, 2)\n")
    saved = load_model(f"{net}:make", inputs=["3"])
    artifact.save(saved, tmp_path / "out")
    monkeypatch.setattr(artifact, "_named", {})  # as in a new process
    with pytest.raises(InputError, match="--trust-source"):
        load_model(str(tmp_path / "out"))
    load_model(f"{net}:make", inputs=["3"], seed=1)
    again = load_model(str(tmp_path / "out"))
    assert torch.equal(again.module.weight, saved.module.weight) and again.source["path"] == str(net)
    net.write_text(net.read_text() + "# changed\n")
    with pytest.raises(InputError, match="--trust-source"):
        load_model(str(tmp_path / "out"))
    (tmp_path / "other.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(3, 2)\n")
    load_model(str(tmp_path / "out"), source=f"{tmp_path}/other.py:make")  # the same code, from elsewhere
    assert load_model(str(tmp_path / "out")).source["path"] == f"{tmp_path}/other.py"


@pytest.mark.integration
def test_pt2_needs_trust_and_reads(tmp_path):
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 4),)), tmp_path / "m.pt2")
    with pytest.raises(InputError, match="--trust-source"):
        load_model(str(tmp_path / "m.pt2"))
    loaded = load_model(str(tmp_path / "m.pt2"), trust_source=True)
    assert torch.equal(loaded.module(torch.ones(1, 4)), net(torch.ones(1, 4)))


def test_random_weights_follow_the_seed():
    first, second, third = (compresskit.load("builtin:lenet5", seed=seed).conv1.weight for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "module", "nested"])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_wrappers_of_torch_files_are_undone(tmp_path, wrap, suffix):
    state = cifar_resnet56(width=4).state_dict()
    content = {
        "plain": state,
        "state_dict": {"state_dict": state, "epoch": 3},
        "module": {f"module.{name}": value for name, value in state.items()},
        "nested": {"model": {"state_dict": {f"_orig_mod.{name}": value for name, value in state.items()}}},
    }[wrap]
    torch.save(content, tmp_path / f"w{suffix}")
    loaded = load_model("builtin:cifar_resnet56", weights=str(tmp_path / f"w{suffix}"), model_args={"width": 4})
    assert all(torch.equal(value, state[name]) for name, value in loaded.module.state_dict().items())


def test_tied_weights_may_stand_once_in_a_file(tmp_path):
    from tests.artifact.test_artifact import Tied

    (tmp_path / "tied.py").write_text("from tests.artifact.test_artifact import Tied\n")
    weight = Tied().embedding.weight.detach() + 1
    save_file({"embedding.weight": weight}, tmp_path / "w.safetensors")
    loaded = load_model(f"{tmp_path}/tied.py:Tied", weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(loaded.module.output.weight, weight)


def test_published_weights_that_cannot_be_fetched(monkeypatch, tmp_path):
    pytest.importorskip("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="cannot be fetched"):
        load_model("torchvision:resnet18", weights="pretrained")
    with pytest.raises(InputError, match="no published weights"):
        load_model("builtin:lenet5", weights="pretrained")


def test_the_example_comes_from_the_data_where_the_model_names_none(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def make(): return nn.Linear(4, 2).double()\n"
        "def embed(): return nn.Embedding(7, 2)\n"
        "def tokens(): return tuple((torch.arange(n * 5).reshape(n, 5) % 7, torch.zeros(n)) for n in (20, 4))\n"
        "def points(): return tuple((torch.rand(n, 4), torch.zeros(n)) for n in (20, 4))\n"
    )
    string = f"{tmp_path}/net.py"
    example = with_example(load_model(f"{string}:make"), open_data(f"{string}:points").example).example
    assert (example.shape, example.dtype) == ((1, 4), torch.float64)
    assert torch.equal(example, make_inputs(describe(example)))
    example = with_example(load_model(f"{string}:embed"), open_data(f"{string}:tokens").example).example
    assert torch.equal(example, torch.tensor([[0, 1, 2, 3, 4]]))
    with pytest.raises(InputError, match="--input"):
        with_example(load_model(f"{string}:make"), None)


def test_cifar_checkpoints_load_strictly(shared_dir):
    loaded = load_model("builtin:cifar_resnet56", weights=str(shared_dir / "models" / "resnet56_cifar10.safetensors"))
    stored = read_weights(shared_dir / "models" / "resnet56_cifar10.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in loaded.module.state_dict().items() if name in stored)
