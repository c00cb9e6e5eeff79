"""torch's own encoder with padded batches, which it turns into nested tensors in eval mode, goes through every step."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import compresskit

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
]


class Texts(nn.Module):
    """Classes of texts of several lengths."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(50, 16, padding_idx=0)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)

    def forward(self, ids):
        padding = ids == 0
        states = self.encoder(self.embedding(ids), src_key_padding_mask=padding)
        return self.head((states * ~padding[..., None]).sum(1) / (~padding).sum(1, keepdim=True))


@pytest.fixture
def batches():
    ids = torch.randint(1, 50, (48, 8), generator=torch.Generator().manual_seed(0))
    for row, text in enumerate(ids):
        text[3 + row % 6 :] = 0
    return DataLoader(TensorDataset(ids, torch.arange(48) % 3), batch_size=16)


@pytest.mark.parametrize(
    ("verb", "options", "macs", "error"),
    [
        ("prune", {"target_macs": 0.5}, 0.5, 1.0),
        ("prune", {"granularity": "block", "ratio": 0.5}, 0.55, 1.0),
        ("prune", {"target_macs": 0.6, "criterion": "taylor", "recover": "kd", "epochs": 1}, 0.6, 1.0),
        ("quantize", {"scheme": "int8-static"}, 1, 0.05),
        ("quantize", {"scheme": "int4-weight", "rounding": "gptq", "reconstruct": "none"}, 1, 0.3),
        ("decompose", {"target_macs": 0.8, "slower_layers": "allow"}, 0.8, 0.7),
        ("distill", {"student_width": 0.5, "epochs": 1}, 0.3, None),
    ],
)
def test_a_step_keeps_an_encoder_that_takes_padding(batches, tmp_path, verb, options, macs, error):
    net = Texts().eval()
    found = getattr(compresskit, verb)(net, data=batches, latency_rounds=0, **options)
    assert found.report["steps"][-1]["measurement"]["macs"] <= macs * found.report["original"]["macs"]
    ids = next(iter(batches))[0]
    with torch.no_grad():
        wanted, output = net(ids), found.model(ids)
        alone = torch.cat([found.model(text[text > 0][None]) for text in ids])
    torch.testing.assert_close(output, alone, rtol=0, atol=0.05 if options.get("scheme") == "int8-static" else 1e-4)
    if error is not None:
        assert float((output - wanted).norm() / (wanted - wanted.mean(0)).norm()) < error
    found.save(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(compresskit.load(tmp_path / "out", model=Texts())(ids), output)
