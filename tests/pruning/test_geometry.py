import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from compresskit.core.builtin import BUILTINS
from compresskit.pruning import geometry
from compresskit.pruning.cut import cut
from compresskit.pruning.graph import build_graph


def test_predictions_equal_what_the_cut_model_has():
    model = BUILTINS.load("cifar_resnet20")().eval()
    x = torch.randn(1, 3, 32, 32)
    graph = build_graph(model, x)
    macs, parameters = geometry.macs(graph), geometry.parameters(graph)
    rng = np.random.default_rng(0)
    kept = np.array([int(rng.integers(1, len(g) + 1)) for g in graph.groups])
    keep = {g.name: np.arange(len(g)) < k for g, k in zip(graph.groups, kept, strict=True)}
    cut(model, graph, graph.keep_ids(keep))
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert macs(kept) == counter.get_total_flops() / 2 == geometry.exact_macs(graph, graph.keep_ids(keep))
    assert parameters(kept) == sum(p.numel() for p in model.parameters())
