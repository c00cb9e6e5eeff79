"""No input of any kind ends in 1 or hangs, or takes long to be refused: some tries of each kind, always the same ones.

`benchmarks/house/fuzz.py` runs thousands. A try that once failed is kept in FOUND by its kind and number, or by its
input.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings, strategies as st

from compresskit.core.errors import InputError
from compresskit.pipeline.yaml.text import parse_yaml
from tests.fuzz import hostile

TRIES = 6
SLOW_KINDS = {"option_values": 3, "user_code": 3, "recipe_values": 4}
FOUND = [
    ("manifest_source", 5051),  # a source without arguments
    ("artifact_weights", 0),  # complex weights in a real layer
    ("artifact_weights", 54),  # bytes in the place of floats
    ("npz_arrays", 3),  # big-endian numbers
    ("npz_arrays", 6),  # a type without fields
    ("npz_arrays", 11),  # a single number
    ("npz_bytes", 1),  # no magic number
    ("npz_bytes", 6),  # a header that ends in the middle
    ("csv_text", 4),  # not UTF-8
    ("user_code", 21),  # a KeyError in forward
    ("user_code", 2023),  # an exception that is no Exception
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good inputs, which every try spoils a copy of."""
    return hostile.prepare(tmp_path_factory.mktemp("fuzz"))


def check(kind: str, number: int, good: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(scratch.parent / "cache"))
    arguments, outcome = hostile.attempt(kind, number, good, scratch)
    # times and memory are measured by the benchmark, on a machine that does nothing else
    assert outcome.code in (0, 2, 3), f"{kind} {number}: {arguments}: {outcome.lines}"
    assert outcome.code != 2 or outcome.lines, f"{kind} {number}: {arguments}: refused without a word"


@pytest.mark.integration
@pytest.mark.parametrize("kind", hostile.KINDS)
def test_some_tries_of_each_kind(kind, good, tmp_path, monkeypatch):
    for number in range(SLOW_KINDS.get(kind, TRIES)):
        check(kind, number, good, tmp_path / "try", monkeypatch)


@pytest.mark.integration
@pytest.mark.parametrize(("kind", "number"), FOUND)
def test_tries_that_failed_once(kind, number, good, tmp_path, monkeypatch):
    check(kind, number, good, tmp_path / "try", monkeypatch)


@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(alphabet="abc:[]{}&*!<>-?~#|,'\"\n\t 01.e\0\ud800é", max_size=60))
@example("a: &a [*a]")
@example("!!timestamp x")
@example("!!int ''")
@example("? [1]\n: 2")
@example("a: 0x_")
@pytest.mark.integration
def test_any_text_is_yaml_or_one_line(text):
    try:
        parse_yaml(text, "recipe")
    except InputError as error:
        assert len(str(error).splitlines()) == 1 or "\n" in text


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.binary(max_size=80))
@example(bytes([1, 1, 2, *[255] * 8, *[0] * 12]))
@example(b"\x01\x00\x01\xff\xff\xff\x00" + b"\xff" * 4 + b"\x00" * 8)
def test_any_bytes_are_a_code_or_one_line(content):
    from compresskit.artifact.codecs.storage import decode_all

    coded = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.zeros(0, dtype=torch.uint8)
    try:
        decode_all({"w::huffman::coded": coded})
    except InputError as error:
        assert "'w'" in str(error)
