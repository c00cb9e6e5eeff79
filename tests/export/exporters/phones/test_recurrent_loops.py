"""Recurrent layers as loops compute what torch's layers compute."""

import pytest
import torch
from torch import nn

from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.phones.executorch import executorch
from compresskit.export.exporters.phones.recurrent_loops import with_loops
from compresskit.export.options import ExportOptions
from compresskit.export.runtimes.exported import Exported
from compresskit.export.tables import RUNTIMES

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore"),  # torch's export of recurrent layers and ExecuTorch's imports warn
]


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.layers = kind(5, 6, **options)

    def forward(self, values):
        outputs, last = self.layers(values)
        return outputs, last


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.GRU, {"num_layers": 2, "batch_first": True}),
        (nn.GRU, {"bidirectional": True, "bias": False}),
        (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
        (nn.LSTM, {"proj_size": 3}),
        (nn.LSTM, {"proj_size": 3, "bias": False}),
        (nn.RNN, {"num_layers": 2}),
        (nn.RNN, {"nonlinearity": "relu", "batch_first": True}),
    ],
)
def test_a_loop_computes_what_the_layer_computes(kind, options):
    torch.manual_seed(0)
    model, values = Recurrent(kind, **options).eval(), torch.randn(4, 7, 5)
    program, count = with_loops(export_program(model, (values,), [{}]))
    assert count == 1 and not any("gru" in str(n.target) or "lstm" in str(n.target) for n in program.graph.nodes)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(values), model(values), atol=1e-6, rtol=1e-5)


def test_other_programs_stay_as_they_are():
    program = export_program(nn.Linear(3, 2).eval(), (torch.randn(2, 3),), [{}])
    assert with_loops(program) == (program, 0)


def test_a_long_sequence_becomes_a_small_file(tmp_path):
    pytest.importorskip("executorch.exir")
    torch.manual_seed(0)
    model, values = Recurrent(nn.GRU, batch_first=True).eval(), torch.randn(1, 200, 5)
    path = tmp_path / "model.pte"
    notes = executorch(export_program(model, (values,), [{}]), path, ExportOptions(format="executorch"))
    assert any("1 recurrent operator is a loop" in note for note in notes) and path.stat().st_size < 30_000
    runner = RUNTIMES.load("executorch")(Exported(model, None, path, (values,), 1))
    with torch.no_grad():
        torch.testing.assert_close(runner(values)[0], model(values)[0], atol=1e-6, rtol=1e-5)
