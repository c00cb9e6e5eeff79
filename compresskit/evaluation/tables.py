"""Registries of what a model is judged and trained by: tasks, metrics, and losses against the data's own targets.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.registry import Registry, Row

_PACKAGE = "compresskit.evaluation"

METRICS: Registry[Callable[..., Any]] = Registry(
    "metric",
    _PACKAGE,
    {
        "auto": Row("metric_terms.classes:top1", "what the task asks for: see task"),
        "top1": Row(
            "metric_terms.classes:top1",
            "share of examples (or of their pixels, tokens) whose highest logit is the label",
        ),
        "accuracy": Row("metric_terms.classes:top1", "the same as top1"),
        "top5": Row("metric_terms.classes:top5", "share of examples whose label is among the five highest logits"),
        "f1": Row("metric_terms.classes:F1", "F1 score, the mean over classes or labels; torchmetrics"),
        "auroc": Row(
            "metric_terms.classes:AUROC", "area under the ROC curve, the mean over classes or labels; torchmetrics"
        ),
        "miou": Row(
            "metric_terms.classes:MeanIoU", "intersection over union of classes, the mean over classes; torchmetrics"
        ),
        "map": Row(
            "metric_terms.boxes:MeanAveragePrecision",
            "mean average precision of boxes or masks, IoU 0.5 to 0.95; pycocotools",
        ),
        "mse": Row("metric_terms.numbers:mse", "mean squared error; lower is better"),
        "mae": Row("metric_terms.numbers:mae", "mean absolute error; lower is better"),
        "r2": Row("metric_terms.numbers:R2", "explained share of the variance; torchmetrics"),
        "psnr": Row("metric_terms.images:psnr", "peak signal-to-noise ratio in dB, the mean over images"),
        "ssim": Row("metric_terms.images:ssim", "structural similarity, the mean over images; torchmetrics"),
        "cer": Row(
            "metric_terms.text:CharacterErrorRate",
            "wrong characters a character of the label; lower is better; torchmetrics",
        ),
        "wer": Row("metric_terms.text:WordErrorRate", "wrong words a word of the label; lower is better; torchmetrics"),
        "perplexity": Row(
            "metric_terms.tokens:Perplexity",
            "exp of the mean loss of a token; the interval is over blocks; lower is better",
        ),
        "agreement": Row(
            "metric_terms.original:agreement",
            "share of the original model's decisions that are kept: classes, pixels, tokens, boxes",
        ),
        "fidelity": Row(
            "metric_terms.original:fidelity",
            "relative error of outputs against the original model's; lower is better; needs no labels",
        ),
        "kl": Row(
            "metric_terms.tokens:divergence",
            "KL divergence of the original's predictions, the mean of a position; lower is better; needs no labels",
            "Dutta et al., 2024",
        ),
        "cosine": Row(
            "metric_terms.embeddings:cosine",
            "cosine of embeddings (means over positions) and the original's; needs no labels",
        ),
        "neighbours": Row(
            "metric_terms.embeddings:KeptNeighbours",
            "share of the k nearest examples by the original's embeddings that stay nearest; needs no labels",
        ),
        "retrieval": Row(
            "metric_terms.embeddings:Retrieval",
            "share of examples that have one of their own class among the k nearest by embeddings",
        ),
        "lm-eval": Row(
            "metric_terms.harness:lm_eval",
            "a task of lm-evaluation-harness by metric_arg task=, whose data are on the disk: folder= of its YAML file",
            "Gao et al., 2021",
        ),
    },
    group="metrics",
    takes=("outputs", "targets"),
    methods=("update", "compute"),
    variants={"takes_module": ("module",)},
    doc="""What says how good a model is.

A row is one of three:
- a function (outputs, targets) -> (batch,), one value an example; the metric is their mean;
- a function (outputs, targets) -> number with the attribute `over_dataset = True`, called once with all examples;
- a class with update(outputs, targets), called for each batch, and compute() -> number.
`outputs` is the main tensor of what the model returns, (batch, ...), in float32 at least, or with the attribute
`whole_outputs = True` all of it, or with `embeds = True` one vector an example (the mean over positions); `targets` is
what the data gives. Further attributes: `higher_is_better` (default True); `scale`, "share" for values from 0 to 1, of
which a drop of 1% is 0.01, or "own" (default), of which it is one percent of the original's value; `compares_original`
(default False), with which `targets` are the original model's outputs; `chance`, what a guess scores, a number or a
function of the number of classes, so that a model that does no better is named. With `takes_module` a function is
called with the model alone, and returns a number or a Score. Arguments with defaults are given by metric_arg.""",
)

LOSSES: Registry[Callable[..., Any]] = Registry(
    "loss",
    _PACKAGE,
    {
        "auto": Row("losses:auto", "what the task asks for: see task"),
        "ce": Row("loss_terms.classification:cross_entropy", "cross-entropy; takes label_smoothing"),
        "bce": Row(
            "loss_terms.classification:binary_cross_entropy", "binary cross-entropy, for several labels an example"
        ),
        "dice": Row(
            "loss_terms.classification:dice", "one minus the soft Dice coefficient of masks", "Milletari et al., 2016"
        ),
        "mse": Row("loss_terms.regression:squared_error", "mean squared error"),
        "mae": Row("loss_terms.regression:absolute_error", "mean absolute error"),
        "huber": Row("loss_terms.regression:huber", "squared error up to delta, linear beyond", "Huber, 1964"),
        "ctc": Row("loss_terms.sequences:ctc", "connectionist temporal classification", "Graves et al., 2006"),
        "model": Row(
            "loss_terms.own:own_loss",
            "the model's own: transformers, torchvision's detectors, ultralytics, or a method",
        ),
    },
    group="losses",
    takes=("outputs", "targets"),
    variants={"takes_module": ("module", "inputs", "targets")},
    doc="""What training minimizes against the data's own targets.

A row is a function (outputs, targets) -> scalar, differentiable, the mean over the batch: `outputs` is what the model
returns, as it returns it, `targets` what the data gives. One that has an argument `label_smoothing` gets that of the
options; other arguments with defaults are given by task_loss_arg. With the attribute `takes_module = True` it is
(module, inputs, targets) -> (outputs, scalar), and runs the model itself.""",
)


def _task(predicate: str, help: str, loss: str, metric: str, distillation: str) -> Row:
    attributes = {"loss": loss, "metric": metric, "distillation": distillation}
    return Row(f"tasks:{predicate}", f"{help}: loss {loss}, metric {metric}", attributes=attributes)


#: in the order in which `auto` tries them
TASKS: Registry[Callable[[Any, Any], bool]] = Registry(
    "task",
    _PACKAGE,
    {
        "auto": Row("tasks:task_of", "told from one batch of targets and outputs"),
        "unlabelled": _task("is_unlabelled", "no targets", "model", "fidelity", "outputs"),
        "detection": _task("is_detection", "boxes", "model", "map", "features"),
        "own": _task("has_own_loss", "targets that only the model itself understands", "model", "fidelity", "outputs"),
        "multilabel": _task("is_multilabel", "several labels an example", "bce", "f1", "outputs"),
        "transcription": _task("is_transcription", "labels without alignment", "ctc", "cer", "kd"),
        "segmentation": _task("is_segmentation", "a class for each pixel", "ce", "miou", "kd"),
        "language": _task("is_language", "the next or a hidden token", "ce", "perplexity", "forward_kl"),
        "tokens": _task("is_tokens", "a class for each position", "ce", "top1", "kd"),
        "classification": _task("is_classification", "a class for each example", "ce", "top1", "kd"),
        "regression": _task("is_regression", "floats", "mse", "mse", "outputs"),
    },
    doc="""What a model is for: it decides loss, metric and distillation where they are `auto`.

A row is a function (outputs, targets) -> bool that says whether a batch is of the task, and attributes: `loss` of
LOSSES, `metric` of METRICS, `distillation` of the distillation losses.""",
)
