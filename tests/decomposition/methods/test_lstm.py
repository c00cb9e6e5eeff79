"""Factored LSTMs against nn.LSTM."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from compresskit.artifact import edits
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.methods.lstm import FactoredLSTM
from compresskit.decomposition.options import DecomposeOptions
from compresskit.training.context import Context


class _Tagger(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.lstm = nn.LSTM(24, 10, **options)
        self.head = nn.Linear(20 if options.get("bidirectional") else 10, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


def _low_rank(tagger, rank):
    """Give every input weight a rank that both directions share."""
    lstm = tagger.lstm
    with torch.no_grad():
        for number in range(lstm.num_layers):
            wide = lstm.weight_ih_l0.shape[1] if number == 0 else getattr(lstm, f"weight_ih_l{number}").shape[1]
            shared = torch.randn(rank, wide)
            for name in [f"weight_ih_l{number}", f"weight_ih_l{number}_reverse"]:
                if hasattr(lstm, name):
                    getattr(lstm, name).copy_(0.2 * torch.randn(40, rank) @ shared)
    return tagger.eval()


def _run(tagger, **options):
    loaded = Loaded(tagger, {}, torch.randn(1, 7, 24) if tagger.lstm.batch_first else torch.randn(7, 1, 24))
    options = {"layers": ["lstm"], "lstms": "decompose", "slower_layers": "allow", **options}
    result = decompose(loaded, DecomposeOptions(**options), Context(loaded.clone()))
    return loaded, result


@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": True},
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
        {"num_layers": 2, "bias": False, "dropout": 0.5},
    ],
    ids=str,
)
def test_weights_of_low_rank_are_reproduced(options):
    tagger = _low_rank(_Tagger(**options), 3)
    plain = copy.deepcopy(tagger)
    loaded, result = _run(tagger, max_error=1e-3)
    factored = loaded.module.lstm
    assert isinstance(factored, FactoredLSTM) and loaded.edits[0]["rank"] == [3] * plain.lstm.num_layers
    assert sum(p.numel() for p in factored.parameters()) < sum(p.numel() for p in plain.lstm.parameters())
    x = torch.randn(4, 7, 24) if plain.lstm.batch_first else torch.randn(7, 4, 24)
    torch.testing.assert_close(loaded.module(x), plain(x), rtol=1e-4, atol=1e-5)
    states = plain.lstm.num_layers * (2 if plain.lstm.bidirectional else 1)
    state = (torch.randn(states, 4, 10), torch.randn(states, 4, 10))
    wanted, got = plain.lstm(x, state), factored(x, state)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    packed = pack_padded_sequence(x, [7, 5, 4, 2], batch_first=plain.lstm.batch_first)
    torch.testing.assert_close(
        pad_packed_sequence(factored(packed)[0])[0], pad_packed_sequence(plain.lstm(packed)[0])[0], rtol=1e-4, atol=1e-5
    )
    fresh = edits.replay(_Tagger(**options).eval(), loaded.edits)
    fresh.load_state_dict(loaded.module.state_dict())
    assert torch.equal(fresh(x), loaded.module(x))


def test_rules_set_the_rank_and_layers_that_would_grow_stay():
    loaded, result = _run(_Tagger(num_layers=2), keep_ratio=0.5)
    # (24, 40): 0.5 * 960 / 64 = 7; (10, 40): 0.5 * 400 / 50 = 4
    assert loaded.edits[0]["rank"] == [7, 4]
    assert [row["rank"] for row in result.tables["lstms"]] == [7, 4]
    loaded, result = _run(_Tagger(num_layers=2), rank=12)
    assert loaded.edits[0]["rank"] == [12, 0]  # 10 * (10 + 40) = 500 parameters against 400
    assert result.tables["lstms"][1]["kind"] == "kept"


@pytest.mark.parametrize(
    "options", [{"num_layers": 2, "bidirectional": True}, {"num_layers": 2, "bias": False}], ids=str
)
def test_recompose_gives_the_plain_lstm_back(options):
    loaded, _ = _run(_Tagger(**options), keep_ratio=0.5)
    x = torch.randn(7, 4, 24)
    wanted = loaded.module(x)
    result = decompose(loaded, DecomposeOptions(recompose=True), Context(loaded.clone()))
    assert type(loaded.module.lstm) is nn.LSTM and result.facts["layers_merged"] == 1
    torch.testing.assert_close(loaded.module(x), wanted, rtol=1e-4, atol=1e-5)
    fresh = edits.replay(_Tagger(**options).eval(), loaded.edits)
    fresh.load_state_dict(loaded.module.state_dict())
    assert torch.equal(fresh(x), loaded.module(x))
    with pytest.raises(InputError, match="not a factored LSTM"):
        edits.replay(_Tagger(**options), loaded.edits[1:])


def test_an_lstm_stays_where_its_factors_take_more_time():
    tagger = _Tagger()
    weight = tagger.lstm.weight_ih_l0.clone()
    loaded, result = _run(tagger, rank=12, slower_layers="refuse")  # 800 of 960 weights left, and a layer more to call
    assert type(loaded.module.lstm) is nn.LSTM and loaded.edits == []
    assert torch.equal(loaded.module.lstm.weight_ih_l0, weight)
    assert result.tables["lstms"][0]["kind"] == "kept: its factors take more time"
    assert result.facts["lstm_layers_decomposed"] == 0


def test_lstms_stay_unless_asked_for():
    loaded = Loaded(_Tagger().eval(), {}, torch.randn(7, 1, 24))
    result = decompose(loaded, DecomposeOptions(energy=0.3), Context(loaded.clone()))
    assert type(loaded.module.lstm) is nn.LSTM
    assert any("lstm left as it is: LSTMs are kept" in note for note in result.notes)


def test_edits_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="rank takes 1 numbers"):
        edits.replay(_Tagger(), [{"op": "factored", "target": "lstm", "kind": "lstm-input", "rank": [2, 2]}])
    with pytest.raises(InputError, match="'head' is not an nn.LSTM"):
        edits.replay(_Tagger(), [{"op": "factored", "target": "head", "kind": "lstm-input", "rank": [2]}])
