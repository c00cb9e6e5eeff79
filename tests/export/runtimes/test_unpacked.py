"""Folders of other layouts are refused."""

import pytest

from compresskit.core.errors import InputError
from compresskit.export.runtimes.unpacked import unpacked_model
from tests.tiny_transformers import tiny


@pytest.mark.integration
def test_a_folder_without_packed_layers_is_refused(tmp_path):
    tiny(tmp_path)
    with pytest.raises(InputError, match="its layout is None, not gptq or awq"):
        unpacked_model(tmp_path)
