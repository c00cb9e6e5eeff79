"""How many architectures each tool prunes at 50 % of the channels, whether the result is exact, and how long it takes.

    python benchmarks/pruning_coverage.py torchvision --out benchmarks/results/pruning_coverage_torchvision.md
    python benchmarks/pruning_coverage.py timm --quick

Both tools run in this process, model by model. Times are CPU seconds of one thread (tracing, choosing and cutting; the
proof is timed apart), so that other work on the machine does not enter. Weights are random; normalization statistics
and zero-initialized heads are randomized, so that no output is trivially equal.
"""

from __future__ import annotations

import argparse
import copy
import logging
import platform
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compresskit.core.types import Context, Loaded, call
from compresskit.pruning.attention import free_heads
from compresskit.pruning.cut import cut
from compresskit.pruning.exact import difference, tensors_of
from compresskit.pruning.graph import build_graph
from compresskit.pruning.proof import proven

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
LARGEST_PARAMETERS = 150e6
PEER_LIMIT_S = 120


def torchvision_models(quick: bool) -> Iterator[tuple[str, Any, Any]]:
    """Classification models; `quick` takes one a family."""
    from torchvision import models

    names = models.list_models(module=models)
    if quick:
        names = ["resnet18", "vgg11_bn", "mobilenet_v3_small", "densenet121", "shufflenet_v2_x0_5", "swin_t", "swin_v2_t",  # noqa: E501
                 "vit_b_32", "maxvit_t", "convnext_tiny", "regnet_y_400mf", "efficientnet_b0", "googlenet", "squeezenet1_1",  # noqa: E501
                 "mnasnet0_5", "alexnet", "inception_v3", "resnext50_32x4d"]  # fmt: skip
    for name in names:
        if name in ("regnet_y_128gf", "vit_h_14", "vit_l_16", "vit_l_32"):
            continue  # more memory than one share of this machine
        extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        size = 299 if name == "inception_v3" else 224
        yield name, lambda n=name, e=extra: models.get_model(n, weights=None, **e), torch.randn(1, 3, size, size)


def dense_models(quick: bool) -> Iterator[tuple[str, Any, Any]]:
    """Torchvision's segmentation and detection models."""
    from torchvision import models

    for module in (models.segmentation, models.detection):
        for name in models.list_models(module=module)[: 2 if quick else None]:
            example = ([torch.rand(3, 160, 160)],) if module is models.detection else torch.randn(1, 3, 128, 128)
            yield name, lambda n=name: models.get_model(n, weights=None, weights_backbone=None), example


def timm_models(quick: bool) -> Iterator[tuple[str, Any, Any]]:
    """The smallest-sounding model of each timm family."""
    import timm

    marks = (
        "atto",
        "femto",
        "pico",
        "nano",
        "xxs",
        "xxt",
        "mini",
        "micro",
        "tiny",
        "xs",
        "_t_",
        "small",
        "_s",
        "_0",
        "18",
        "26",
    )
    families = timm.list_modules()
    for family in families[:: 8 if quick else 1]:
        names = timm.list_models(module=family)
        if not names:
            continue
        name = min(names, key=lambda n: (min((i for i, m in enumerate(marks) if m in n), default=99), len(n), n))
        size = timm.get_pretrained_cfg_value(name, "fixed_input_size") and timm.get_pretrained_cfg_value(
            name, "input_size"
        )
        shape = size or timm.get_pretrained_cfg_value(name, "input_size") or (3, 224, 224)
        yield f"{family}: {name}", lambda n=name: timm.create_model(n, pretrained=False), torch.randn(1, *shape)


def hugging_face_models(quick: bool) -> Iterator[tuple[str, Any, Any]]:
    """BERT-, ViT-, Llama-, GPT-2- and T5-style models, narrow, with random weights."""
    import transformers as t

    ids = torch.arange(12).unsqueeze(0)
    text = {"input_ids": ids}
    yield (
        "BERT",
        lambda: t.BertForSequenceClassification(
            t.BertConfig(hidden_size=256, num_hidden_layers=4, num_attention_heads=8, intermediate_size=512)
        ),
        text,
    )
    yield (
        "ViT",
        lambda: t.ViTForImageClassification(
            t.ViTConfig(hidden_size=192, num_hidden_layers=4, num_attention_heads=6, intermediate_size=384)
        ),
        {"pixel_values": torch.randn(1, 3, 224, 224)},
    )
    yield (
        "Llama",
        lambda: t.LlamaForCausalLM(
            t.LlamaConfig(
                vocab_size=1000,
                hidden_size=256,
                num_hidden_layers=4,
                num_attention_heads=8,
                num_key_value_heads=4,
                intermediate_size=512,
            )
        ),
        {**text, "use_cache": False},
    )
    yield (
        "GPT-2",
        lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=1000, n_embd=256, n_layer=4, n_head=8)),
        {**text, "use_cache": False},
    )
    yield (
        "T5",
        lambda: t.T5ForConditionalGeneration(
            t.T5Config(vocab_size=1000, d_model=256, num_layers=3, num_heads=8, d_ff=512, d_kv=32)
        ),
        {**text, "decoder_input_ids": ids[:, :5], "use_cache": False},
    )


SUITES = {"torchvision": torchvision_models, "dense": dense_models, "timm": timm_models, "hf": hugging_face_models}


def randomized(module: nn.Module) -> nn.Module:
    """Random norm statistics and no zero weights, so that no output is trivially constant."""
    torch.manual_seed(0)
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                child.running_mean.normal_(0, 0.1)
                child.running_var.uniform_(0.5, 1.5)
        for p in module.parameters():
            if p.dim() > 1 and not p.any():
                p.normal_(0, 0.02)
    return module.eval()


def ours(module: nn.Module, example: Any) -> dict[str, Any]:
    """Prune half of every group; {seconds, params, difference, error}."""
    start = time.process_time()
    whole = copy.deepcopy(module)
    free_heads(whole)
    graph = build_graph(whole, example)
    keep = {}
    for group in graph.groups:
        scores = sum(m.stored.tensor.detach().abs().flatten().numel() for m in group.members[:1]) and _norms(group)
        keep[group.name] = np.zeros(len(group), dtype=bool)
        keep[group.name][np.argsort(-scores)[: max(1, len(group) // 2)]] = True
    ids = graph.keep_ids(keep)
    small = copy.deepcopy(whole)
    cut(small, graph, ids)
    seconds = time.process_time() - start
    gap, error = difference(whole, example, graph, ids)
    if gap > 1e-4:  # what `prune` does then: groups that fail are left out
        loaded = Loaded(whole, {}, example)
        proof = proven(loaded, graph, keep, Context(loaded))
        cut(whole, graph, graph.keep_ids(proof.keep))
        error = f"{len(proof.failed)} of {len(keep)} groups left out"
        return {
            "seconds": seconds,
            "params": count(whole) / count(module),
            "difference": proof.difference,
            "error": error,
        }
    return {"seconds": seconds, "params": count(small) / count(module), "difference": gap, "error": error}


def _norms(group: Any) -> np.ndarray:
    member = next((m for m in group.members if not m.consumes and m.stored.tensor.dim() > 1), group.members[0])
    tensor = member.stored.tensor.detach().movedim(member.dim, 0).flatten(1)
    return tensor.norm(dim=1).numpy()[member.positions].sum(1)


def peer(module: nn.Module, example: Any) -> dict[str, Any]:
    """Torch-Pruning's MagnitudePruner at 50 % of the channels, output layer kept; {seconds, params, error}."""
    import torch_pruning as tp

    start = time.process_time()
    small = copy.deepcopy(module)
    last = [m for m in small.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1:]
    heads = {m: m.num_heads for m in small.modules() if isinstance(m, nn.MultiheadAttention)}
    try:
        with torch.no_grad():
            shapes = [t.shape for t in tensors_of(call(module, example))]
        signal.signal(signal.SIGVTALRM, _too_long)
        signal.setitimer(signal.ITIMER_VIRTUAL, PEER_LIMIT_S)
        pruner = tp.pruner.MagnitudePruner(
            small, example, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5, ignored_layers=last,
            num_heads=heads, round_to=None,
        )  # fmt: skip
        pruner.step()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        seconds = time.process_time() - start
        with torch.no_grad():
            now = [t.shape for t in tensors_of(call(small, example))]
        if now != shapes:
            raise ValueError("outputs have another shape")
        if count(small) > 0.95 * count(module):
            raise ValueError("less than 5 % of the parameters went")
    except Exception as error:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        return {
            "seconds": time.process_time() - start,
            "error": f"{type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}",
        }
    return {"seconds": seconds, "params": count(small) / count(module), "error": ""}


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {PEER_LIMIT_S} s of CPU time")


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def main() -> None:
    """Run one suite and write a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=list(SUITES))
    parser.add_argument("--quick", action="store_true", help="a few models instead of all")
    parser.add_argument("--no-peer", action="store_true", help="leave Torch-Pruning out")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, managed, times = [], {"ours": 0, "peer": 0}, {"ours": [], "peer": []}
    for name, build, example in SUITES[arguments.suite](arguments.quick):
        try:
            module = randomized(build())
            with torch.no_grad():
                call(module, example)
        except Exception as error:
            print(f"{name}: not run: {type(error).__name__}: {str(error)[:80]}", flush=True)
            continue
        if count(module) > LARGEST_PARAMETERS:
            continue
        try:
            mine = ours(module, example)
        except Exception as error:
            mine = {"seconds": 0.0, "difference": float("inf"), "error": f"{type(error).__name__}: {str(error)[:80]}"}
        good = mine["difference"] <= 1e-4 and mine["params"] < 0.95
        other = {"seconds": 0.0, "error": "not run"} if arguments.no_peer else peer(module, example)
        managed["ours"] += good
        managed["peer"] += not other["error"]
        times["ours"].append(mine["seconds"])
        times["peer"].append(other["seconds"])
        row = (
            f"| {name} | {('yes' + (', ' + mine['error'] if mine['error'] else '')) if good else 'NO: ' + (mine['error'] or 'nothing went')} | {mine.get('params', 1):.3f} | "  # noqa: E501
            f"{mine['difference']:.1e} | {mine['seconds']:.2f} | {other['error'] or 'yes'} | {other.get('params', 1):.3f} | {other['seconds']:.2f} |"  # noqa: E501
        )
        rows.append(row)
        print(row, flush=True)
        lines = [
            f"# Structured pruning coverage: {arguments.suite}",
            "",
            f"`python benchmarks/pruning_coverage.py {arguments.suite}{' --quick' if arguments.quick else ''}`, torch {torch.__version__}, "  # noqa: E501
            f"{platform.processor() or platform.machine()}, one thread, CPU seconds.",
            "",
            f"compresskit prunes {managed['ours']} of {len(rows)} (largest difference from the masked model at most 1e-4, float32), "  # noqa: E501
            f"{sum(times['ours']):.1f} s in total, median {np.median(times['ours']):.2f} s.",
            f"Torch-Pruning prunes {managed['peer']} of {len(rows)}, {sum(times['peer']):.1f} s in total, median {np.median(times['peer']):.2f} s.",  # noqa: E501
            f"Ratio of total times (compresskit / Torch-Pruning): {sum(times['ours']) / max(sum(times['peer']), 1e-9):.2f}.",  # noqa: E501
            "",
            "| model | compresskit | params kept | difference | s | Torch-Pruning | params kept | s |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *rows,
        ]
        if arguments.out:
            arguments.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines[:8]))


if __name__ == "__main__":
    main()
