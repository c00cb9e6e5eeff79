"""Registries of search's named choices: what is searched over, and how. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..core.registry import Registry, Row

if TYPE_CHECKING:
    import numpy as np

    from .nas.session import Session
    from .options import SearchOptions
    from .problem.search_space import Choice, Problem

_PACKAGE = "compresskit.search"

#: a row's function makes the subject: (loaded, options, context) -> places, exact costs, compressed copies;
#: that of architecture searches by itself
SUBJECTS: Registry[Callable[..., Any]] = Registry("technique", _PACKAGE, {
    "prune": Row("spaces.prune:PruneSubject", "channels of each group that stay"),
    "decompose": Row("spaces.decompose:DecomposeSubject", "ranks of each layer's factors"),
    "quantize": Row(
        "spaces.quantize:quantize_subject",
        "bits of each layer's weights; under a latency budget which layers compute in int8"
    ),
    "mixed": Row("spaces.mixed:MixedSubject", "channels, ranks and bits together"),
    "architecture": Row("nas.search:search_architecture", "a new, smaller network that the model teaches"),
})  # fmt: skip

ARCHITECTURES: Registry[Callable[[Session], None]] = Registry("policy", _PACKAGE, {
    "n2n": Row(
        "nas.policies.n2n:n2n", "agents take out the model's layers and narrow the rest", "Ashok et al., 2018"
    ),
    "transform": Row(
        "nas.policies.transform:transform", "a small network grows, keeping its function", "Cai et al., 2018"
    ),
    "nas": Row(
        "nas.policies.nas:nas", "a controller writes networks that share weights",
        "Zoph & Le, 2017; Pham et al., 2018",
    ),
}, group="architecture_policies", takes=("session",), doc="""How whole networks are searched (technique architecture).

A row is a function (session): it makes networks, has `session` (nas.session.Session) train and score them, and leaves
them there.""",
)  # fmt: skip

POLICIES: Registry[Callable[[Problem, np.random.Generator, SearchOptions], Choice]] = Registry("policy", _PACKAGE, {
    "auto": Row("policies.auto:auto", "solve, then exchanges between places; takes what scores best and says which"),
    "uniform": Row("policies.baselines:uniform", "the same share everywhere"),
    "random": Row("policies.baselines:random", "random shares, scaled to the budget"),
    "greedy": Row(
        "policies.baselines:greedy", "many small cuts, each where it costs least", "Yang et al., NetAdapt, 2018",
    ),
    "evolution": Row("policies.samplers:evolution", "NSGA-II on score and cost, through optuna", "Deb et al., 2002"),
    "tpe": Row("policies.samplers:tpe", "tree-structured Parzen estimators, through optuna", "Bergstra et al., 2011"),
    "amc": Row("policies.amc:amc", "an agent sets each place's ratio in turn (DDPG)", "He et al., 2018"),
    "haq": Row("policies.amc:haq", "an agent sets each layer's bits in turn (DDPG)", "Wang et al., 2019"),
    "solve": Row(
        "policies.solve:solve", "one probe of each place, the budget allocated exactly, then corrected for interaction",
        "after Frantar & Alistarh, SPDY, 2022",
    ),
}, group="policies", returns="row_checks:choice", extends=ARCHITECTURES,
   takes=("problem", "generator", "options"), doc="""How shares are searched.

A row is a function (problem, generator, options) -> choice: `problem` (problem.search_space.Problem) has the places
with their levels, exact costs and the budget; `problem.evaluate(choice)` builds and scores a candidate, as long as
`problem.done()` is false. A choice is one level for each place.""",
)  # fmt: skip
