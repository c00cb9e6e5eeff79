"""What the agents are rewarded for; every accuracy here is measured on held-out training examples."""

from __future__ import annotations

import math


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
