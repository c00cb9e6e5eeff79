"""Students made from their teacher: consistent shapes, inherited weights, edits that rebuild them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.artifact.edits import replay
from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.distillation.students import block_calls, kept_channels, make_student, removable_blocks
from compresskit.model.builders import build


def rebuilt(student):
    with torch.device("meta"):
        module = build(student.source)
    replay(module, student.edits)
    module.load_state_dict(student.module.state_dict(), assign=True)
    return module.eval()


@pytest.mark.parametrize(
    "model", ["builtin:cifar_resnet20", "builtin:digits_cnn", "builtin:digits_mlp", "builtin:lenet5"]
)
def test_a_narrow_student_is_rebuilt_from_its_edits(model):
    teacher = load_model(model)
    before = {name: value.clone() for name, value in teacher.module.state_dict().items()}
    student = make_student(teacher, width=0.5)
    with torch.no_grad():
        assert torch.equal(rebuilt(student)(student.example), student.module(student.example))
    assert all(torch.equal(before[name], value) for name, value in teacher.module.state_dict().items())


@pytest.mark.integration
@pytest.mark.parametrize(
    "model",
    [
        "torchvision:resnet18",
        "torchvision:mobilenet_v2",
        "torchvision:densenet121",
        "torchvision:shufflenet_v2_x0_5",
        "torchvision:vit_b_32",
        "timm:vit_tiny_patch16_224",
        "timm:convnext_atto",
    ],
)
def test_library_models_can_be_narrowed(model):
    pytest.importorskip(model.partition(":")[0])
    teacher = load_model(model)
    student = make_student(teacher, width=0.5)
    with torch.no_grad():
        assert torch.equal(rebuilt(student)(student.example), student.module(student.example))
    share = sum(p.numel() for p in student.module.parameters()) / sum(p.numel() for p in teacher.module.parameters())
    assert 0.2 < share < 0.5


@pytest.mark.integration
def test_a_third_of_resnet56_is_resnet20_with_every_fourth_block_of_a_stage():
    teacher = load_model("builtin:cifar_resnet56")
    student = make_student(teacher, depth=1 / 3)
    kept = sorted(
        {
            name.rpartition(".bn1")[0]
            for name in student.module.state_dict()
            if name.startswith("layer1") and ".bn1" in name
        }
    )
    assert kept == ["layer1.0", "layer1.4", "layer1.8"]
    resnet20 = load_model("builtin:cifar_resnet20")
    assert sum(p.numel() for p in student.module.parameters()) == sum(p.numel() for p in resnet20.module.parameters())
    assert torch.equal(student.module.layer2[4].conv1.weight, teacher.module.layer2[4].conv1.weight)
    with torch.no_grad():
        assert torch.equal(rebuilt(student)(student.example), student.module(student.example))


def test_blocks_that_change_the_shape_may_not_go():
    teacher = load_model("builtin:cifar_resnet20")
    runs = removable_blocks(teacher.module, block_calls(teacher.module, teacher.example))
    assert runs[1] == [("layer2.0", False), ("layer2.1", True), ("layer2.2", True)]


@pytest.mark.integration
def test_width_and_depth_together_in_a_transformer():
    pytest.importorskip("timm")
    teacher = load_model("timm:vit_tiny_patch16_224")
    student = make_student(teacher, width=0.5, depth=0.5)
    assert student.module(student.example).shape == (1, 1000)
    assert sum(isinstance(block, torch.nn.Identity) for block in student.module.blocks) == 6


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ({"model_type": "bert", "num_hidden_layers": 4}, "encoder.layer"),
        ({"model_type": "distilbert", "n_layers": 4, "dim": 32, "hidden_dim": 64, "n_heads": 2}, "transformer.layer"),
        ({"model_type": "gpt2", "n_layer": 4, "n_embd": 32, "n_head": 2, "n_positions": 32}, "h"),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_half_the_layers_of_a_hugging_face_model(config, layers, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    kind, rest = config["model_type"], {key: value for key, value in config.items() if key != "model_type"}
    if kind == "bert":
        rest |= {**sizes, "max_position_embeddings": 32}
    folder = tmp_path / "model"
    torch.manual_seed(0)
    tokens = {"bos_token_id": 0, "eos_token_id": 0} if kind == "gpt2" else {}
    made = transformers.AutoConfig.for_model(kind, **{"vocab_size": 50, **rest, **tokens})
    transformers.AutoModel.from_config(made).save_pretrained(folder)
    teacher = load_model(f"hf:{folder}")
    student = make_student(teacher, depth=0.5)
    blocks = [name for name, module in student.module.named_modules() if name.rpartition(".")[0].endswith(layers)]
    kept = [name for name in blocks if any(True for _ in student.module.get_submodule(name).parameters())]
    assert len(kept) == 2
    last = kept[-1]
    for name, value in student.module.get_submodule(last).state_dict().items():
        assert torch.equal(value, teacher.module.get_submodule(last).state_dict()[name])
    again = replay(build(student.source).eval(), student.edits)
    again.load_state_dict(student.module.state_dict())
    with torch.no_grad():
        found, again = student.module(**student.example), again(**student.example)
    assert torch.equal(found.last_hidden_state, again.last_hidden_state)
    assert not torch.equal(found.last_hidden_state, teacher.module(**teacher.example).last_hidden_state)


def test_kept_channels_are_spread_evenly_and_stay_aligned_through_concatenation():
    assert kept_channels(8, 0.5).tolist() == [0, 2, 4, 6]
    assert kept_channels(3, 0.1).tolist() == [0]
    # keeping half of a concatenation is concatenating the kept halves
    first, second = torch.arange(8), torch.arange(100, 104)
    both = torch.cat([first, second])
    apart = torch.cat([first[kept_channels(8, 0.5)], second[kept_channels(4, 0.5)]])
    assert torch.equal(both[kept_channels(12, 0.5)], apart)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"depth": 0.5}, "student_depth: digits_cnn has no run of like blocks"),
    ],
)
def test_models_without_blocks_say_so(cut, message):
    with pytest.raises(InputError, match=message):
        make_student(load_model("builtin:digits_cnn"), **cut)


@pytest.mark.integration
def test_a_model_that_cannot_be_narrowed_says_so():
    pytest.importorskip("torchvision")
    with pytest.raises(
        InputError, match=r"swin_t cannot be made .* name a student, or prune it by ratio 0\.5 with recover"
    ):
        make_student(load_model("torchvision:swin_t"), width=0.5)


class Detector(nn.Module):
    """Classes and boxes of one map, from heads that run one after another; boxes an image, as detectors return them."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        self.classes, self.boxes = nn.Conv2d(16, 6, 1), nn.Conv2d(16, 4, 1)

    def forward(self, images):
        maps = self.body(images).relu()
        scores, boxes = self.classes(maps).sigmoid().amax((2, 3)), self.boxes(maps).mean((2, 3))
        return [
            {"boxes": box[None][score.max() > 0.5], "scores": score} for box, score in zip(boxes, scores, strict=True)
        ]


def test_every_head_keeps_its_answers():
    module = Detector().eval()
    student = make_student(Loaded(module, {"kind": "builtin"}, torch.rand(1, 3, 8, 8)), width=0.5).module
    assert (student.body[0].out_channels, student.body[2].out_channels) == (8, 8)
    assert (student.classes.weight.shape, student.boxes.weight.shape) == ((6, 8, 1, 1), (4, 8, 1, 1))


def test_a_whole_transformer_of_torch_is_narrowed():
    class Translator(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(20, 16)
            self.transformer = nn.Transformer(16, 4, 1, 1, 32, batch_first=True)
            self.head = nn.Linear(16, 20)

        def forward(self, source, target):
            return self.head(self.transformer(self.embedding(source), self.embedding(target)))

    example = torch.ones(1, 5, dtype=torch.long), torch.ones(1, 4, dtype=torch.long)
    student = make_student(Loaded(Translator().eval(), {}, example), width=0.5)
    assert student.module.transformer.d_model == 8 and student.module(*example).shape == (1, 4, 20)
