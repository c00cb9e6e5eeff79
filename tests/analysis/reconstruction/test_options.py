"""The shared options: the same words in every technique that has them."""

import pytest
from pydantic import ValidationError

from compresskit.analysis.reconstruction.options import ReconstructionOptions


def test_defaults_and_limits():
    assert ReconstructionOptions().reconstruct == "auto"
    for wrong in ({"reconstruct": "blocks"}, {"iterations": 0}, {"reconstruction_samples": 0}):
        with pytest.raises(ValidationError):
            ReconstructionOptions(**wrong)
