"""What a file does not hold in as few bytes as the artifact is said."""

import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.export.exporters.export_program import export_program
from compresskit.export.handover.file_size import held_as_floats, size_notes
from compresskit.export.options import ExportOptions
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

pytestmark = pytest.mark.integration


@pytest.fixture
def coded():
    def make(scheme, **options):
        loaded = Loaded(nn.Sequential(nn.Linear(300, 300)).eval(), {}, torch.randn(1, 300))
        given = QuantizeOptions(scheme=scheme, first_last="same", **options)
        quantize(loaded, given, Context(original=loaded.clone()))
        return loaded, export_program(loaded.module, loaded.example)

    return make


def test_a_format_that_holds_floats_says_how_much_is_lost(coded):
    loaded, program = coded("codebook")
    (note,) = size_notes(loaded, program, 362_000, ExportOptions(format="pt2"))
    assert note.startswith(
        "the file has 362 kB where the artifact has 46 kB (316 kB of the artifact's gain are lost): "
    )
    assert note.endswith("codebook weights of 1 layers are float constants in the file")
    assert held_as_floats(loaded, program, ExportOptions()) == []


def test_a_file_of_about_the_artifacts_bytes_needs_no_note(coded):
    loaded, program = coded("codebook")
    assert size_notes(loaded, program, 60_000, ExportOptions()) == []


def test_codes_of_two_bits_take_four(coded):
    loaded, program = coded("int2-weight")
    (note,) = size_notes(loaded, program, 180_000, ExportOptions())
    assert "codes of 2 bits in 1 layers take 4 bits" in note


def test_half_floats_are_told():
    loaded = Loaded(nn.Sequential(nn.Linear(300, 300)).eval().half(), {}, torch.randn(1, 300))
    (note,) = size_notes(loaded, export_program(loaded.module, loaded.example), 370_000, ExportOptions())
    assert note.endswith("float32 in the place of float16")
