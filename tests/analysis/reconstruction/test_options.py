"""The shared options: the same words in every technique that has them."""

import pytest
from pydantic import ValidationError

from compresskit.analysis.reconstruction.options import ReconstructionOptions


def test_defaults_and_limits():
    assert ReconstructionOptions().reconstruct == "auto"
    for wrong in ({"reconstruct": "blocks"}, {"iterations": 0}, {"reconstruction_samples": 0}):
        with pytest.raises(ValidationError):
            ReconstructionOptions(**wrong)
    with pytest.raises(ValidationError, match="reconstruction_seconds would be ignored: reconstruct is 'block'"):
        ReconstructionOptions(reconstruct="block", reconstruction_seconds=3)


def test_memory_of_activations_is_a_size():
    assert ReconstructionOptions().activation_memory is None
    assert ReconstructionOptions(activation_memory="2GB").activation_memory == 2_000_000_000
    for wrong in ("50%", 0.5, "2 pounds"):
        with pytest.raises(ValidationError, match="activation_memory"):
            ReconstructionOptions(activation_memory=wrong)
