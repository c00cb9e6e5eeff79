"""Loggers of libraries are quiet while they work for a command."""

from __future__ import annotations

import logging
import sys

import pytest

from compresskit.core.reporting.loggers import quiet, quiet_loggers


def test_loggers_and_those_below_them_are_quiet_inside_and_as_before_behind(capsys):
    handler = logging.StreamHandler()
    library, below, other = (logging.getLogger(name) for name in ("quiet_one", "quiet_one.part", "another_one"))
    for logger in (library, other):
        logger.addHandler(handler)
    library.setLevel(logging.INFO)
    with pytest.raises(KeyError), quiet_loggers("quiet_one"):
        below.error("inside")
        other.error("another")
        raise KeyError
    below.info("behind")
    for logger in (library, other):
        logger.removeHandler(handler)
    assert capsys.readouterr().err.split() == ["another", "behind"] and library.level == logging.INFO


def test_prints_bars_and_warnings_are_quiet_inside_and_errors_are_raised(capsys):
    with pytest.raises(KeyError), quiet():
        print("a line")
        sys.stderr.write("50%")
        logging.getLogger("quiet_three").warning("a warning")
        raise KeyError
    print("behind")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("behind\n", "") and logging.root.manager.disable == logging.NOTSET
