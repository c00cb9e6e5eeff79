"""One block with its data: what it gives, and statistics that layers of one input share."""

import torch
from torch import nn

from compresskit.analysis.calibration.block_walk.activation_cache import ActivationCache
from compresskit.analysis.calibration.block_walk.block_step import Held, Step
from compresskit.analysis.calibration.block_walk.blocks import find_blocks
from compresskit.analysis.calibration.block_walk.streaming import walk


class Attention(nn.Module):
    """Two layers that read the same, one that reads something else."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return x + self.out(self.query(x) * self.key(x))


class Sum:
    """The sum of all rows that a layer reads, and how often it was told."""

    def __init__(self):
        self.total, self.calls = torch.zeros(4), 0

    def update(self, layer, inputs, output):
        self.total, self.calls = self.total + inputs.flatten(0, -2).sum(0), self.calls + 1


def test_a_step_gives_the_blocks_outputs_and_layers_of_one_input_share_statistics():
    torch.manual_seed(0)
    net = nn.Sequential(Attention(), Attention()).eval()
    batches = [torch.randn(3, 5, 4), torch.randn(2, 5, 4)]
    steps = 0
    for step in walk(net, find_blocks(net, batches[0]), batches):
        assert isinstance(step, Step) and len(step.inputs) == 2
        before = batches if steps == 0 else [net[0](batch).detach() for batch in batches]
        wanted = [net[steps](batch).detach() for batch in before]
        assert all(torch.equal(one, other) for one, other in zip(step.outputs(), wanted, strict=True))
        found = step.collect({name: Sum() for name in step.block.layers})
        query, key, out = (found[f"{steps}.{name}"] for name in ("query", "key", "out"))
        assert query is key and query is not out and query.calls == 2
        assert torch.allclose(query.total, sum(batch.flatten(0, 1).sum(0) for batch in before), atol=1e-5)
        steps += 1
    assert steps == 2


def test_what_is_held_is_handed_out_as_a_copy_where_its_reader_changes_it():
    with ActivationCache() as cache:
        tensor = torch.ones(2)
        for copies in (False, True):
            held = Held(cache, [tensor], copies)
            (given,) = held
            assert (given is tensor) is not copies and torch.equal(given, tensor)
