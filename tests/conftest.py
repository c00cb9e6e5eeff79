"""Fixtures that several packages' tests use: the shared files, a trained digits model, running the command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

# before torch is imported, which reads it: more threads than cores only wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from compresskit.core.tensors.randomness import manual_seed

# torch notes at the first use which functions a device holds for; transformers loads models with another linspace
with torch.device("meta"):
    torch.empty(0)

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"

# tests write thousands of small files, and artifacts wait for the disk: in memory where there is room
MEMORY = Path("/dev/shm")
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# what one test timed must not decide in another
os.environ["COMPRESSKIT_CACHE"] = ""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto` is one worker for each core that this process may use, at most eight: each imports torch."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


#: what uses one of them starts processes, trains a model, or reads the checkpoints
INTEGRATION_FIXTURES = {"compresskit", "digits_model", "cifar_dir", "shared_dir"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test is of one of three tiers: slow, integration, or unit where it is neither.

    `slow` is marked by hand. `integration` is marked by hand, or by a fixture. What is left needs neither a process nor
    a trained model and less than a quarter of a second: `pytest -m unit`. Slow ones come first.
    """
    for item in items:
        if INTEGRATION_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("integration")
        if not any(item.iter_markers("slow")) and not any(item.iter_markers("integration")):
            item.add_marker("unit")
    # the longest ones first, so that no worker is left with one of them while the others have nothing to do
    items.sort(key=lambda item: not any(item.iter_markers("slow")))


@pytest.fixture(autouse=True)
def _seeded():
    manual_seed(0)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with the CIFAR files and checkpoints, beside the repository."""
    if not (SHARED / "models").is_dir():
        pytest.skip(f"the checkpoints are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def cifar_dir(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10 as an image folder: every tenth image, which is enough to tell a broken model from a good one."""
    archive = shared_dir / "data" / "cifar10.zip"
    if not archive.is_file():
        pytest.skip(f"{archive} is not there")
    folder = tmp_path_factory.mktemp("cifar")
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if name.endswith("0.jpg")]
        file.extractall(folder, names)
    return folder


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of builtin:digits_cnn (a narrow one) trained on digits to above 0.9."""
    from compresskit.pipeline.recipe import validate
    from compresskit.pipeline.runner import Run, run

    folder = tmp_path_factory.mktemp("digits") / "model"
    recipe = validate(
        {
            "model": "builtin:digits_cnn",
            "model_arg": {"width": 16},
            "data": "digits",
            "latency_rounds": 0,
            "steps": [{"train": {"epochs": 12, "lr": 0.1, "batch_size": 64}}],
        }
    )
    report = run(Run(recipe, folder))
    assert report["steps"][-1]["measurement"]["metric"]["value"] > 0.9
    return folder


@pytest.fixture
def compresskit(tmp_path: Path):
    """Run the command line in a fresh process, in a temporary folder: (*arguments) -> CompletedProcess."""

    def command(*arguments: str, cwd: Path = tmp_path, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "compresskit", *map(str, arguments)],
            cwd=cwd,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_HOME": "", **environment},
            timeout=300,
        )

    return command


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Run the command line in this process, which is faster: (*arguments) -> (exit code, stdout, stderr)."""
    from compresskit.cli import main as command

    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["compresskit", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            command.main()
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return call
