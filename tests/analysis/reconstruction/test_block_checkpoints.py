"""A run that was killed goes on at the block, and ends with the weights of a run that was not."""

import copy
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from compresskit.analysis.calibration.block_walk.blocks import find_blocks
from compresskit.analysis.reconstruction.blockwise import Settings
from compresskit.analysis.reconstruction.floats import reconstruct_floats
from compresskit.analysis.reconstruction.plan import Plan
from compresskit.core.types import Loaded


class Killed(BaseException):
    """Stands for kill -9."""


def case(folder, log):
    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 8)) for _ in range(3)]
    whole = nn.Sequential(*parts).eval()
    changed = copy.deepcopy(whole)
    with torch.no_grad():
        for weight in changed.parameters():
            weight += 0.1 * torch.randn_like(weight)
    batches = list(torch.randn(128, 8).split(16))
    plan = Plan(find_blocks(whole, batches[0]), batches, Settings(12, 3, log, folder, 5), batches)
    return whole, Loaded(changed, {}, batches[0]), plan


def test_a_killed_run_goes_on_at_the_block(tmp_path):
    whole, expected, plan = case(None, lambda line: None)
    outcomes = reconstruct_floats(whole, expected, plan)

    def dies(line):
        if "(3 of 3)" in line:
            raise Killed

    whole, dead, plan = case(tmp_path, dies)
    with pytest.raises(Killed):
        reconstruct_floats(whole, dead, plan)
    lines = []
    whole, resumed, plan = case(tmp_path, lines.append)
    assert reconstruct_floats(whole, resumed, plan) == outcomes
    assert sum("was reconstructed before" in line for line in lines) == 2 and len(lines) == len(outcomes) == 4
    for name, tensor in expected.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], tensor)


def test_another_model_or_way_starts_anew(tmp_path):
    whole, first, plan = case(tmp_path, lambda line: None)
    reconstruct_floats(whole, first, plan)
    lines = []
    whole, other, plan = case(tmp_path, lines.append)
    with torch.no_grad():
        other.module[0][0].weight += 0.1
    reconstruct_floats(whole, other, plan)
    assert lines and not any("before" in line for line in lines)


#: technique -> what it is asked for, beside the blocks
STEPS = {
    "prune": ["--target-macs", "0.5", "--recover", "none", "--joint-iterations", "10"],
    "quantize": ["--scheme", "int2-weight"],
}


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("technique", STEPS)
def test_a_command_killed_between_blocks_takes_up_those_that_were_done(technique, digits_model, tmp_path, invoke):
    blocks = ["--reconstruct", "block", "--iterations", "100", "--reconstruction-samples", "256"]
    command = [technique, str(digits_model), *STEPS[technique], *blocks, "--data", "digits", "--latency-rounds", "0"]

    def done() -> int:
        return len(list((tmp_path / "killed.steps").glob(f"0-{technique}.work/*/reconstruction-*.safetensors")))

    arguments = [sys.executable, "-m", "compresskit", *command, "-o", str(tmp_path / "killed")]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and not done() and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    finished = done()
    code, _, said = invoke(*command, "-o", str(tmp_path / "killed"), "--resume")
    assert code == 0, said
    assert said.count("was reconstructed before") == finished >= 1 and "reconstructing" in said
