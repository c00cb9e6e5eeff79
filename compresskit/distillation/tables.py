"""The registry of distillation losses. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.registry import Registry, Row

if TYPE_CHECKING:
    from .losses.term import Loss

LOSSES: Registry[Loss] = Registry(
    "distillation loss",
    "compresskit.distillation.losses",
    {
        "kd": Row("logits:KD", "divergence of softened logits; weight 0.9, the targets 0.1", "Hinton et al., 2015"),
        "outputs": Row("answers:OUTPUTS", "squared error of the outputs; for numbers", "Ba & Caruana, 2014"),
        "features": Row(
            "answers:FEATURES", "relative error of the features of all stages; for boxes", "after Romero et al., 2015"
        ),
        "dkd": Row("logits:DKD", "the same, target class and the others weighted apart", "Zhao et al., 2022"),
        "dist": Row("logits:DIST", "correlation of predictions within and across classes", "Huang et al., 2022"),
        "fitnet": Row("maps:FITNET", "regressed features of the middle stage; weight 100", "Romero et al., 2015"),
        "at": Row("maps:AT", "spatial attention maps of all stages; weight 1000", "Zagoruyko & Komodakis, 2017"),
        "at_gradient": Row(
            "maps:AT_GRADIENT", "gradients of the task loss by the input", "Zagoruyko & Komodakis, 2017"
        ),
        "nst": Row("maps:NST", "distribution of channel patterns; weight 50", "Huang & Wang, 2017"),
        "fsp": Row("maps:FSP", "products of consecutive stages; weight 50", "Yim et al., 2017"),
        "sp": Row("relations:SP", "similarities within the batch; weight 3000", "Tung & Mori, 2019"),
        "cc": Row("relations:CC", "Gaussian correlations within the batch; weight 0.02", "Peng et al., 2019"),
        "rkd": Row("relations:RKD", "distances (25) and angles (50) within the batch", "Park et al., 2019"),
        "pkt": Row("relations:PKT", "pair probabilities within the batch; weight 30000", "Passalis & Tefas, 2018"),
        "vid": Row("adapted:VID", "likelihood of the teacher's features", "Ahn et al., 2019"),
        "ft": Row("adapted:FT", "factors of the last stage; weight 200", "Kim et al., 2018"),
        "ofd": Row("adapted:OFD", "features before the ReLU, beyond a margin; weight 0.001", "Heo et al., 2019"),
        "reviewkd": Row("adapted:REVIEW", "stages fused from deep to shallow", "Chen et al., 2021"),
        "mgd": Row("adapted:MGD", "teacher's last stage generated from a masked one; weight 7e-5", "Yang et al., 2022"),
        "crd": Row("contrast:CRD", "contrast against a memory of examples; weight 0.8", "Tian et al., 2020"),
        "hidden": Row("transformer:HIDDEN", "hidden states of transformer layers", "Jiao et al., 2020"),
        "attention": Row("transformer:ATTENTION", "attention scores of transformer layers", "Jiao et al., 2020"),
        "minilm": Row(
            "transformer:MINILM", "relations of queries, keys, values in the last layer", "Wang et al., 2021"
        ),
        "forward_kl": Row("logits:FORWARD_KL", "token-level KL(teacher || student)", "Hinton et al., 2015"),
        "reverse_kl": Row("logits:REVERSE_KL", "token-level KL(student || teacher)", "Gu et al., 2024"),
        "js": Row("logits:JENSEN_SHANNON", "token-level generalized Jensen-Shannon divergence", "Agarwal et al., 2024"),
    },
    group="distillation_losses",
    has=("make", "weight", "task_weight", "needs", "arguments"),
    doc="""What a student learns from its teacher.

A row is a losses.term.Loss: `make(setup)` returns a Term whose `compute(signals)` gives a scalar each batch, the
weight of the term, and the signals that it needs besides the logits (features, embeddings, attention ...), whose
shapes losses.term.DistillationBatch says. E.g. Loss(lambda setup: Term(lambda signals: mse_loss(signals.student,
signals.teacher)), weight=0.5).""",
)

#: losses that compare examples with each other, so that their value depends on how many one process sees
BETWEEN_EXAMPLES = ("dist", "sp", "cc", "rkd", "pkt", "crd")
