"""The runtime of transformers folders."""

import pytest
import torch

from compresskit.core.types import call, main_output
from compresskit.export.runtimes.exported import Exported
from compresskit.export.runtimes.transformers import transformers
from tests.tiny_transformers import tiny


@pytest.mark.integration
def test_a_folder_runs(tmp_path):
    loaded = tiny(tmp_path)
    runner = transformers(Exported(loaded.module, None, tmp_path, loaded.example, 1))
    with torch.no_grad():
        wanted = main_output(call(loaded.module, loaded.example))
        torch.testing.assert_close(main_output(call(runner, loaded.example)), wanted, rtol=0, atol=0)
