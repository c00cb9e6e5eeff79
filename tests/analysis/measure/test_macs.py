"""MACs against counts by hand, written out in numbers."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from compresskit.analysis.measure.macs import count_macs
from compresskit.artifact.source import load_model

X = torch.randn(3, 7, 8)  # 21 tokens of width 8
IMAGE = torch.randn(1, 4, 5, 5)


class Calls(nn.Module):
    """Runs a function, whatever it is."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self):
        return self.function(*self.layers)


def macs_of(function, *layers) -> int:
    return count_macs(Calls(function, *layers), ()).total


# one cell of LSTM 8 -> 16: 4 x 16 x 8 + 4 x 16 x 16 = 1,536; GRU three quarters of it, RNN a quarter
@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (lambda: nn.LSTM(8, 16, batch_first=True), 21 * 1536),
        (lambda: nn.LSTM(8, 16, bias=False), 21 * 1536),
        # both directions read 8 wide, then 32 wide: 2 x (1,536 + 4 x 16 x 32 + 4 x 16 x 16)
        (lambda: nn.LSTM(8, 16, 2, bidirectional=True), 21 * 2 * (1536 + 3072)),
        # the hidden state is 5 wide: 64 x 8 + 64 x 5, and 16 x 5 to project it
        (lambda: nn.LSTM(8, 16, proj_size=5), 21 * (512 + 320 + 80)),
        (lambda: nn.GRU(8, 16), 21 * 1152),
        (lambda: nn.GRU(8, 16, 2, bidirectional=True), 21 * 2 * (1152 + 2304)),
        (lambda: nn.RNN(8, 16), 21 * 384),
    ],
)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_recurrent_layers(layer, expected, dtype):
    assert macs_of(lambda rnn: rnn(X.to(dtype)), layer().to(dtype)) == expected


def test_cells_and_packed_sequences():
    assert macs_of(lambda cell: cell(X[0]), nn.LSTMCell(8, 16)) == 7 * 1536
    assert macs_of(lambda cell: cell(X[0]), nn.GRUCell(8, 16)) == 7 * 1152
    assert macs_of(lambda cell: cell(X[0]), nn.RNNCell(8, 16)) == 7 * 384
    packed = nn.utils.rnn.pack_padded_sequence(X, [7, 4, 2], batch_first=True)
    assert macs_of(lambda rnn: rnn(packed), nn.LSTM(8, 16, batch_first=True)) == 13 * 1536
    assert macs_of(lambda rnn: rnn(packed), nn.GRU(8, 16, batch_first=True)) == 13 * 1152


def test_the_sequence_classifiers_of_the_acceptance_list(shared_dir):
    # 20 steps, two directions: 20 x 2 x (4 x 64 x (48 + 64) + 4 x 64 x (128 + 64)); around them 20 x 480 and 640
    for factory, expected in (("lstm", 3_112_960 + 9_600 + 640), ("gru", 2_334_720 + 9_600 + 640)):
        loaded = load_model(f"{shared_dir}/cases/seq.py:{factory}", inputs=["20,10"])
        assert count_macs(loaded.module, loaded.example).total == expected


Q = torch.randn(2, 4, 6, 8)  # batch, heads, tokens, dims
HALF = torch.randn(2, 2, 6, 8)


@pytest.mark.parametrize(
    ("attend", "expected"),
    [
        (lambda: F.scaled_dot_product_attention(Q, Q, Q), 2 * 4 * 36 * 16),
        (lambda: F.scaled_dot_product_attention(Q, Q, Q, is_causal=True), 2 * 4 * 36 * 16),
        (lambda: F.scaled_dot_product_attention(Q, Q, Q, attn_mask=torch.zeros(6, 6)), 2 * 4 * 36 * 16),
        (lambda: F.scaled_dot_product_attention(Q, HALF, HALF, enable_gqa=True), 2 * 4 * 36 * 16),
        (lambda: F.scaled_dot_product_attention(Q, Q, torch.randn(2, 4, 6, 12)), 2 * 4 * 36 * 20),
        (lambda: F.scaled_dot_product_attention(Q[:, :, :2], Q, Q), 2 * 4 * 12 * 16),
        (lambda: F.scaled_dot_product_attention(Q.half(), Q.half(), Q.half()), 2 * 4 * 36 * 16),
        (lambda: F.scaled_dot_product_attention(X, X, X), 3 * 49 * 16),
    ],
)
@pytest.mark.parametrize("backend", ["FLASH_ATTENTION", "MATH"])
def test_attention_of_every_backend(attend, expected, backend):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # where the flash kernel does not take the arguments, the mathematical form stands in
    with sdpa_kernel([getattr(SDPBackend, backend), SDPBackend.MATH]):
        assert macs_of(attend) == expected


@pytest.mark.parametrize("fast", [False, True])
def test_encoder_layers_count_the_same_in_the_fused_form(fast):
    # projections 21 x 8 x 8 x 4, attention 2 x 3 x 7 x 7 x 8, two linear layers 2 x 21 x 8 x 16
    attention, whole = 5376 + 2352, 5376 + 2352 + 5376

    def run(layer, *inputs):
        torch.backends.mha.set_fastpath_enabled(fast)  # the counter turns it off
        return layer(*inputs)

    mha = nn.MultiheadAttention(8, 2, batch_first=True)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert macs_of(lambda layer: run(layer, X, X, X), mha) == attention
    assert macs_of(lambda layer: run(layer, X), encoder) == whole
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda: F.conv2d(IMAGE, torch.randn(6, 2, 3, 3), groups=2), 9 * 6 * 2 * 9),
        (lambda: F.conv2d(IMAGE[0], torch.randn(6, 4, 3, 3)), 9 * 6 * 4 * 9),
        (lambda: F.conv1d(torch.randn(2, 4, 5), torch.randn(6, 4, 3), padding="same"), 2 * 5 * 6 * 4 * 3),
        (lambda: F.conv_transpose2d(IMAGE, torch.randn(4, 6, 3, 3), stride=2), 25 * 4 * 6 * 9),
        (lambda: F.conv_transpose2d(IMAGE, torch.randn(4, 3, 3, 3), groups=2), 25 * 4 * 3 * 9),
        (lambda: torch.conv_tbc(torch.randn(5, 2, 4), torch.randn(3, 4, 6), torch.zeros(6)), 3 * 2 * 6 * 4 * 3),
        (lambda: F.bilinear(X, X[..., :6], torch.randn(5, 8, 6)), 21 * 5 * 8 * 6),
        (lambda: torch.einsum("bij,bkj->bik", X, X), 3 * 49 * 8),
        (lambda: torch.einsum("bij,bij->b", X, X), 3 * 56),
        (lambda: X[0] @ X[0, 0], 56),
        (lambda: X[0, 0] @ X[0, 1], 8),
        (lambda: torch.addmv(torch.zeros(7), X[0], X[0, 0]), 56),
        (lambda: torch.addbmm(torch.zeros(7, 7), X, X.mT), 3 * 49 * 8),
        (lambda: torch.zeros(3, 7, 7).baddbmm_(X, X.mT), 3 * 49 * 8),
        (lambda: torch.cdist(torch.randn(2, 30, 8), torch.randn(2, 40, 8)), 2 * 30 * 40 * 8),
        (lambda: torch.cdist(torch.randn(2, 3, 8), torch.randn(2, 4, 8), p=1), 2 * 3 * 4 * 8),
        (lambda: torch._int_mm(*[torch.ones(32, 32, dtype=torch.int8)] * 2), 32**3),
        (lambda: torch.sparse.mm(torch.eye(7).to_sparse(), X[0]), 7 * 8),
        (lambda: F.embedding_bag(torch.zeros(3, 2, dtype=torch.long), torch.randn(10, 4)), 0),
        (lambda: torch.fft.rfft2(X), 0),
        (lambda: F.interpolate(IMAGE, scale_factor=2), 0),
    ],
)
def test_single_operations(run, expected):
    assert macs_of(run) == expected


def test_grouped_products_count_the_rows_that_a_group_takes():
    rows, experts = torch.randn(20, 8, dtype=torch.bfloat16), torch.randn(3, 8, 16, dtype=torch.bfloat16)
    ends = torch.tensor([5, 9, 20], dtype=torch.int32)
    assert macs_of(lambda: torch._grouped_mm(rows, experts, offs=ends)) == 20 * 8 * 16
    assert macs_of(lambda: torch._grouped_mm(rows, experts, offs=ends - 4)) == 16 * 8 * 16
    assert macs_of(lambda: torch._grouped_mm(rows.T, torch.cat([rows, rows], 1), offs=ends)) == 20 * 8 * 16
    assert macs_of(lambda: torch._grouped_mm(rows[:12].view(3, 4, 8), experts)) == 12 * 8 * 16


@pytest.mark.filterwarnings("ignore")
def test_quantized_layers_of_torch():
    dynamic = torch.ao.quantization.quantize_dynamic
    linear = dynamic(nn.Sequential(nn.Linear(8, 16)), {nn.Linear})
    lstm = dynamic(nn.Sequential(nn.LSTM(8, 16, 2, bidirectional=True)), {nn.LSTM})
    assert macs_of(lambda layer: layer(X), linear) == 21 * 128
    assert macs_of(lambda layer: layer(X), lstm) == 21 * 2 * (1536 + 3072)
    image = torch.quantize_per_tensor(IMAGE, 0.1, 0, torch.quint8)
    assert macs_of(lambda layer: layer(image), torch.ao.nn.quantized.Conv2d(4, 6, 3)) == 9 * 6 * 4 * 9


@pytest.mark.filterwarnings("ignore")
def test_nested_tensors_count_what_they_hold():
    rows = [torch.randn(3, 8), torch.randn(5, 8)]
    for layout in (torch.jagged, torch.strided):
        nested = torch.nested.nested_tensor(rows, layout=layout)
        assert macs_of(lambda layer, nested=nested: layer(nested), nn.Linear(8, 4)) == 8 * 32
    heads = torch.nested.nested_tensor(rows, layout=torch.jagged).unflatten(-1, [2, 4]).transpose(1, 2)
    assert macs_of(lambda: F.scaled_dot_product_attention(heads, heads, heads)) == 2 * (9 + 25) * 8


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = torch.cond(x.sum() > 1e6, lambda x: self.a(x), lambda x: self.b(self.b(x)), (x,))
        loop = torch._higher_order_ops.while_loop
        return loop(lambda i, x: i < 3, lambda i, x: (i + 1, self.a(x)), (torch.tensor(0), x))[1]


@pytest.mark.integration
def test_control_flow_counts_what_ran():
    x = torch.zeros(2, 4)
    assert count_macs(Branches(), x).total == (2 + 3) * 32


@pytest.mark.integration
def test_compiled_models_and_flex_attention_count():
    from torch.nn.attention.flex_attention import flex_attention

    q = torch.randn(1, 2, 16, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert macs_of(lambda: flex_attention(q, q, q)) == 2 * 256 * 16
        assert macs_of(lambda layer: layer(X), torch.compile(nn.Linear(8, 4))) == 21 * 32


def test_operations_of_a_users_own_count_by_their_formula_or_are_named():
    @torch.library.custom_op("compresskit_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @torch.library.custom_op("compresskit_test::project", mutates_args=())
    def project(x: torch.Tensor) -> torch.Tensor:
        return x @ x.T

    register_flop_formula(torch.ops.compresskit_test.project)(lambda x, **_: 2 * x[0] * x[0] * x[1])
    found = count_macs(Calls(lambda: project(twice(X[0]))), ())
    assert found.total == 7 * 7 * 8
    assert found.uncounted == {"compresskit_test::twice"}


class Shared(nn.Module):
    """A layer under two names, one called around its own __call__, and products of no layer."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.b = self.a
        self.block = nn.Sequential(nn.Linear(8, 4), nn.ReLU())

    def forward(self, x):
        y = self.block(self.b(self.a(x)))
        return y @ y.mT + self.block[0].forward(x).sum()


def test_each_product_belongs_to_the_innermost_module():
    found = count_macs(Shared(), X)
    assert found.by_module == {"a": 2 * 21 * 64, "block.0": 21 * 32, "": 3 * 49 * 4 + 21 * 32}
    assert found.total == sum(found.by_module.values())


def test_modes_of_single_layers_are_kept():
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout()).train()
    net[1].eval()  # a frozen normalization in a model that trains
    before = net[1].running_mean.clone()
    count_macs(net, X[0])
    assert [layer.training for layer in net.modules()] == [True, True, False, True]
    assert torch.equal(net[1].running_mean, before)


@pytest.mark.integration
def test_a_forward_that_is_the_first_to_compile_is_counted_as_written(tmp_path):
    code = """
import sys
import torch
from torch import nn
from compresskit.analysis.measure.macs import count_macs

class Compiles(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x):
        return torch.compile(lambda x: self.layer(x).relu())(x)

assert "torch._dynamo" not in sys.modules
print(count_macs(Compiles(), torch.zeros(3, 8)).total, "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["96", "True"], done.stderr
