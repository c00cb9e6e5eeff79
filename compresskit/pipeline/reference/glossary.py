"""The words of this project, which options, reports and docs use; docs/glossary.md is made from them."""

from __future__ import annotations

#: term -> meaning, one line
TERMS: dict[str, str] = {
    "2:4 sparsity (n:m)": "two of each four neighbouring weights are zero, a pattern that GPUs are fast with",
    "A/B latency": "two models timed in turns in one process, so that both see the same machine",
    "activation": "what a layer gives while a model runs",
    "activation-aware scaling (AWQ)": (
        "scaling the input channels of a layer that see large activations before its weights are rounded, and "
        "undoing it in the layer before"
    ),
    "allocation": "deciding how much of a budget each layer gets",
    "artifact": "a folder of `manifest.json` and `model.safetensors` from which a model loads without pickle",
    "bit-width": "bits that one stored number takes",
    "block": "a part of a network that is repeated: a residual block, a transformer layer",
    "budget": (
        "an upper limit on a cost of the compressed model, a share of the original's or in units: `target_macs`, "
        "`target_params`, `target_bytes`, `target_latency`; `target` of a cost of one's own"
    ),
    "calibration": "running a model on examples to learn ranges or statistics; nothing is trained",
    "calibration data": "examples that run through a model to learn statistics; no labels needed",
    "channel": "one output of a layer: a filter of a convolution, a row of a linear weight",
    "codebook": "a short list of values; weights are indices into it",
    "codec": "how one tensor is laid out in the weights file",
    "criterion": "a function that gives each prunable unit a score of importance",
    "decomposition": "replacing a layer by several smaller ones whose product is near it",
    "distillation": "training a student to give what a teacher gives",
    "edit": "a JSON-able record of one change of structure, by its final geometry",
    "example input": "inputs of batch size 1 on which a model is traced, probed and measured",
    "exit code": "what a command ends with: 0 done, 1 a bug, 2 bad input, 3 a guard or budget missed, 130 interrupted",
    "fine-tuning": "training on with a small learning rate",
    "fold": "to merge an operation into the weights of the layer before it",
    "granularity": "what shares a scale (quantization), or what goes as a whole (pruning)",
    "group": "channels of several layers that must go together",
    "guard": "a condition on a step's measured result; where it fails, the command ends with exit code 3",
    "knowledge distillation (kd)": (
        "training against the outputs of another model beside, or in the place of, the labels"
    ),
    "MAC": "one multiplication and one addition of a matrix product or convolution",
    "manifest": "the JSON half of an artifact: source, edits, provenance, probe",
    "observer": "a function that gathers the range of an activation's values",
    "Pareto front": "the candidates that no other one beats in both accuracy and cost",
    "perplexity": "exp of the mean loss a token of a language model; lower is better",
    "policy": "how a search picks the candidates that it scores",
    "post-training quantization": "quantization without any training step",
    "probe": "what a model computes on its example input, recorded in the manifest and compared when it is loaded",
    "proof": "the comparison of a sliced model with the masked one, before a cut is kept",
    "QAT": "quantization-aware training: weights learn while being rounded in forward",
    "QDQ": "a quantize and a dequantize operation in a graph, from which runtimes make integer kernels",
    "rank": "the width between two factors of a decomposed layer",
    "ratio": "of what a step removes: 0.3 removes 30 %",
    "recipe": "a YAML file: model, data and steps",
    "reconstruction": "choosing a block's weights anew, by gradient, so that its output comes back",
    "recovery": "training, or refitting weights, after a step that hurt the model",
    "refit": "least squares on calibration data: a layer's weights chosen anew so that its outputs come back",
    "registry": "a table of named choices; a row has a target, help, and a source",
    "row": "one named choice of a registry",
    "scale": "the step between two neighbouring levels of a quantized tensor",
    "scheme": "which tensors are quantized, in which format, with which granularity",
    "sensitivity": "how much the model's output changes when one part is compressed",
    "share": "a part of the whole: `0.5` or `50%`",
    "source": "the record from which an unedited module is built: a library's name, a file and a factory",
    "sparsity": "share of a tensor's elements that are zero",
    "student, teacher": "the model that learns, and the one that it learns from",
    "tier": "unit, integration or slow: how long a test may take",
    "trace": "one run of a model during which operations are recorded",
    "unit": "what pruning removes as a whole: a channel, a head, a block, a weight",
}


def glossary_markdown() -> str:
    """docs/glossary.md."""
    head = ["# Glossary", "", "Words as this project uses them. Options and reports use no others.", ""]
    rows = [f"| {term} | {meaning} |" for term, meaning in TERMS.items()]
    return "\n".join([*head, "| term | meaning |", "| --- | --- |", *rows]) + "\n"
