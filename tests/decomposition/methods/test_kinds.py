"""Every kind on every layer it fits: full rank reproduces the layer, truncation errs as theory says."""

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.decomposition.methods.geometry import Call, build, chain_macs, from_record, geometry_of, record_of
from compresskit.decomposition.methods.kinds import chain_of, compose, factors_of, seen
from compresskit.decomposition.methods.tensor_train import modes_of
from compresskit.decomposition.surgery.layers import install, recompose, replay
from compresskit.decomposition.tables import KINDS

LAYERS = {
    "linear": (lambda: nn.Linear(7, 5), (2, 3, 7)),
    "linear-factors": (lambda: nn.Linear(12, 8), (2, 3, 12)),
    "linear-three-factors": (lambda: nn.Linear(512, 512, bias=False), (2, 512)),
    "linear-prime-side": (lambda: nn.Linear(7, 12), (7,)),
    "conv1d-transposed": (lambda: nn.ConvTranspose1d(4, 6, 3, 2), (2, 4, 9)),
    "conv2d-transposed": (lambda: nn.ConvTranspose2d(4, 6, (3, 5), (2, 3), (1, 2), (1, 2), bias=False), (2, 4, 5, 4)),
    "conv2d-transposed-grouped": (
        lambda: nn.ConvTranspose2d(4, 6, (3, 4), 2, (1, 0), groups=2, dilation=(1, 2)), (2, 4, 5, 6),
    ),
    "conv2d-transposed-1x1": (lambda: nn.ConvTranspose2d(4, 6, 1, 2, 0, 1), (2, 4, 5, 4)),
    "conv3d-transposed": (lambda: nn.ConvTranspose3d(3, 4, 2, (1, 2, 2)), (1, 3, 3, 4, 2)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "conv2d-strided": (lambda: nn.Conv2d(4, 6, 3, 2, 1, bias=False), (2, 4, 9, 8)),
    "conv2d-grouped-dilated-same": (
        lambda: nn.Conv2d(4, 6, (3, 5), padding="same", groups=2, dilation=(1, 2)), (2, 4, 9, 8),
    ),
    "conv2d-depthwise": (lambda: nn.Conv2d(4, 8, (3, 5), (1, 2), 1, groups=4), (2, 4, 9, 8)),
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


@pytest.mark.integration
@pytest.mark.parametrize(("layer_name", "kind_name"), PAIRS)
def test_full_rank_reproduces_the_layer_and_merges_back(layer_name, kind_name):
    make, shape = LAYERS[layer_name]
    layer, inputs = make().double(), torch.randn(shape, dtype=torch.float64)
    geometry, kind = geometry_of(layer), KINDS.load(kind_name)
    ranks = kind.limits(geometry.one_group())
    weight, wanted = layer.weight.detach(), layer(inputs).detach()
    factors = factors_of(kind, geometry, weight, ranks)
    torch.testing.assert_close(compose(geometry, chain_of(kind, geometry, ranks), factors), weight)
    assert all(f.shape == link.weight_shape for f, link in zip(factors, chain_of(kind, geometry, ranks), strict=True))

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


@pytest.mark.parametrize(
    ("kind_name", "layer"),
    [
        ("svd", nn.Linear(9, 8)),
        ("tensor-train", nn.Linear(12, 8)),
        *((kind, nn.Conv2d(5, 8, 3)) for kind in ("channel-svd", "input-svd", "spatial-svd")),
        *((kind, nn.ConvTranspose2d(5, 8, 3, 2)) for kind in ("channel-svd", "input-svd", "spatial-svd")),
        ("svd", nn.ConvTranspose1d(9, 8, 1)),
    ],
)
def test_error_is_the_tail_of_the_singular_values(kind_name, layer):
    geometry, kind = geometry_of(layer), KINDS.load(kind_name)
    weight = layer.weight.detach().double()
    (unfolded,) = kind.unfold(seen(geometry, weight))
    singular = torch.linalg.svdvals(unfolded)
    for rank in (1, 3, 5):
        chain = chain_of(kind, geometry, (rank,))
        error = (compose(geometry, chain, factors_of(kind, geometry, weight, (rank,))) - weight).norm()
        torch.testing.assert_close(error, singular[rank:].norm())


def test_a_separable_depthwise_kernel_is_found_at_rank_1_and_other_kinds_do_not_fit():
    layer = nn.Conv2d(6, 6, 5, padding=2, groups=6, bias=False).double()
    column, row = torch.randn(2, 6, 5, dtype=torch.float64)
    weight = torch.einsum("ca,cb->cab", column, row)[:, None]
    geometry = geometry_of(layer)
    assert [name for name in KINDS if KINDS.load(name).fits(geometry.one_group())] == ["spatial-svd"]
    kind = KINDS.load("spatial-svd")
    chain = chain_of(kind, geometry, (1,))
    assert [link.weight_shape for link in chain] == [(6, 1, 5, 1), (6, 1, 1, 5)]  # 60 weights instead of 150
    torch.testing.assert_close(compose(geometry, chain, factors_of(kind, geometry, weight, (1,))), weight)


def test_the_spectrum_of_a_transposed_kernel_is_that_of_its_output_channels():
    weight = nn.ConvTranspose2d(5, 8, 3).weight.detach().double()
    (unfolded,) = KINDS.load("channel-svd").unfold(seen(geometry_of(nn.ConvTranspose2d(5, 8, 3)), weight))
    gram = torch.einsum("iokl,ipkl->op", weight, weight)
    torch.testing.assert_close(torch.linalg.svdvals(unfolded).square(), torch.linalg.eigvalsh(gram).flip(0))


def test_two_modes_of_a_linear_layer_are_a_sum_of_kronecker_products():
    layer, kind = nn.Linear(12, 8, bias=False).double(), KINDS.load("tensor-train")
    assert modes_of(8, 12) == [(2, 3), (4, 4)]
    geometry = geometry_of(layer)
    chain = chain_of(kind, geometry, (2,))
    # the second factor gives (bond 2, 4 outputs) from 4 inputs, the first 2 outputs from (3 inputs, bond 2)
    assert [link.weight_shape for link in chain] == [(8, 4), (2, 6)]
    second, first = factors_of(kind, geometry, layer.weight.detach(), (2,))
    expected = sum(torch.kron(first.reshape(2, 3, 2)[:, :, r], second.reshape(2, 4, 4)[r]) for r in range(2))
    torch.testing.assert_close(compose(geometry, chain, [second, first]), expected)


@pytest.mark.integration
def test_three_modes_err_at_least_as_the_best_cut_and_at_most_as_all_cuts_together():
    torch.manual_seed(0)
    layer, kind = nn.Linear(512, 512), KINDS.load("tensor-train")
    geometry, weight = geometry_of(layer), layer.weight.detach().double()
    ranks = (20, 30)
    error = (
        compose(geometry, chain_of(kind, geometry, ranks), factors_of(kind, geometry, weight, ranks)) - weight
    ).norm()
    tails = [torch.linalg.svdvals(m)[rank:].norm() for m, rank in zip(kind.unfold(weight), ranks, strict=True)]
    # Oseledets, 2011, theorem 2.2
    assert max(tails) <= error * (1 + 1e-9) and error <= torch.stack(tails).norm() * (1 + 1e-9)


def test_a_linear_layer_with_its_weight_turned_becomes_plain_linear_layers():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D(6, 9).double()
    geometry, x = geometry_of(conv1d), torch.randn(2, 3, 9, dtype=torch.float64)
    assert (geometry.in_channels, geometry.out_channels, geometry.weight_shape) == (9, 6, (9, 6))
    nn.init.normal_(conv1d.bias)
    wanted, weight = conv1d(x).detach(), conv1d.weight.detach()
    singular = torch.linalg.svdvals(weight)
    for name in ("svd", "tensor-train"):
        kind = KINDS.load(name)
        root = nn.Sequential(conv1d)
        ranks = kind.limits(geometry)
        edit = install(root, "0", name, ranks, factors_of(kind, geometry, weight, ranks), conv1d.bias.detach())
        torch.testing.assert_close(root(x), wanted, rtol=1e-9, atol=1e-9)
        recompose(root, [edit])
        assert type(root[0]) is nn.Linear
        torch.testing.assert_close(root(x), wanted, rtol=1e-9, atol=1e-9)
    kind = KINDS.load("svd")
    cut = compose(geometry, chain_of(kind, geometry, (4,)), factors_of(kind, geometry, weight, (4,)))
    torch.testing.assert_close((cut - weight).norm(), singular[4:].norm())


def test_geometry_costs_match_the_counter_and_a_hand_computed_chain():
    from compresskit.analysis.measure.measure import macs

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


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose2d(4, 6, (3, 2), (2, 1), 1, (1, 0)), (2, 4, 5, 7)),
        (nn.ConvTranspose1d(4, 6, 3, 2, groups=2), (1, 4, 9)),
        (nn.Linear(12, 8), (3, 12)),
    ],
)
def test_costs_of_the_other_chains_match_the_counter(layer, shape):
    from compresskit.analysis.measure.measure import macs

    geometry, inputs = geometry_of(layer), torch.zeros(shape)
    one = Call(shape[0], tuple(shape[2:]))
    assert chain_macs([geometry], one) == macs(layer, inputs)
    assert geometry.output_size(one.size) == tuple(layer(inputs).shape[2:])
    fitting = [name for name in KINDS if KINDS.load(name).fits(geometry.one_group())]
    for name in fitting:
        chain = chain_of(KINDS.load(name), geometry, tuple(1 for _ in KINDS.load(name).limits(geometry.one_group())))
        built = nn.Sequential(*(build(link, layer.weight) for link in chain))
        assert chain_macs(chain, one) == macs(built, inputs), name
        assert sum(link.params for link in chain) == sum(p.numel() for p in built.parameters()), name


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
    assert geometry_of(nn.LazyLinear(3)) is None


def test_records_round_trip_and_refuse_unknown_fields():
    geometry = geometry_of(nn.Conv2d(4, 6, (3, 5), padding="same", groups=2))
    assert from_record(record_of(geometry)) == geometry
    with pytest.raises(InputError, match="a layer record has the fields"):
        from_record({**record_of(geometry), "code": 1})
