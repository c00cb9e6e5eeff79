"""Losses that models compute themselves, each against the library's own value."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.evaluation.loss_terms.own import own_loss
from compresskit.evaluation.losses import make_loss, run_with_loss

BOXES = [
    {"boxes": torch.tensor([[4.0, 4.0, 20.0, 24.0]]), "labels": torch.tensor([1])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
]


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x)

    def training_loss(self, inputs, targets):
        return (self(inputs) - targets).abs().sum(), "log"

    def several(self, inputs, targets):
        return {"a": self(inputs).mean(), "b": targets.mean()}

    def of_outputs(self, logits, targets):
        return (logits - targets).square().mean()

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        return {"loss": self.of_outputs(self(inputs), targets) + batch_idx, "log": "step"}


class InOutput(Named):
    def forward(self, x):
        y = self.layer(x)
        return {"y": y, "loss": y.square().mean()}


def test_a_method_that_the_user_names():
    model, x, y = Named(), torch.randn(4, 3), torch.randn(4, 2)
    loss = make_loss("model", {"method": "training_loss"})
    outputs, value = run_with_loss(model, x, y, loss)
    assert value.item() == pytest.approx((model(x) - y).abs().sum().item())
    value.backward()
    assert model.layer.weight.grad.abs().sum() > 0
    _, value = run_with_loss(model, x, y, make_loss("model", {"method": "several"}))
    assert value.item() == pytest.approx((model(x).mean() + y.mean()).item())
    with pytest.raises(InputError, match="has no method 'typo', which task_loss_arg names"):
        run_with_loss(model, x, y, make_loss("model", {"method": "typo"}))
    with pytest.raises(InputError, match="unknown argument 'methd'; did you mean 'method'"):
        make_loss("model", {"methd": "training_loss"})


@pytest.mark.parametrize("method", ["of_outputs", "training_step"])
def test_a_method_of_outputs_and_lightning_s_step(method):
    model, x, y = Named(), torch.randn(4, 3), torch.randn(4, 2)
    _, value = run_with_loss(model, x, y, make_loss("model", {"method": method}))
    assert value.item() == pytest.approx((model(x) - y).square().mean().item())
    value.backward()
    assert model.layer.weight.grad.abs().sum() > 0


def test_an_output_called_loss_and_none_at_all():
    model, x = InOutput(), torch.randn(4, 3)
    outputs, value = own_loss(model, x, None)
    assert value is outputs["loss"] or value.item() == outputs["loss"].item()
    with pytest.raises(InputError, match="Named has no loss of its own.*method=NAME"):
        own_loss(Named(), x, None)


class Detector(Named):
    """In training mode it wants targets and returns losses, as torchvision's detectors do."""

    def forward(self, images, targets=None):
        found = self.layer(torch.stack(images))
        if not self.training:
            return [{"boxes": row} for row in found]
        assert targets is not None
        return {"boxes": found.square().mean(), "classes": found.abs().mean()}


@pytest.mark.parametrize("training", [True, False])
def test_a_loss_of_the_user_s_weighs_those_of_a_detector(tmp_path, training):
    text = "def weighted(losses, targets):\n    return 2 * losses['boxes'] + losses['classes']\n"
    (tmp_path / "l.py").write_text(text)
    model, images = Detector().train(training), [torch.randn(3) for _ in range(2)]
    losses, value = run_with_loss(model, (images,), BOXES, make_loss(f"{tmp_path}/l.py:weighted"))
    assert value.item() == pytest.approx(2 * losses["boxes"].item() + losses["classes"].item())
    assert model.training == training


@pytest.mark.integration
def test_transformers_labels():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config).eval()
    ids, labels = torch.randint(0, 40, (4, 6)), torch.tensor([0, 1, 2, 1])
    for inputs in (ids, {"input_ids": ids}):
        outputs, value = own_loss(model, inputs, labels)
        expected = nn.functional.cross_entropy(model(ids).logits, labels)
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
        assert outputs.logits.shape == (4, 3)


@pytest.mark.integration
def test_torchvision_detectors_compute_losses_while_their_norms_stay():
    detection = pytest.importorskip("torchvision.models.detection")
    torch.manual_seed(0)
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    images = [torch.rand(3, 32, 32), torch.rand(3, 40, 32)]
    before = copy.deepcopy(model.state_dict())
    outputs, value = own_loss(model, images, BOXES)
    assert set(outputs) == {"bbox_regression", "classification"}
    assert value.item() == pytest.approx(sum(loss.item() for loss in outputs.values()), rel=1e-5)
    assert not model.training and not model.backbone.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.integration
def test_ultralytics_loss_is_that_of_its_own_batch():
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    from ultralytics.cfg import get_cfg

    torch.manual_seed(0)
    model = tasks.DetectionModel("yolov8n.yaml", verbose=False, nc=3).eval()
    images = torch.rand(2, 3, 64, 64)
    outputs, value = own_loss(model, images, BOXES)
    batch = {
        "img": images,
        "batch_idx": torch.tensor([0.0]),
        "cls": torch.tensor([[1.0]]),
        "bboxes": torch.tensor([[12 / 64, 14 / 64, 16 / 64, 20 / 64]]),
    }
    model.args = get_cfg()
    expected = model.loss(batch)[0].sum() / 2
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    value.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
