"""Figures are drawn to files and touch nobody's pyplot."""

from __future__ import annotations

import pytest

from compresskit.core.reporting.figures import new_figure


@pytest.mark.integration
def test_a_figure_leaves_the_backend_and_the_figures_of_pyplot(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    before = matplotlib.get_backend()
    matplotlib.use("svg")
    try:
        figure, (left, right) = new_figure(2, (4, 2))
        left.plot([0, 1], [1, 0])
        figure.savefig(tmp_path / "plot.png")
        assert matplotlib.get_backend().lower() == "svg"
    finally:
        matplotlib.use(before)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG") and left is not right
    assert figure not in [manager.canvas.figure for manager in _managers()]


def _managers():
    from matplotlib._pylab_helpers import Gcf

    return Gcf.get_all_fig_managers()
