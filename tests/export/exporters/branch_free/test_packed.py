"""Sequences of several lengths: as torch's own packing computes it, and as a file."""

import pytest
import torch
from torch import nn
from torch.nn.utils import rnn

from compresskit.export.exporters.branch_free.replaced import branch_free
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.onnx import export_onnx

LAYERS = {
    "LSTM": lambda **more: nn.LSTM(5, 6, **more),
    "GRU": lambda **more: nn.GRU(5, 6, **more),
    "RNN": lambda **more: nn.RNN(5, 6, nonlinearity="relu", **more),
    "projected": lambda **more: nn.LSTM(5, 6, proj_size=4, **more),
}


class Reader(nn.Module):
    """Packs, runs a layer twice (the second time from the first run's states), and pads again."""

    def __init__(self, layer, *, total=False):
        super().__init__()
        self.layer, self.total = layer, total

    def forward(self, values, lengths):
        first = self.layer.batch_first
        packed = rnn.pack_padded_sequence(values, lengths, batch_first=first, enforce_sorted=False)
        _, states = self.layer(packed)
        # a layer on what is packed, as dropout is applied
        packed = rnn.PackedSequence(
            packed.data * 0.5, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
        )
        outputs, states = self.layer(packed, states)
        total = values.shape[1 if first else 0] if self.total else None
        outputs, counts = rnn.pad_packed_sequence(outputs, batch_first=first, padding_value=-1.0, total_length=total)
        return outputs, counts, states


def inputs_for(layer, lengths, steps=7):
    values = torch.randn(len(lengths), steps, 5, generator=torch.Generator().manual_seed(0))
    return values if layer.batch_first else values.transpose(0, 1), torch.tensor(lengths)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize(
    "more",
    [{"batch_first": True}, {}, {"num_layers": 2, "bidirectional": True, "batch_first": True}, {"bias": False}],
    ids=str,
)
@pytest.mark.parametrize("kind", LAYERS)
def test_as_torch_packs(kind, more, total):
    torch.manual_seed(0)
    model = Reader(LAYERS[kind](**more), total=total).eval()
    values, lengths = inputs_for(model.layer, [3, 6, 1, 4])
    with torch.no_grad():
        wanted = model(values, lengths)
        with branch_free():
            found = model(values, lengths)
        again = model(values, lengths)
    torch.testing.assert_close(found, wanted)
    assert torch.equal(again[0], wanted[0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_file_takes_other_lengths(kind, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = Reader(LAYERS[kind](batch_first=True, bidirectional=True)).eval()
    export_onnx(export_program(model, inputs_for(model.layer, [7, 5])), tmp_path / "reader.onnx")
    session = runtime.InferenceSession(str(tmp_path / "reader.onnx"))
    for lengths in ([2, 4, 1], [7]):
        given = inputs_for(model.layer, lengths)
        with torch.no_grad():
            outputs, counts, states = model(*given)
        wanted = [outputs, counts, *(states if isinstance(states, tuple) else [states])]
        found = session.run(None, {"values": given[0].numpy(), "lengths": given[1].numpy()})
        assert len(found) == len(wanted)
        for array, tensor in zip(found, wanted, strict=True):
            torch.testing.assert_close(torch.from_numpy(array), tensor, atol=1e-5, rtol=1e-4)
