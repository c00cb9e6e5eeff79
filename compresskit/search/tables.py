"""The named choices of search: what is searched over, and how. Imports nothing heavy."""

from __future__ import annotations

from ..core.table import Row, Table

_PACKAGE = "compresskit.search"

#: a row's function makes the subject: (loaded, options, context) -> places, exact costs, compressed copies
SUBJECTS = Table("technique", _PACKAGE, {
    "prune": Row("prune:PruneSubject", "channels of each group that stay"),
})  # fmt: skip

#: a row's function takes a Problem and a generator and returns the best choice it found
POLICIES = Table("policy", _PACKAGE, {
    "uniform": Row("simple:uniform", "the same share everywhere"),
    "random": Row("simple:random", "random shares, scaled to the budget"),
    "greedy": Row("simple:greedy", "many small cuts, each where it costs least", "Yang et al., NetAdapt, 2018"),
    "solve": Row(
        "solve:solve", "one probe of each place, the budget allocated exactly, then corrected for interaction",
        "after Frantar & Alistarh, SPDY, 2022",
    ),
})  # fmt: skip
