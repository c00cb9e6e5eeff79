"""A model meets its data: a lone input reaches forward as it reads it."""

import pytest
import torch
from torch import nn

import compresskit
from compresskit.core.types import Loaded
from compresskit.data.dataset import open_data
from compresskit.pipeline.opening import name_lone_input

pytestmark = pytest.mark.integration

NETS = """
import dataclasses
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, batch):
        return super().forward(batch["image"])

class Examples(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return {"image": torch.arange(6.0).reshape(2, 3) + index, "label": index % 3}

class Stream(IterableDataset):
    def __iter__(self):
        return (Examples()[index] for index in range(20))

@dataclasses.dataclass
class Batch:
    image: torch.Tensor
    label: torch.Tensor

def joined(examples):
    return Batch(torch.stack([one["image"] for one in examples]), torch.tensor([one["label"] for one in examples]))

dataset = lambda: (Examples(), Examples())
loader = lambda: (DataLoader(Examples(), 4), DataLoader(Examples(), 4))
stream = lambda: (Stream(), Stream())
dataclass = lambda: (DataLoader(Examples(), 4, collate_fn=joined), DataLoader(Examples(), 4, collate_fn=joined))
batches = lambda: (list(DataLoader(Examples(), 4)), iter(list(DataLoader(Examples(), 4))))
ready = lambda: (DataLoader(list(DataLoader(Examples(), 4)), None), DataLoader(list(DataLoader(Examples(), 4)), None))
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)


@pytest.mark.parametrize("form", ["dataset", "loader", "stream", "dataclass", "batches", "ready"])
def test_a_forward_that_reads_a_lone_input_from_a_mapping_gets_one(nets, form):
    data = open_data(f"nets.py:{form}")
    assert data.input_name() == "image" and data.example.shape == (1, 2, 3)

    class Net(nn.Linear):
        def forward(self, batch):
            return super().forward(batch["image"])

    loaded = Loaded(Net(3, 2).eval(), {}, torch.zeros(1, 2, 3))
    name_lone_input(loaded, data)
    inputs, targets = next(iter(data.batches("test", batch_size=4)))
    assert list(inputs) == list(data.example) == ["image"] and len(inputs["image"]) == len(targets) == 4
    assert [len(one["image"]) for one in data.calibration(5, batch_size=3)] == [3, 2]


def test_others_get_the_tensor(nets):
    data = open_data("nets.py:dataset")
    for module in (nn.Linear(3, 2), nn.Bilinear(3, 3, 2)):  # the second takes neither
        name_lone_input(Loaded(module, {}, torch.zeros(1, 2, 3)), data)
        assert isinstance(next(iter(data.batches("val", batch_size=1)))[0], torch.Tensor)


def test_such_a_model_goes_through_and_is_read_again(nets, tmp_path):
    shared = {"data": "nets.py:dataset", "latency_rounds": 0}
    compresskit.prune("nets.py:Net", ratio=0.5, output=tmp_path / "p", **shared)
    options = {"scheme": "int8-static", "calibration_samples": 8, "source": "nets.py:Net"}
    report = compresskit.quantize(str(tmp_path / "p"), **options, **shared).report
    assert report["steps"][-1]["measurement"]["metric"]["samples"] == 20
