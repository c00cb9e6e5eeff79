"""Every kind on every layer it fits: full rank reproduces the layer, truncation errs as theory says."""

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.decomposition.geometry import Call, build, chain_macs, from_record, geometry_of, record_of
from compresskit.decomposition.kinds import chain_of, compose, factors_of
from compresskit.decomposition.layers import install, recompose, replay
from compresskit.decomposition.tables import KINDS

LAYERS = {
    "linear": (lambda: nn.Linear(7, 5), (2, 3, 7)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "conv2d-strided": (lambda: nn.Conv2d(4, 6, 3, 2, 1, bias=False), (2, 4, 9, 8)),
    "conv2d-grouped-dilated-same": (
        lambda: nn.Conv2d(4, 6, (3, 5), padding="same", groups=2, dilation=(1, 2)), (2, 4, 9, 8),
    ),
    "conv2d-1x1-padded": (lambda: nn.Conv2d(4, 6, 1, 2, 1), (2, 4, 9, 8)),
    "conv2d-one-axis": (lambda: nn.Conv2d(4, 6, (1, 3), 2, (0, 1)), (2, 4, 9, 8)),
    "conv3d-reflect": (lambda: nn.Conv3d(3, 4, 3, padding=1, padding_mode="reflect"), (1, 3, 5, 6, 7)),
}  # fmt: skip
PAIRS = [
    (layer, kind)
    for layer, (make, _) in LAYERS.items()
    for kind in KINDS
    if KINDS.load(kind).fits(geometry_of(make()).one_group())
]


@pytest.mark.parametrize(("layer_name", "kind_name"), PAIRS)
def test_full_rank_reproduces_the_layer_and_merges_back(layer_name, kind_name):
    make, shape = LAYERS[layer_name]
    layer, inputs = make().double(), torch.randn(shape, dtype=torch.float64)
    geometry, kind = geometry_of(layer), KINDS.load(kind_name)
    ranks = kind.limits(geometry.one_group())
    weight, wanted = layer.weight.detach(), layer(inputs).detach()
    factors = factors_of(kind, geometry, weight, ranks)
    torch.testing.assert_close(compose(geometry, chain_of(kind, geometry, ranks), factors), weight)

    root = nn.Sequential(layer)
    edit = install(root, "0", kind_name, ranks, factors, None if layer.bias is None else layer.bias.detach())
    assert isinstance(root[0], nn.Sequential)
    torch.testing.assert_close(root(inputs), wanted, rtol=1e-9, atol=1e-9)

    merged = recompose(root, [edit])
    assert from_record(merged[0]["layer"]) == geometry
    torch.testing.assert_close(root(inputs), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("layer_name", "kind_name"), PAIRS)
def test_the_edit_rebuilds_the_shapes_on_the_meta_device(layer_name, kind_name):
    layer = LAYERS[layer_name][0]()
    kind, geometry = KINDS.load(kind_name), geometry_of(layer)
    ranks = tuple(max(limit // 2, 1) for limit in kind.limits(geometry.one_group()))
    root = nn.Sequential(layer)
    with torch.device("meta"):
        empty = nn.Sequential(LAYERS[layer_name][0]())
    edit = install(root, "0", kind_name, ranks, factors_of(kind, geometry, layer.weight.detach(), ranks), None)
    replay(empty, edit)
    assert {k: v.shape for k, v in empty.state_dict().items()} == {k: v.shape for k, v in root.state_dict().items()}
    assert all(tensor.is_meta for tensor in empty.state_dict().values())


@pytest.mark.parametrize("kind_name", ["svd", "channel-svd", "input-svd", "spatial-svd"])
def test_error_is_the_tail_of_the_singular_values(kind_name):
    layer = nn.Linear(9, 8) if kind_name == "svd" else nn.Conv2d(5, 8, 3)
    geometry, kind = geometry_of(layer), KINDS.load(kind_name)
    weight = layer.weight.detach().double()
    (unfolded,) = kind.unfold(weight)
    singular = torch.linalg.svdvals(unfolded)
    for rank in (1, 3, 5):
        chain = chain_of(kind, geometry, (rank,))
        error = (compose(geometry, chain, factors_of(kind, geometry, weight, (rank,))) - weight).norm()
        torch.testing.assert_close(error, singular[rank:].norm())


def test_geometry_costs_match_the_counter_and_a_hand_computed_chain():
    from compresskit.core.measure import macs

    layer = nn.Conv2d(4, 6, 3, 2, 1)
    geometry = geometry_of(layer)
    # output 5 x 4: the rank-2 chain takes 2*4*9 + 6*2 = 84 products a position, the layer 6*4*9 = 216
    chain = chain_of(KINDS.load("channel-svd"), geometry, (2,))
    assert chain_macs(chain, Call(1, (9, 8))) == 84 * 20
    assert chain_macs([geometry], Call(1, (9, 8))) == 216 * 20
    assert sum(link.params for link in chain) == 84 + 6
    for kind in ("input-svd", "spatial-svd", "tucker2", "tensor-train", "cp"):
        chain = chain_of(KINDS.load(kind), geometry, tuple(2 for _ in KINDS.load(kind).limits(geometry)))
        built = nn.Sequential(*(build(link, layer.weight) for link in chain))
        assert chain_macs(chain, Call(1, (9, 8))) == macs(built, torch.zeros(1, 4, 9, 8)), kind
        assert sum(link.params for link in chain) == sum(p.numel() for p in built.parameters()), kind


def test_embedding_becomes_a_narrow_table_and_a_linear_layer():
    table = nn.Embedding(10, 6, padding_idx=2)
    geometry, kind = geometry_of(table), KINDS.load("svd")
    root = nn.Sequential(table)
    wanted = table(torch.tensor([[1, 2, 3]])).detach()
    edit = install(root, "0", "svd", (6,), factors_of(kind, geometry, table.weight.detach(), (6,)), None)
    torch.testing.assert_close(root(torch.tensor([[1, 2, 3]])), wanted)
    assert root[0][0].padding_idx == 2
    recompose(root, [edit])
    torch.testing.assert_close(root[0].weight, table.weight)
    assert root[0].padding_idx == 2


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"kind": "svd", "rank": 0}, r"rank \[0\] is not between 1 and \[5\]"),
        ({"kind": "svd", "rank": [2, 2]}, r"rank \[2, 2\] is not between"),
        ({"kind": "cp", "rank": 2}, "does not fit a linear layer"),
        ({"kind": "svdd", "rank": 2}, "'svdd' is not one of svd"),
        ({"kind": "svd", "rank": 2, "target": "1"}, "'1' is a ReLU"),
    ],
)
def test_edits_that_do_not_fit_are_refused(edit, message):
    root = nn.Sequential(nn.Linear(7, 5), nn.ReLU())
    with pytest.raises(InputError, match=message):
        replay(root, {"op": "factored", "target": "0", "bias": True, **edit})


def test_only_exact_types_are_plain_layers():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    assert geometry_of(Scaled(3, 3)) is None
    assert geometry_of(nn.ConvTranspose2d(3, 3, 3)) is None


def test_records_round_trip_and_refuse_unknown_fields():
    geometry = geometry_of(nn.Conv2d(4, 6, (3, 5), padding="same", groups=2))
    assert from_record(record_of(geometry)) == geometry
    with pytest.raises(InputError, match="a layer record has the fields"):
        from_record({**record_of(geometry), "code": 1})
