"""`data: none`: made when it is read, the same for a seed, and no file is opened for it."""

import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

import compresskit
from compresskit.analysis.calibration.synthetic_data import synthetic_data
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded

EXAMPLE = torch.zeros(1, 3, 8, 8)


def net() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip
    with torch.no_grad():
        made.train()(2 * torch.randn(256, 3, 8, 8) + 1)
    return made.eval()


def test_nothing_is_made_for_a_look_and_a_seed_decides_what_is_made():
    lines: list[str] = []
    loaded = Loaded(net(), {}, EXAMPLE)
    data = synthetic_data(loaded, {"samples": 12, "steps": 2}, seed=3, log=lines.append)
    inputs, targets = next(iter(data.batches("test", batch_size=2)))
    assert targets is None and inputs.shape == (2, 3, 8, 8) and not lines
    assert data.size("train") == 12 and data.size("val") == 3 and data.num_classes is None
    made = torch.cat(data.calibration(12, seed=0))
    assert made.shape == (12, 3, 8, 8) and any("BatchNorm" in line for line in lines)
    again = synthetic_data(loaded, {"samples": 12, "steps": 2}, seed=3)
    other = synthetic_data(loaded, {"samples": 12, "steps": 2}, seed=4)
    assert torch.equal(torch.cat(again.calibration(12, seed=0)), made)
    assert not torch.equal(torch.cat(other.calibration(12, seed=0)), made)
    held_out = torch.cat([x for x, _ in data.batches("val", batch_size=3)])
    assert not any(torch.equal(one, two) for one in held_out for two in made)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"sample": 3}, "unknown argument 'sample'; did you mean 'samples'"),
        ({"samples": 0}, "samples must be a positive integer, got 0"),
        ({"steps": "many"}, "steps must be a positive integer, got 'many'"),
    ],
)
def test_wrong_arguments_are_named(args, message):
    with pytest.raises(InputError, match=message):
        synthetic_data(Loaded(net(), {}, EXAMPLE), args, seed=0)


def test_a_model_without_an_example_is_refused():
    with pytest.raises(InputError, match="name their shape with --input"):
        synthetic_data(Loaded(net(), {}, None), {}, seed=0)


@pytest.fixture
def opened_files():
    """Files opened while the fixture lives, but for those of Python, its libraries and the system."""
    found, watching = [], [True]
    ours = str(Path(compresskit.__file__).parents[1])
    known = (sys.prefix, sys.base_prefix, ours, "/proc", "/sys", "/dev", "/etc", "/usr")

    def look(event: str, details: tuple) -> None:
        if watching and event == "open" and isinstance(details[0], str | bytes | Path):
            path = str(Path(details[0] if not isinstance(details[0], bytes) else details[0].decode()).absolute())
            if path.startswith("/dev/shm/") or not path.startswith(known):
                found.append(path)

    sys.addaudithook(look)  # stays for the process, so it is told when to stop
    yield found
    watching.clear()


@pytest.mark.integration
def test_quantization_and_pruning_read_no_file(opened_files, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    Path(tmp_path / "probe").write_text("seen")
    assert str(tmp_path / "probe") in opened_files  # the hook sees what it should
    opened_files.clear()
    options = {"example": EXAMPLE, "data": "none", "data_arg": {"samples": 32, "steps": 5}, "latency_rounds": 0}
    quantized = compresskit.quantize(net(), scheme="int8-static", **options)
    pruned = compresskit.prune(net(), target_macs=0.6, reconstruct="inputs", **options)
    sizes = [sum(parameter.numel() for parameter in one.parameters()) for one in (pruned.model, net())]
    assert sizes[0] < sizes[1] and quantized.model is not None
    assert [path for path in opened_files if not path.startswith(str(tmp_path))] == []
