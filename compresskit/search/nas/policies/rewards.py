"""What the agents are rewarded for; every accuracy here is measured on held-out training examples."""

from __future__ import annotations

import math
from typing import Literal


def compression_reward(score: float, teacher_score: float, params_share: float) -> float:
    """N2N's reward of a student: C (2 - C) times its accuracy relative to the teacher's, C = 1 - share of parameters.

    Args:
        score, teacher_score: accuracies in [0, 1].
        params_share: the student's parameters over the teacher's.
    Source: Ashok et al., "N2N Learning: Network to Network Compression via Policy Gradient Reinforcement Learning",
    ICLR 2018, section 3.4.
    """
    compression = 1 - params_share
    return compression * (2 - compression) * score / max(teacher_score, 1e-9)


#: N2N's reward of a student that breaks the constraint or cannot be built
INFEASIBLE = -1.0


def accuracy_reward(score: float, samples: int) -> float:
    """tan(accuracy * pi / 2): a gain counts more, the higher the accuracy is already.

    Args:
        score: accuracy in [0, 1]; at most half an example short of 1, where the tangent has its pole.
        samples: examples behind the accuracy.
    Source: Cai et al., "Efficient Architecture Search by Network Transformation", AAAI 2018, section 4 (training).
    """
    return math.tan(min(score, 1 - 0.5 / samples) * math.pi / 2)


_TINY = 1e-12  # keeps ratios of zeros finite


def score_of(value: float, original: float, scale: Literal["share", "own"]) -> float:
    """A metric as a score in [0, 1] that rewards can be made of.

    Args:
        value, original: the metric of a candidate and of the original model, negated where lower is better.
        scale: of the metric.
    Returns:
        a share of which more is better, as it is; of any other metric its part in the sum of both models' values, or
        of both models' errors the other's part: 0.5 is as good as the original.
    """
    if scale == "share" and original >= 0 and value >= 0:
        return value
    if original <= 0 and value <= 0:
        return (_TINY - original) / (2 * _TINY - original - value)
    return max(value, 0.0) / max(abs(original) + max(value, 0.0), _TINY)
