"""The models that pruning_coverage.py goes through: suites of (name, builder, example input)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


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
    """Torchvision's segmentation and detection models; detection keeps its 20 best boxes, whatever their scores."""
    from torchvision import models

    for module in (models.segmentation, models.detection):
        for name in models.list_models(module=module)[: 2 if quick else None]:
            example, extra = torch.randn(1, 3, 128, 128), {}
            if module is models.detection:
                prefix = "box_" if "rcnn" in name else ""
                example = ([torch.rand(3, 160, 160)],)
                extra = {f"{prefix}score_thresh": 0.0, f"{prefix}detections_per_img": 20}
            yield name, lambda n=name, e=extra: models.get_model(n, weights=None, weights_backbone=None, **e), example


def timm_models(quick: bool) -> Iterator[tuple[str, Any, Any]]:
    """The smallest-sounding model of each timm family."""
    import timm

    marks = ("atto", "femto", "pico", "nano", "xxs", "xxt", "mini", "micro", "tiny", "xs", "_t_", "small", "_s", "_0",
             "18", "26")  # fmt: skip
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
    """Random norm statistics and no parameters that start at (nearly) zero, so that no output is trivially equal."""
    torch.manual_seed(0)
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                child.running_mean.normal_(0, 0.1)
                child.running_var.uniform_(0.5, 1.5)
        for p in module.parameters():
            if p.is_floating_point() and p.abs().max() < 1e-3:
                p.normal_(0, 0.02 if p.dim() > 1 else 0.1)
    return module.eval()
