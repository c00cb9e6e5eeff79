"""Tasks of lm-evaluation-harness."""

import json

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.evaluation.metrics import make_metric
from tests.tiny_transformers import tiny

TASK = """
task: pick
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def test_what_it_needs(tmp_path):
    with pytest.raises(InputError, match="needs the name of a task"):
        make_metric("lm-eval")(torch.nn.Linear(1, 1), [])
    with pytest.raises(InputError, match="takes transformers models; name their tokenizer"):
        make_metric("lm-eval", arguments={"task": "pick"})(torch.nn.Linear(1, 1), [])
    with pytest.raises(InputError, match="unknown argument 'tsk'; did you mean 'task'"):
        make_metric("lm-eval", arguments={"tsk": "pick"})


@pytest.mark.slow
def test_a_task_with_data_on_the_disk(tmp_path, monkeypatch):
    """The model prefers one piece whatever comes before; the task's labels say how often that is right."""
    pytest.importorskip("lm_eval")
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    loaded = tiny(tmp_path / "model")
    words = {"[unk]": 0, **{f"w{number}": number for number in range(1, 64)}}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[unk]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[unk]").save_pretrained(
        tmp_path / "model"
    )
    with torch.no_grad():
        loaded.module.lm_head.weight.zero_()
        loaded.module.lm_head.bias = torch.nn.Parameter(torch.zeros(64).index_fill(0, torch.tensor([5]), 4.0))
    rows = [{"context": "w1 w2", "choices": ["w5", "w7"], "label": int(number == 3)} for number in range(4)]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "pick.yaml").write_text(TASK.replace("FILE", str(tmp_path / "test.jsonl")))
    given = {"task": "pick", "folder": str(tmp_path), "tokenizer": str(tmp_path / "model")}
    score = make_metric("lm-eval", arguments=given)(loaded.module, [])
    assert (score.value, score.samples) == (0.75, 4) and score.low < 0.75 < score.high
    with pytest.raises(InputError, match="measures no 'f1', but acc"):
        make_metric("lm-eval", arguments=given | {"measure": "f1"})(loaded.module, [])
