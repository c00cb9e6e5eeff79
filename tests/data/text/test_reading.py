"""Whether texts are a corpus or have classes."""

from __future__ import annotations

import pytest

from compresskit.data.text.reading import corpus_files, is_corpus
from compresskit.model.text_inputs import TextInputs


@pytest.fixture
def places(tmp_path):
    """A file, tables with and without classes, a folder of classes and one of texts."""
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "classes.csv").write_text("text,label\na,1\n")
    (tmp_path / "plain.csv").write_text("text,id\na,1\n")
    (tmp_path / "folders" / "train" / "yes").mkdir(parents=True)
    (tmp_path / "folders" / "train" / "yes" / "a.txt").write_text("a")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("a")
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "target", "corpora"),
    [
        ("causal", None, {"a.txt", "classes.csv", "plain.csv", "folders", "files"}),
        ("causal", "id", set()),
        ("seq2seq", "id", {"a.txt", "classes.csv", "plain.csv", "folders", "files"}),
        ("classifier", None, set()),
        ("encoder", None, {"a.txt", "plain.csv", "files"}),
        (None, None, {"a.txt", "plain.csv", "files"}),
    ],
)
def test_language_models_get_a_corpus_and_others_classes_where_there_are_any(places, kind, target, corpora):
    model = TextInputs(kind) if kind else None
    names = ("a.txt", "classes.csv", "plain.csv", "folders", "files")
    assert {name for name in names if is_corpus(str(places / name), target, model)} == corpora


def test_tables_without_texts_are_no_documents(places):
    (places / "files" / "sizes.csv").write_text("id,size\n1,2\n")
    assert [path.name for path in corpus_files(str(places / "files"), "x", None, None)["train"].files] == ["a.txt"]
