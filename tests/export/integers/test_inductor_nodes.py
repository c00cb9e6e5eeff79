"""What torch.compile makes of quantized layers on x86."""

import pytest

from compresskit.export.lowering import carry_out
from compresskit.export.options import ExportOptions
from compresskit.training.context import Context

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_quantized_layers_become_onednns_integer_kernels(run, tmp_path):
    pytest.importorskip("torchao.quantization.pt2e.lowering")
    loaded = run(scheme="int8-static").loaded
    done = carry_out(loaded, ExportOptions(format="pt2", rounds=1), Context(loaded), tmp_path / "m.pt2")
    rows = done.tables["layers"]
    assert rows and all(row["kernel"].startswith("onednn::q") for row in rows if not row["why"])
    assert 0 < done.facts["integer_macs"] <= 1
