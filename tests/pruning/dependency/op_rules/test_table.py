import pytest
import torch
from torch import nn

from compresskit.pruning.dependency.graph import build_graph


class ScalarAttention(nn.Module):
    """Query, key and value of one number each, taken apart by unbind."""

    def __init__(self):
        super().__init__()
        self.embed, self.qkv, self.head = nn.Linear(5, 12), nn.Linear(12, 3), nn.Linear(6, 2)

    def forward(self, x):
        q, k, v = self.qkv(self.embed(x)).unbind(-1)
        weights = (q.unsqueeze(2) * k.unsqueeze(1)).softmax(-1)
        return self.head(weights @ v.unsqueeze(-1).flatten(1).unsqueeze(-1).expand(-1, -1, 6))


def test_parts_named_by_unbind_stay(halved):
    sizes, _ = halved(ScalarAttention(), torch.randn(1, 4, 5))
    assert sizes == {"embed": 12}


class Scales(nn.Module):
    """Chunks of a channel dimension that build on each other, then a layer over all."""

    def __init__(self, width, chunks):
        super().__init__()
        self.chunks = chunks
        self.stem, self.head = nn.Conv2d(3, width, 1), nn.Conv2d(width, 4, 1)

    def forward(self, x):
        first, *parts = self.stem(x).chunk(self.chunks, dim=1)
        return self.head(torch.cat([first.sigmoid(), *(part.tanh() for part in parts)], 1))


@pytest.mark.parametrize(("width", "chunks", "units"), [(16, 2, 8), (16, 3, 4), (13, 2, 6), (12, 3, 4)])
def test_chunks_are_cut_at_the_same_places(halved, width, chunks, units):
    """16 channels in 3 chunks are 6 + 6 + 4: four units of one channel a chunk, and two positions that stay."""
    module = Scales(width, chunks)
    sizes, _ = halved(module, torch.randn(1, 3, 4, 4))
    assert sizes == {"stem": units}
    assert module.stem.weight.shape[0] == width - (units - units // 2) * chunks


def test_chunks_of_which_one_holds_no_channels():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(7, 2, 1)

        def forward(self, x):
            wide = torch.cat([self.stem(x), x], 1)  # 4 + 3
            return self.head(torch.cat(wide.chunk(2, 1), 1))

    assert not build_graph(Padded().eval(), torch.randn(1, 3, 4, 4)).groups


class Boxed(nn.Module):
    """Rows of two feature maps, chosen by number, written into one table that a layer reads."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        self.low, self.high, self.head = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, x):
        table = torch.zeros(len(x), self.low.weight.shape[0], dtype=x.dtype)
        table[torch.arange(self.rows)] = self.low(x[: self.rows])
        rest = torch.arange(self.rows, len(x))
        if len(rest):
            table[rest] = self.high(x)[self.rows :]
        return self.head(table)


def test_what_is_written_into_rows_of_one_table_goes_together(halved):
    sizes, _ = halved(Boxed(rows=3), torch.randn(6, 5))
    assert sizes == {"low": 8}


class Detector(nn.Module):
    """A head that sees only the rows whose score is positive."""

    def __init__(self, bias):
        super().__init__()
        self.body, self.score, self.hidden, self.head = (nn.Linear(i, o) for i, o in [(5, 8), (8, 1), (8, 6), (6, 2)])
        nn.init.zeros_(self.score.weight)
        nn.init.constant_(self.score.bias, bias)

    def forward(self, x):
        rows = torch.where(self.score(self.body(x))[:, 0] > 0)[0]
        return self.head(torch.relu(self.hidden(self.body(x).index_select(0, rows))))


def test_layers_that_the_example_leaves_without_an_element_stay():
    graph = build_graph(Detector(bias=-1.0).eval(), torch.randn(4, 5))
    assert not graph.groups
    assert "leaves index_select in the model without any element" in graph.left_out["body"]
    assert "leaves addmm in hidden without any element" in graph.left_out["hidden"]
    assert {g.name for g in build_graph(Detector(bias=1.0).eval(), torch.randn(4, 5)).groups} == {"body", "hidden"}
