"""Language models that continue from keys and values of past tokens."""

import pytest
import torch

from compresskit.core.types import Loaded
from compresskit.export.exporters.with_past import WithPast, completed, dotted, next_inputs, past_example, without_past
from compresskit.export.lowering import export
from compresskit.export.options import ExportOptions
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context


@pytest.fixture
def language_model():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return Loaded(transformers.LlamaForCausalLM(config).eval(), {}, {"input_ids": torch.arange(6)[None]})


@pytest.mark.integration
def test_one_token_after_its_past_is_as_the_whole_text(language_model):
    example = past_example(language_model.module, language_model.example)
    wrapped = WithPast.of(language_model.module, list(example))
    with torch.no_grad():
        first = wrapped(**without_past(example))
        step = next_inputs(first, torch.ones(2, 6, dtype=torch.long))
        assert step["input_ids"].shape == (2, 1) and step["past_key_values_1_value"].shape == (2, 2, 6, 4)
        text = torch.cat([example["input_ids"], step["input_ids"]], 1)
        torch.testing.assert_close(wrapped(**step)["logits"][:, 0], language_model.module(text).logits[:, -1])


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("scheme, tolerance", [("int8-weight", 0.01)])  # 8-bit kernels round their input
def test_a_file_continues_from_its_own_keys_and_values(language_model, scheme, tolerance, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    loaded = language_model
    if scheme:
        quantize(loaded, QuantizeOptions(scheme=scheme, first_last="same"), Context(original=loaded.clone()))
    path = tmp_path / "lm.onnx"
    facts = export(loaded, ExportOptions(rounds=0, cold_start="skip", with_past=True), Context(original=loaded), path)
    assert facts["with_past"] == {"steps": 5, "prompt": [2, 6]}
    assert facts["with_past_difference"] < tolerance and facts["largest_difference"] < tolerance
    graph = onnx.load(path).graph
    inputs = [entry.name for entry in graph.input]
    assert inputs[:3] == ["input_ids", "attention_mask", "past_key_values.0.key"] and len(inputs) == 6
    assert [entry.name for entry in graph.output][:2] == ["logits", "present.0.key"]
    dimensions = {entry.name: [dim.dim_param for dim in entry.type.tensor_type.shape.dim] for entry in graph.input}
    assert dimensions["input_ids"] == ["batch", "length"] and dimensions["attention_mask"] == ["batch", "total_length"]
    assert dimensions["past_key_values.1.value"] == ["batch", "", "past_length", ""]
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ids, text = [3, 1, 4], [3, 1, 4]
    state = {name: torch.zeros(1, 2, 0, 4).numpy() for name in inputs[2:]}
    for _ in range(3):
        feed = {"input_ids": torch.tensor([ids]).numpy(), "attention_mask": torch.ones(1, len(text)).long().numpy()}
        logits, *present = session.run(None, {**feed, **state})
        state = dict(zip(inputs[2:], present, strict=True))
        with torch.no_grad():
            wanted = loaded.module(torch.tensor([text])).logits[0, -1]
        torch.testing.assert_close(torch.from_numpy(logits[0, -1]), wanted, atol=tolerance, rtol=1e-4)
        ids = [int(wanted.argmax())]
        text += ids


def test_what_a_batch_lacks_is_filled_in():
    example = {"input_ids": torch.ones(2, 5), "attention_mask": None, "past_key_values_0_key": torch.ones(2, 3, 4, 8)}
    found = completed({"input_ids": torch.ones(1, 6, dtype=torch.long)}, example)
    assert list(found) == list(example) and found["attention_mask"].tolist() == [[1] * 6]
    assert found["past_key_values_0_key"].shape == (1, 3, 0, 8)
    assert completed(torch.ones(1), torch.ones(1)).tolist() == [1.0]  # no ids at all


def test_names_in_a_file_have_dots():
    assert dotted("past_key_values_11_value") == "past_key_values.11.value"
    assert dotted("input_ids") == "input_ids"
