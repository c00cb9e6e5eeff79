"""Walking block by block: what stands before each block, in which state, and at which cost."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.analysis.calibration.block_walk.activation_cache import ActivationCache
from compresskit.analysis.calibration.block_walk.blocks import find_blocks, run_block
from compresskit.analysis.calibration.block_walk.streaming import walk
from compresskit.analysis.calibration.collect import collect
from compresskit.core.tensors.modules import get_module
from compresskit.core.types import call
from compresskit.model import zoo

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


class UNet(nn.Module):
    """Shortcuts over several blocks, a concatenation, a mask computed once, and changes in place in between."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True),
                                                nn.Conv2d(width, width, 3, padding=1)) for _ in range(2))  # fmt: skip
        self.up = nn.ModuleList(nn.Conv2d(2 * width, width, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        mask = x.mean(1, keepdim=True)
        x, kept = self.stem(x), []
        for part in self.down:
            kept.append(x)
            x = F.avg_pool2d(part(x), 2)
            x += 1
        for part in self.up:
            x = F.interpolate(x, scale_factor=2)
            x = part(torch.cat([x, kept.pop()], 1))
            x.mul_(0.5)
        return self.head((x * mask).mean((2, 3)))


def _batches(count=3, *shape):
    return [torch.randn(4, *(shape or (3, 16, 16)), generator=torch.Generator().manual_seed(n)) for n in range(count)]


def _halve(block, root):
    with torch.no_grad():
        for name in block.layers:
            get_module(root, name).weight.mul_(0.5)


def _recorded(root, batches, names):
    seen = {name: [] for name in names}
    hooks = [
        get_module(root, name).register_forward_pre_hook(lambda _m, args, name=name: seen[name].append(args[0].clone()))
        for name in names
    ]
    with torch.no_grad():
        outputs = [call(root, one) for one in batches]
    for hook in hooks:
        hook.remove()
    return seen, outputs


@pytest.mark.parametrize("limit_bytes", [None, 0, 100_000])
def test_every_block_sees_what_the_changed_blocks_before_it_give(limit_bytes, tmp_path):
    torch.manual_seed(0)
    changed, whole, batches = UNet().eval(), UNet().eval(), _batches()
    whole.load_state_dict(changed.state_dict())
    blocks = find_blocks(changed, batches[0])
    firsts = [block.modules[0] for block in blocks]
    float_inputs, _ = _recorded(whole, batches, firsts)
    entered, float_entered, left = {}, {}, {}
    cache, running = ActivationCache(limit_bytes, tmp_path), threading.active_count()
    for step in walk(changed, blocks, batches, reference=changed, cache=cache):
        name = step.block.modules[0]
        entered[name] = [args[0].clone() for args, _ in step.inputs]
        float_entered[name] = [args[0].clone() for args, _ in step.reference_inputs]
        left[name] = [output.clone() for output in step.reference_outputs]
        again = [args[0].clone() for args, _ in step.inputs]  # as often as wanted
        assert all(torch.equal(a, b) for a, b in zip(again, entered[name], strict=True))
        _halve(step.block, changed)
    inputs, _ = _recorded(changed, batches, firsts)
    for name, block in zip(firsts, blocks, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(entered[name], inputs[name], strict=True)), name
        assert all(torch.equal(a, b) for a, b in zip(float_entered[name], float_inputs[name], strict=True)), name
        with torch.no_grad():
            wanted = [run_block(whole, block, (x.clone(),), {}) for x in float_inputs[name]]
        assert all(torch.equal(a, b) for a, b in zip(left[name], wanted, strict=True)), name
    assert (cache.spilled_bytes > 0) == (limit_bytes is not None)
    assert not list(tmp_path.iterdir()) and threading.active_count() == running
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in changed.modules())


def test_a_reference_may_be_another_model_with_the_same_modules():
    torch.manual_seed(0)
    whole, changed, batches = zoo.cifar_resnet20().eval(), zoo.cifar_resnet20().eval(), _batches(2, 3, 32, 32)
    blocks = find_blocks(whole, batches[0])
    inputs, _ = _recorded(changed, batches, ["layer3.2"])
    targets, _ = _recorded(whole, batches, ["layer3.2"])
    for step in walk(changed, blocks, batches, reference=whole):
        if step.block.name == "layer3.2":
            for kind, wanted in ((step.inputs, inputs), (step.reference_inputs, targets)):
                assert all(torch.equal(args[0], x) for (args, _), x in zip(kind, wanted["layer3.2"], strict=True))


def test_the_cost_of_each_block_does_not_depend_on_the_depth():
    class Counted(nn.Linear):
        calls = 0

        def forward(self, x):
            Counted.calls += 1
            return super().forward(x)

    def calls(depth: int) -> int:
        net, batches = nn.Sequential(*(Counted(4, 4) for _ in range(depth))), _batches(2, 4)
        blocks, Counted.calls = find_blocks(net, batches[0]), 0
        for step in walk(net, blocks, batches):
            step.watch({})
        return Counted.calls

    assert calls(30) / calls(15) == pytest.approx(2, rel=0.1)


def test_watchers_see_the_layers_of_the_block_alone():
    net, batches, seen = zoo.cifar_resnet20().eval(), _batches(2, 3, 32, 32), []
    for step in walk(net, find_blocks(net, batches[0]), batches):
        step.watch(
            {name: lambda _l, inputs, _o, name=name: seen.append((name, len(inputs[0]))) for name in step.block.layers}
        )
    assert seen[:6] == [("conv1", 4), ("conv1", 4), ("layer1.0.conv1", 4), ("layer1.0.conv2", 4)] + seen[4:6]
    assert len(seen) == 2 * 20


def test_an_error_in_the_model_reaches_the_caller_and_a_break_ends_all_forwards():
    class Fails(nn.Sequential):
        def forward(self, x):
            if x.abs().max() > 100:
                raise RuntimeError("too large")
            return super().forward(x)

    net = Fails(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    blocks, running = find_blocks(net, torch.randn(2, 4), ["0", "2"]), threading.active_count()
    with pytest.raises(RuntimeError, match="too large"):
        list(walk(net, blocks, [torch.randn(2, 4), torch.full((2, 4), 1000.0)]))
    for _ in walk(net, blocks, _batches(2, 4)):
        break
    assert threading.active_count() == running and not net[0]._forward_pre_hooks


@pytest.mark.integration
def test_models_of_transformers_keep_no_past_meanwhile():
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    net = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=50, **small)).eval()
    batches = [{"input_ids": torch.randint(0, 50, (2, 6))} for _ in range(2)]
    blocks = find_blocks(net, batches[0])
    assert len(blocks) == 4
    inputs, _ = _recorded(net, batches, ["lm_head"])
    for step in walk(net, blocks, batches):
        step.watch({})
        if step.block.name == "lm_head":
            assert all(torch.equal(args[0], x) for (args, _), x in zip(step.inputs, inputs["lm_head"], strict=True))
    assert net.config.use_cache


def test_statistics_are_those_of_a_run_of_the_whole_model_and_layers_that_read_the_same_share_one():
    class Fed:
        def __init__(self):
            self.rows, self.updates = 0.0, 0

        def update(self, _layer, inputs, _output):
            self.rows, self.updates = self.rows + inputs.double().sum(), self.updates + 1

    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x):
            return x + self.out(self.q(x) * self.k(x) + self.v(x.clone()))

    net, batches = nn.Sequential(Attends(), Attends()).eval(), _batches(3, 4)
    names = [f"{index}.{name}" for index in range(2) for name in ("q", "k", "v", "out")]
    whole = collect(net, {name: Fed() for name in names}, batches)
    for index, step in enumerate(walk(net, find_blocks(net, batches[0]), batches)):
        found = step.collect({name: Fed() for name in names if name.startswith(f"{index}.")})
        assert {name: one.rows for name, one in found.items()} == {name: whole[name].rows for name in found}
        q, k, v, out = found.values()
        assert q is k and len({id(q), id(v), id(out)}) == 3 and q.updates == len(batches)
