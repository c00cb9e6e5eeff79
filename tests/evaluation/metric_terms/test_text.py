"""Error rates of transcriptions, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.evaluation.metric_terms.text import best_path
from compresskit.evaluation.metrics import make_metric


def logits(rows, classes=5):
    return nn.functional.one_hot(torch.tensor(rows), classes).float()


def test_the_best_path_drops_repetitions_and_blanks():
    assert best_path(torch.tensor([1, 1, 0, 1, 2, 2, 0]), 0) == [1, 1, 2]


def test_character_error_rate_by_hand():
    pytest.importorskip("torchmetrics")
    outputs = logits([[1, 0, 1, 2], [3, 3, 0, 4]])
    targets = torch.tensor([[1, 1, 2], [3, 4, -1]])
    metric = make_metric("cer")
    assert metric(nn.Identity(), [(outputs, targets)]).value == 0
    # one deletion and one substitution in five characters
    wrong = torch.tensor([[1, 1, 2, 4], [3, 2, -1, -1]])
    assert metric(nn.Identity(), [(outputs, wrong)]).value == pytest.approx(2 / 6)
    assert not metric.higher_is_better and metric.drop(0.1, 0.3) == pytest.approx(0.2)
    assert metric(nn.Identity(), [(outputs.transpose(0, 1).repeat(1, 1, 1), targets)]).value == 0


def test_word_error_rate_needs_to_know_where_words_end():
    pytest.importorskip("torchmetrics")
    outputs, targets = logits([[1, 3, 2, 0]]), torch.tensor([[1, 3, 1]])
    with pytest.raises(InputError, match="give metric_arg alphabet with a space in it"):
        make_metric("wer")(nn.Identity(), [(outputs, targets)])
    score = make_metric("wer", arguments={"alphabet": "-ab c"})(nn.Identity(), [(outputs, targets)])
    assert score.value == 0.5
