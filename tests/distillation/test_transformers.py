"""Losses for transformers on whole models: a small encoder of torch, and a small BERT and GPT-2 of transformers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded, Preprocessing
from compresskit.data.dataset import Data
from compresskit.data.splits.arrays import ArraySplit
from compresskit.data.splits.base import Splits
from compresskit.distillation.distill import distill
from compresskit.distillation.options import DistillOptions
from compresskit.training.context import Context

TOKENS, WORDS = 6, 20


class Encoder(nn.Module):
    """Embedding, transformer layers, mean, classifier."""

    def __init__(self, width: int, layers: int, heads: int):
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True) for _ in range(layers)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def sentences(targets_of) -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, WORDS, (120, TOKENS), generator=generator)
    split = ArraySplit(x, targets_of(x))
    return Data("sentences", Splits(split, split, None, 3), Preprocessing())


def loaded_of(module: nn.Module, seed: int = 0) -> Loaded:
    torch.manual_seed(seed)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.1)
    return Loaded(module.eval(), {}, torch.zeros(1, TOKENS, dtype=torch.int64))


@pytest.mark.parametrize("loss", ["hidden", "attention", "minilm"])
def test_a_narrower_and_shallower_encoder_learns_what_its_teacher_holds_inside(loss):
    teacher, student = loaded_of(Encoder(32, 4, 4)), loaded_of(Encoder(16, 2, 2), seed=1)
    context = Context(teacher, sentences(lambda x: x[:, 0] % 3))
    options = DistillOptions(
        loss=[loss], epochs=6, batch_size=30, lr=0.01, optimizer="adamw", labels="ignore", keep="last"
    )
    result = distill(student, options, context)
    losses = [row["loss"] for row in result.facts["history"]]
    assert losses[-1] < 0.9 * losses[0]
    if loss == "hidden":
        pairs = [(row["student layer"], row["teacher layer"]) for row in result.tables["matched layers"]]
        assert pairs == [("layers.0", "layers.1"), ("layers.1", "layers.3")]


def small_bert(layers: int):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
        attn_implementation="sdpa",
    )
    return transformers.BertForSequenceClassification(config)


def test_attention_inside_a_model_of_transformers_is_seen():
    teacher, student = loaded_of(small_bert(4)), loaded_of(small_bert(2), seed=1)
    context = Context(teacher, sentences(lambda x: x[:, 0] % 3))
    options = DistillOptions(loss=["attention", "minilm", "hidden", "kd"], epochs=0.5, batch_size=30)
    result = distill(student, options, context)
    row = result.facts["history"][0]
    assert {"loss_attention", "loss_minilm", "loss_hidden", "loss_kd"} <= row.keys()
    assert len(result.tables["matched layers"]) == 2


@pytest.mark.parametrize("loss", ["forward_kl", "reverse_kl", "js"])
@pytest.mark.integration
def test_a_language_model_learns_token_by_token(loss):
    transformers = pytest.importorskip("transformers")

    def model(width: int):
        config = transformers.GPT2Config(
            vocab_size=WORDS, n_positions=TOKENS, n_embd=width, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
        )
        return transformers.GPT2LMHeadModel(config)

    def next_words(x):
        targets = x.roll(-1, 1)
        targets[:, -1] = -100
        return targets

    teacher, student = loaded_of(model(32)), loaded_of(model(16), seed=1)
    options = DistillOptions(loss=[loss], epochs=8, batch_size=30, lr=0.01, optimizer="adamw", keep="last")
    result = distill(student, options, Context(teacher, sentences(next_words)))
    losses = [row[f"loss_{loss}"] for row in result.facts["history"]]
    assert losses[-1] < losses[0]
    assert result.facts["history"][-1]["loss_task"] < result.facts["history"][0]["loss_task"]


def test_attention_by_gradients_of_the_input():
    from compresskit.artifact.source import load_model
    from compresskit.data.dataset import open_data

    teacher, student = load_model("builtin:digits_cnn_small"), load_model("builtin:digits_cnn_small", seed=1)
    context = Context(teacher, open_data("digits", teacher.preprocessing))
    options = DistillOptions(loss=["at_gradient"], epochs=0.3, lr=1e-4, train_limit=256, batch_size=64)
    row = distill(student, options, context).facts["history"][0]
    assert row["loss_at_gradient"] > 0
    assert all(parameter.grad is None for parameter in teacher.module.parameters())
