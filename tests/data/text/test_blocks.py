"""Examples of tokens."""

from __future__ import annotations

import numpy as np
import torch

from compresskit.data.text.blocks import IGNORED, Chunks, PackedBlocks, Pairs, Stream

IDS = np.arange(100, dtype=np.uint16)


def test_a_stream_reads_across_its_pieces():
    stream = Stream.of(IDS, np.array([10, 50, 90]), np.array([13, 51, 95]))
    assert len(stream) == 9
    assert stream.read(0, 9).tolist() == [10, 11, 12, 50, 90, 91, 92, 93, 94]
    assert stream.read(2, 5).tolist() == [12, 50, 90] and stream.read(4, 4).tolist() == []


def test_targets_of_packed_blocks_are_the_next_tokens():
    blocks = PackedBlocks(Stream.of(IDS, np.array([0]), np.array([100])), 5, (7,), np.arange(25), True)
    inputs, targets = blocks.take(torch.tensor([1]))
    assert inputs["input_ids"].tolist() == [[7, 4, 5, 6, 7]] and targets.tolist() == [[4, 5, 6, 7, IGNORED]]
    assert blocks.subset(torch.tensor([3])).take(torch.tensor([0]))[0]["input_ids"].tolist() == [[7, 12, 13, 14, 15]]


def test_hidden_tokens_are_the_same_in_any_order_and_padding_is_never_hidden():
    spans = np.array([[0, 40], [40, 44]])
    chunks = Chunks(IDS, spans, np.arange(2), 42, (98,), (99,), 0, 97, 90)
    inputs, targets = chunks.take(torch.tensor([0, 1]))
    again, _ = chunks.take(torch.tensor([1]))
    assert torch.equal(inputs["input_ids"][1], again["input_ids"][0])
    hidden = targets != IGNORED
    assert hidden.sum(1).tolist() == [6, 1]  # 15 % of 40, and at least one
    assert inputs["attention_mask"].sum(1).tolist() == [42, 6]
    places = hidden[0].nonzero().flatten()
    assert torch.equal(targets[0, places], torch.arange(40)[places - 1])
    assert not hidden[:, 0].any() and not hidden[1, 5:].any()
    assert (inputs["input_ids"][hidden] == 97).sum() >= 4


def test_a_decoder_gets_its_own_tokens_one_place_later():
    pairs = Pairs(IDS, np.array([[10, 12, 15]]), 6, (99,), 0, 3)
    inputs, targets = pairs.take(torch.tensor([0]))
    assert inputs["input_ids"].tolist() == [[10, 11, 99, 0, 0, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0]]
    assert inputs["decoder_input_ids"].tolist() == [[3, 12, 13, 14, 99, 0]]
    assert targets.tolist() == [[12, 13, 14, 99, IGNORED, IGNORED]]
