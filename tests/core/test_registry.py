"""Registries: rows of the package, of a file, of an installed package, and registered from Python."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import ValidationError

from compresskit.core.errors import InputError
from compresskit.core.options import Options, choice, option
from compresskit.core.registry import Registry, Row, is_reference


def make(**changes) -> Registry:
    rows = {"small": Row("errors:first_line", "the small one", needs="data"), "large": Row("errors:nearest", "large")}
    settings = {"group": "sizes", "takes": ("width", "height"), **changes}
    return Registry("size", "compresskit.core", rows, **settings)


@pytest.fixture
def user_file(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(
        "def area(width, height):\n    '''Width times height.'''\n    return width * height\n"
        "area.needs = 'labels'\n"
        "def one(width):\n    return width\n"
        "number = 3\n"
        "runs = []\n"
    )
    return str(path)


def install(folder: Path, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with entry points, as pip leaves one."""
    info = folder / "sizes_of_mine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sizes-of-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(lines)
    monkeypatch.syspath_prepend(str(folder))


def test_a_row_of_the_package_is_imported_when_it_is_loaded():
    assert make().load("small")(ValueError("one\ntwo")) == "one"


@pytest.mark.parametrize(
    ("name", "it_is"),
    [
        ("mine.py:area", True),
        ("a/b c/mine.py:area", True),
        ("package.module:area", True),
        ("module:area", True),
        ("small", False),
        ("mine.py", False),
        ("mine.py:", False),
        (":area", False),
        ("mylib::op", False),
        ("a.b:c.d", False),
        ("npz:data/file.npz", False),
        ("\0.py:area", False),
    ],
)
def test_what_names_a_function_of_the_users(name, it_is):
    assert is_reference(name) is it_is


def test_a_function_of_a_file_is_a_row(user_file):
    sizes = make()
    assert sizes.load(f"{user_file}:area")(3, 4) == 12
    assert sizes.needs(f"{user_file}:area") == "labels"
    assert sizes.code(f"{user_file}:area") == f"{user_file}:area"


def test_a_file_runs_once_for_each_of_its_contents(user_file):
    sizes = make(takes=None)
    runs = sizes.load(f"{user_file}:runs")
    assert sizes.load(f"{user_file}:runs") is runs
    Path(user_file).write_text("runs = ['again']\n")
    assert sizes.load(f"{user_file}:runs") == ["again"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aera", "has no 'aera'; did you mean 'area'?"),
        ("number", "is a int, not a function of \\(width, height\\)"),
        ("one", "must take \\(width, height\\), and its signature \\(width\\) does not"),
    ],
)
def test_what_is_no_row_is_refused(user_file, name, message):
    with pytest.raises(InputError, match=message):
        make().load(f"{user_file}:{name}")


def test_a_missing_file_or_module_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a Python file"):
        make().load(f"{tmp_path}/none.py:area")
    with pytest.raises(InputError, match="cannot import 'no_such_module'"):
        make().load("no_such_module:area")


def test_a_row_that_is_no_function_must_have_its_attributes(user_file):
    with pytest.raises(InputError, match="is a int without fits, chain"):
        make(takes=None, has=("fits", "chain")).load(f"{user_file}:number")


def test_an_unknown_name_says_what_is_near_and_how_to_name_ones_own():
    with pytest.raises(ValueError, match="unknown size 'smal'; did you mean 'small', or name your own as file.py:fun"):
        make().check("smal")
    with pytest.raises(ValueError, match="unknown size 'x'; choose from small, large$"):
        make(group="").load("x")


def test_a_registry_without_a_group_takes_no_further_rows(user_file):
    sizes = make(group="")
    with pytest.raises(ValueError, match="unknown size"):
        sizes.check(f"{user_file}:area")
    with pytest.raises(InputError, match="takes no further rows"):
        sizes.register("mine", lambda width, height: 0)


def test_a_row_registered_from_python(user_file):
    sizes = make()

    def area(width, height):
        """Width times height."""
        return width * height

    sizes.register("area", area, source="Euclid", needs="data")
    assert sizes.load("area") is area
    assert sizes["area"] == Row("", "Width times height.", "Euclid", "data")
    assert list(sizes) == ["small", "large", "area"]
    assert sizes.code("area") == __file__
    sizes.register("lazy", f"{user_file}:area", help="from a file")
    assert sizes.rows()["lazy"].help == "from a file"
    assert sizes.load("lazy")(2, 2) == 4
    with pytest.raises(InputError, match="'small' comes with the package"):
        sizes.register("small", area)
    with pytest.raises(InputError, match="leave the colon out"):
        sizes.register("a:b", area)
    with pytest.raises(InputError, match="must take"):
        sizes.register("wrong", lambda: 0)


def test_an_entry_point_is_a_row_and_only_its_metadata_is_read_before_it_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "plugin_of_mine.py").write_text("def area(width, height):\n    return width * height\n")
    install(tmp_path, "[compresskit.sizes]\narea = plugin_of_mine:area\nbroken = plugin_of_mine:none\n", monkeypatch)
    sizes = make()
    assert sizes.check("area") == "area"
    assert sizes.rows()["area"].described() == "from sizes-of-mine"
    assert sizes.code("area") == "plugin_of_mine:area"
    assert "area" not in sizes, "what an artifact names is looked up with `in`"
    assert "plugin_of_mine" not in sys.modules
    assert sizes.load("area")(3, 4) == 12
    with pytest.raises(InputError, match="size 'broken' does not import"):
        sizes.load("broken")


def test_a_registry_that_extends_another_has_its_rows(tmp_path, monkeypatch):
    base = make()
    wider = Registry("size", "compresskit.core", {"auto": Row("errors:described", "the best")}, extends=base)
    base.register("mine", lambda width, height: 7)
    assert list(wider) == ["auto", "small", "large", "mine"]
    assert wider.load("mine")(1, 1) == 7
    assert wider["small"].needs == "data"
    assert wider.builtin("small") and not wider.builtin("mine")
    assert "auto" not in base
    install(tmp_path, "[compresskit.sizes]\nplugged = os.path:join\n", monkeypatch)
    assert list(wider.rows()) == ["auto", "small", "large", "mine", "plugged"]
    assert wider.check("plugged") == "plugged"


SIZES = make()


class Sized(Options):
    """Options that name rows in each way."""

    size: Annotated[str, choice(SIZES)] = option("small", "one")
    sizes: list[Annotated[str, choice(SIZES)]] = option([], "several")
    other: Annotated[str, choice(SIZES)] | None = option(None, "one or none")


def test_options_take_rows_and_say_which(user_file):
    options = Sized(size=f"{user_file}:area", sizes=["large", "module:name"])
    assert [(field, name) for field, _, name in options.named_rows()] == [
        ("size", f"{user_file}:area"),
        ("sizes", "large"),
        ("sizes", "module:name"),
    ]
    with pytest.raises(ValidationError, match="did you mean 'large'"):
        Sized(sizes=["lagre"])
    with pytest.raises(ValidationError, match="did you mean 'small'"):
        Sized(other="smal")


def test_the_schema_lists_rows_and_allows_ones_own():
    import re

    rows, own = Sized.model_json_schema()["properties"]["size"]["anyOf"]
    assert rows["enum"] == ["small", "large"]
    assert re.match(own["pattern"], "a/mine.py:area") and not re.match(own["pattern"], "lagre")


def test_a_row_says_what_it_is_without_being_imported(user_file):
    sizes = Registry(
        "size", "compresskit.core", {"far": Row("no_such_module:far", "far", attributes={"unit": "km"})}, group="sizes"
    )
    assert sizes.attribute("far", "unit", "m") == "km"
    assert sizes.attribute("far", "colour", "none") == "none"
    assert sizes.attribute(f"{user_file}:area", "needs", "") == "labels"
    assert sizes.attribute(f"{user_file}:area", "unit", "m") == "m"
