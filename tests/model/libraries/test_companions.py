"""Files that belong to a model beside its weights."""

from compresskit.model.libraries.companions import companions


def test_tokenizers_and_settings_are_found_and_nothing_else(tmp_path):
    names = ["tokenizer.json", "merges.txt", "generation_config.json", "chat_template.jinja"]
    for name in [*names, "config.json", "model.safetensors", "notes.txt", "model.py"]:
        (tmp_path / name).write_text(name)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    (tmp_path / "1_Pooling" / "run.py").write_text("")
    found = companions(tmp_path)
    assert sorted(found) == sorted([*names, "1_Pooling/config.json"])
    assert found["merges.txt"].read_text() == "merges.txt"


def test_links_that_lead_out_are_left(tmp_path):
    outside, folder = tmp_path / "secret", tmp_path / "model"
    outside.write_text("x")
    folder.mkdir()
    (folder / "tokenizer.json").symlink_to(outside)
    assert companions(folder) == {}
    assert companions(tmp_path / "absent") == {}
