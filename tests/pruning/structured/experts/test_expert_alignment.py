"""Inner units of experts in the order of their importance: what is computed stays, and cuts lose less."""

import pytest
import torch

from compresskit.core.types import Loaded, call, main_output
from compresskit.model.libraries.experts import is_experts, matrix_of
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.experts.expert_alignment import align_experts, unit_importance
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context
from tests.tiny_mixtures import mixture_folder

pytestmark = pytest.mark.integration


class Tokens:
    """Calibration inputs that are drawn."""

    def calibration(self, samples, *, batch_size=64, seed=0):
        return [{"input_ids": torch.randint(0, 64, (16, 12), generator=torch.Generator().manual_seed(seed))}]


def outputs(loaded: Loaded) -> torch.Tensor:
    with torch.no_grad():
        return main_output(call(loaded.module, Tokens().calibration(1, seed=5)[0]))


@pytest.mark.parametrize("data", [None, Tokens()])
def test_numbering_changes_nothing_and_a_cut_takes_the_least_of_each_expert(data, tmp_path):
    loaded = mixture_folder(tmp_path / "model", "Qwen3Moe")
    experts = [module for module in loaded.module.modules() if is_experts(module)]
    with torch.no_grad():  # half of each expert's units, other ones of each, give next to nothing
        for module in experts:
            for number in range(4):
                small = torch.randperm(24, generator=torch.Generator().manual_seed(number))[:12]
                module.down_proj[number, :, small] *= 1e-4
                module.gate_up_proj[number, small + 24] *= 1e-2
    wanted, original = outputs(loaded), loaded.clone()
    context = Context(original, data=data)
    assert align_experts(loaded, 64, context) == 8
    torch.testing.assert_close(outputs(loaded), wanted, rtol=1e-4, atol=1e-5)
    norms = matrix_of(experts[0], "down_proj", 1).detach().norm(dim=0)
    assert float(norms[12:].max()) < 1e-2 < float(norms[:12].min())
    if data is None:
        scores = unit_importance(experts[1], 3, None)
        assert torch.equal(scores, scores.sort(descending=True).values)
    options = PruneOptions(ratio=0.5, protect=["model.embed_tokens", "*self_attn*"], reconstruct="none", round_to=4)
    prune(original, options, Context(original.clone()))
    assert [module.down_proj.shape[2] for module in original.module.modules() if is_experts(module)] == [12, 12]
    torch.testing.assert_close(outputs(original), wanted, rtol=1e-2, atol=1e-2)
