"""YAML from strangers: bombs, depth, keys and values that are no plain data; each is one line, in a moment."""

from __future__ import annotations

import os
import time

import pytest

from compresskit.core.errors import InputError
from compresskit.pipeline.yaml.lines import read_yaml
from compresskit.pipeline.yaml.text import DEEPEST, parse_value, parse_yaml

BOMB = "b0: &a0 [x, x]\n" + "".join(f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))

REFUSED = {
    "aliases of aliases": (BOMB, "line 6: more than 50,000 values"),
    "an alias inside of itself": ("a: &a [*a]", "line 1: .a stands inside of what it names"),
    "a mapping inside of itself": ("&a {x: *a}", "stands inside"),
    "a merge of itself": ("a: &a {<<: *a}", "stands inside"),
    "10,000 brackets": ("[" * 10_000, f"nested more than {DEEPEST} deep"),
    "deep blocks": ("".join(" " * i + "a:\n" for i in range(500)), "nested more than"),
    "a NUL byte": ("a: \0", "is not YAML: unacceptable character"),
    "a list as key": ("[1, 2]: 3", "line 1: key is not a string"),
    "a mapping as key": ("{a: 1}: 2", "key is not a string"),
    "null as key": ("a: 1\n~: 2", "line 2: key '~' is not a string"),
    "a number as key": ("1: 2", "key '1' is not a string"),
    "two documents": ("a: 1\n---\nb: 2", "line 2: but found another document"),
    "a number of 5,000 digits": ("a: " + "9" * 5000, "a number of 5,000 digits"),
    "infinity": ("a: .inf", "'.inf' is not a finite number"),
    "a float beyond the largest": ("a: 1.0e+999", "not a finite number"),
    "a date": ("a: 2024-13-45", "kind 'timestamp'"),
    "bytes": ("a: !!binary x", "kind 'binary'"),
    "a set": ("a: !!set {b}", "kind 'set'"),
    "a Python object": ("!!python/object/apply:os.getcwd []", "kind 'python/object/apply:os.getcwd'"),
    "an integer that is none": ("!!int ''", "not what its tag"),
    "a truth that is none": ("!!bool maybe", "not what its tag"),
    "hexadecimal without digits": ("a: 0x_", "not what its tag"),
    "a very long value": ("a: " + "x" * 100_000, "a value of 100,000 characters"),
    "a very long document": ("a: 1\n" * 100_000, "longer than"),
    "an alias of nothing": ("*x", "undefined alias"),
    "a merge of a number": ("<<: 3", "merging"),
}


@pytest.mark.parametrize(("text", "says"), REFUSED.values(), ids=REFUSED)
def test_refused_in_a_moment(text, says):
    started = time.process_time()
    with pytest.raises(InputError, match=says) as error:
        parse_yaml(text, "recipe 'r.yaml'")
    assert time.process_time() - started < 3
    assert len(str(error.value).splitlines()) == 1


def test_aliases_and_merge_keys_of_a_sane_size_work():
    text = "base: &base {lr: 0.1, epochs: 2}\nsteps:\n  - train: {<<: *base, lr: 0.2}\n  - train: *base\n"
    content, lines = parse_yaml(text, "recipe")
    assert content["steps"] == [{"train": {"lr": 0.2, "epochs": 2}}, {"train": {"lr": 0.1, "epochs": 2}}]
    assert lines["steps", 1] == 4


def test_lines_follow_aliases_without_growing_forever():
    content, lines = parse_yaml("a: &a {x: 1}\n" + "".join(f"b{i}: *a\n" for i in range(1000)), "recipe")
    assert len(content) == 1001
    assert lines["b999", "x"] == 1


@pytest.mark.parametrize(("text", "value"), [("3", 3), ("[1, 2.5]", [1, 2.5]), ("", None), ("x: y", {"x": "y"})])
def test_values_of_arguments(text, value):
    assert parse_value(text, "--set") == value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path, encoding):
    (tmp_path / "r.yaml").write_text("model: größe\n", encoding=encoding)
    assert read_yaml(tmp_path / "r.yaml")[0] == {"model": "größe"}


def test_files_that_are_no_recipes(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("model: größe\n".encode("latin-1"))
    os.mkfifo(tmp_path / "pipe.yaml")
    with open(tmp_path / "huge.yaml", "wb") as file:
        file.truncate(1 << 30)
    for name, says in [
        ("latin.yaml", "save it as UTF-8"),
        ("pipe.yaml", "not a regular file"),
        ("huge.yaml", "larger than"),
        (".", "not a regular file"),
        ("nul\0.yaml", "cannot be read"),
    ]:
        with pytest.raises(InputError, match=says):
            read_yaml(f"{tmp_path}/{name}")
    with pytest.raises(InputError, match="not a regular file"):
        read_yaml("/dev/zero")
