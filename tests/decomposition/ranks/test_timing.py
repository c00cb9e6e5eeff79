"""Only what is faster is chosen, by times written by hand; and times of layers whose order is beyond doubt."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from compresskit.analysis.measure.work import Work
from compresskit.core.errors import GuardMissed
from compresskit.core.types import Loaded
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.methods.geometry import Call, Geometry
from compresskit.decomposition.options import DecomposeOptions
from compresskit.decomposition.ranks.candidates import Candidate, Layer
from compresskit.decomposition.ranks.rank_selection import Totals, by_budget, by_energy
from compresskit.decomposition.ranks.timing import TimeTable, choose_faster, is_faster, move_into_model, time_candidates
from compresskit.decomposition.surgery.find_layers import Site, survey
from compresskit.training.context import Context

TOTALS = Totals(Work({32: 200}, params=200, stored_bytes=800), bytes_per_param=4.0)


def _layer(name, *candidates):
    site = Site(name, Geometry("linear", 10, 10), [Call(1)])  # 100 MACs, 100 parameters
    return Layer(site, [Candidate(kind, ranks, error, macs, macs, error**2) for kind, ranks, error, macs in candidates])


def _times(layer_ms, **by_kind):
    """A stand-in for the clock: milliseconds of each kind by its first rank."""

    def time(layer, candidates):
        layer.latency_ms = layer_ms
        return [
            Candidate(one.kind, one.ranks, one.error, one.macs, one.params, one.loss, by_kind[one.kind][one.ranks[0]])
            for one in candidates
        ]

    return time


def _chosen(choices):
    return [None if one is None else (one.kind, *one.ranks, one.latency_ms) for one in choices]


def test_a_slower_choice_gives_way_to_the_next_that_is_faster():
    layer = _layer("a", ("svd", (1,), 0.1, 10), ("svd", (2,), 0.05, 20), ("cp", (3,), 0.1, 30), ("cp", (4,), 0.1, 40))
    options = DecomposeOptions(energy=0.9)

    def rule():
        return by_energy([layer], options, TOTALS)

    time = _times(1.0, svd={1: 1.2, 2: 1.1}, cp={3: 1.06, 4: 1.04})
    # rank 1 is the cheapest but slow, so are rank 2 and cp of rank 3
    assert _chosen(choose_faster(rule, [layer], [layer], time)) == [("cp", 4, 1.04)]
    assert layer.slower == 3 and [one.ranks for one in layer.candidates] == [(4,)]
    layer = _layer("a", ("svd", (1,), 0.1, 10), ("cp", (3,), 0.1, 30), ("cp", (4,), 0.1, 40), ("cp", (5,), 0.0, 76))
    # where two are close, cost decides: what saves a quarter of the MACs may measure 4 % more time, no more
    assert _chosen(choose_faster(rule, [layer], [layer], _times(1.0, svd={1: 1.06}, cp={3: 1.04}))) == [("cp", 3, 1.04)]
    assert layer.slower == 2 and [one.ranks for one in layer.candidates] == [(3,), (4,)]


def test_what_scatters_is_decided_by_cost():
    layer = _layer("a", ("svd", (1,), 0.1, 75))
    layer.latency_ms = 1.0
    (one,) = layer.candidates
    assert is_faster(layer, replace(one, latency_ms=1.2, latency_spread=0.2))
    assert not is_faster(layer, replace(one, latency_ms=1.2, latency_spread=0.1))
    dear = replace(one, macs=76)
    assert is_faster(layer, replace(dear, latency_ms=0.8, latency_spread=0.05))
    assert not is_faster(layer, replace(dear, latency_ms=0.8, latency_spread=0.1))


def test_a_layer_that_may_get_slower_is_not_timed():
    layer = _layer("a", ("svd", (1,), 0.1, 10))
    choices = choose_faster(lambda: by_energy([layer], DecomposeOptions(energy=0.9), TOTALS), [layer], [], None)
    assert _chosen(choices) == [("svd", 1, None)]


def test_a_budget_that_only_slower_layers_would_meet_says_so():
    first = _layer("a", ("svd", (1,), 0.1, 10), ("svd", (5,), 0.05, 50))
    second = _layer("b", ("svd", (2,), 0.1, 20))
    layers, time = [first, second], _times(1.0, svd={1: 2.0, 5: 0.5, 2: 1.1})

    def rule(target):
        return lambda: by_budget(layers, DecomposeOptions(target_macs=target), TOTALS)

    message = r"the smallest ranks leave 150 of 200; .* in 2 of 2 layers .* take more time than the layer"
    with pytest.raises(GuardMissed, match=message):
        choose_faster(rule(0.3), layers, layers, time)
    assert _chosen(choose_faster(rule(0.8), layers, layers, time)) == [("svd", 5, 0.5), None]


def test_what_a_convolutions_chain_puts_out_is_a_cost():
    (site,) = survey(Loaded(nn.Sequential(nn.Conv2d(10, 10, 1)).eval(), {}, torch.randn(1, 10, 1, 1)))[0]
    layer = Layer(site, latency_ms=1.0)  # 100 MACs, 10 elements; one more counts as 35 MACs
    one = Candidate("svd", (1,), 0.1, 40, 40, latency_ms=0.95)
    assert is_faster(layer, replace(one, outputs=11)) and not is_faster(layer, replace(one, outputs=12))


def test_few_candidates_of_each_kind_are_timed_multiples_of_eight_first():
    layer = _layer("a", *(("svd", (rank,), 0.1, rank) for rank in range(1, 65)), ("cp", (3,), 0.1, 30))
    time_candidates(layer, _times(1.0, svd={rank: rank / 48 for rank in range(1, 65)}, cp={3: 0.1}))
    # of 8 multiples six are timed: 8, 16, 32, 40, 56, 64; the last two take longer than the layer
    kept = [("svd", 8), ("svd", 16), ("cp", 3), ("svd", 32), ("svd", 40)]
    assert [(one.kind, *one.ranks) for one in layer.candidates] == kept
    assert layer.slower == 2


def _sites(*layers):
    loaded = Loaded(nn.Sequential(*layers).eval(), {}, torch.randn(1, 512))
    return loaded, survey(loaded)[0]


def test_layers_of_one_shape_share_their_times_and_few_products_take_less_time():
    loaded, (first, second) = _sites(nn.Linear(512, 512), nn.Linear(512, 512))
    table = TimeTable(loaded.module, batch=64)
    layer_ms, (small, large) = table(first, [("svd", (4,)), ("svd", (512,))])
    assert small.ms < layer_ms < large.ms  # 1.6 % and 200 % of the products
    assert table(second, [("svd", (512,)), ("svd", (4,))]) == (layer_ms, [large, small])
    assert table.faster(second, "svd", [(4,), (512,)]) == [(4,)]


def test_inside_the_model_a_layer_and_its_candidates_are_scaled_alike():
    loaded, sites = _sites(nn.Linear(512, 512), nn.Linear(512, 512))
    first, second = (Layer(site) for site in sites)
    first.candidates = [
        Candidate("svd", (rank,), 0.1, 0, 0, latency_ms=ms) for rank, ms in ((1, 1e3), (2, 3e3), (3, None))
    ]
    first.latency_ms = 4e3
    whole_ms = move_into_model(loaded, [first, second], batch=4)
    assert 0 < first.latency_ms <= whole_ms < 4e3  # far less than the made-up time of the layer by itself
    shares = [one.latency_ms and one.latency_ms / first.latency_ms for one in first.candidates]
    assert shares == [pytest.approx(0.25), pytest.approx(0.75), None]
    assert second.latency_ms is None
    assert not loaded.module[0]._forward_hooks and not loaded.module[0]._forward_pre_hooks


def test_small_layers_stay_unless_they_may_get_slower():
    def model():
        torch.manual_seed(0)
        return Loaded(nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12)).eval(), {}, torch.randn(1, 12))

    loaded = model()
    result = decompose(loaded, DecomposeOptions(kind="svd", energy=0.5), Context(loaded.clone()))
    assert loaded.edits == [] and result.facts["layers_decomposed"] == 0
    assert any("2 layers stay because nothing saves a quarter of their MACs" in note for note in result.notes)
    loaded = model()
    decompose(loaded, DecomposeOptions(kind="svd", energy=0.5, slower_layers="allow"), Context(loaded.clone()))
    assert len(loaded.edits) == 2


def test_given_ranks_and_embeddings_are_taken_at_their_word():
    def model():
        return Loaded(nn.Sequential(nn.Embedding(100, 16), nn.Linear(16, 16)).eval(), {}, torch.arange(5)[None])

    loaded = model()
    decompose(loaded, DecomposeOptions(kind="svd", ranks={"1": 2}), Context(loaded.clone()))
    assert [edit["target"] for edit in loaded.edits] == ["1"]
    options = {"kind": "svd", "keep_ratio": 0.5, "embeddings": "decompose", "layers": ["0"]}
    loaded = model()
    decompose(loaded, DecomposeOptions(**options), Context(loaded.clone()))
    assert [edit["target"] for edit in loaded.edits] == ["0"]
    loaded = model()
    decompose(loaded, DecomposeOptions(**options, slower_layers="refuse"), Context(loaded.clone()))
    assert loaded.edits == []


@pytest.mark.integration
def test_large_layers_get_faster_and_the_report_shows_their_times():
    torch.manual_seed(0)
    loaded = Loaded(nn.Sequential(nn.Linear(768, 768), nn.Linear(768, 768)).eval(), {}, torch.randn(256, 768))
    result = decompose(loaded, DecomposeOptions(kind="svd", keep_ratio=0.25), Context(loaded.clone()))
    assert len(loaded.edits) == 2
    for row in result.tables["choices"]:
        assert row["latency_ms"] < row["latency_ms_before"]
    assert 0 < result.facts["latency_share_predicted"] < 1
