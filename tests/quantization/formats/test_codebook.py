"""Weight sharing: k-means by hand and by brute force, zeros kept, stored exactly, tunable."""

import copy
import itertools

import pytest
import torch

from compresskit.artifact.codecs.storage import decode_all, encode_all
from compresskit.artifact.edits import replay
from compresskit.quantization.formats.codebook import kmeans, nearest_centroid, share_weights
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.quantization.tables import CODEBOOK_STARTS
from compresskit.training.context import Context


def cost(values, centroids):
    return float((values.reshape(-1, 1) - centroids).square().amin(1).sum())


@pytest.mark.parametrize("start", CODEBOOK_STARTS)
def test_two_clusters_by_hand(start):
    assert kmeans(torch.tensor([[0.0, 1.0], [10.0, 12.0]]), 2, start).tolist() == [0.5, 11.0]


def test_starts_by_hand():
    ordered, generator = torch.tensor([0.0, 1.0, 2.0, 10.0]), torch.Generator().manual_seed(0)
    assert CODEBOOK_STARTS.load("linear")(ordered, 3, generator).tolist() == [0.0, 5.0, 10.0]
    assert CODEBOOK_STARTS.load("density")(ordered, 2, generator).tolist() == [1.0, 10.0]
    drawn = CODEBOOK_STARTS.load("random")(ordered, 2, generator).tolist()
    assert drawn == sorted(drawn) and set(drawn) <= {0.0, 1.0, 2.0, 10.0}


def test_agrees_with_scikit_learn_from_the_same_start():
    from sklearn.cluster import KMeans

    values = torch.randn(400, generator=torch.Generator().manual_seed(1)).double()
    start = torch.linspace(float(values.min()), float(values.max()), 8).reshape(-1, 1).double()
    peer = KMeans(8, init=start.numpy(), n_init=1, tol=0, max_iter=500).fit(values.reshape(-1, 1).numpy())
    ours = kmeans(values, 8, "linear")
    assert ours.tolist() == pytest.approx(sorted(peer.cluster_centers_.reshape(-1).tolist()), abs=1e-4)


def test_near_the_best_of_all_partitions():
    values = torch.tensor([-3.0, -2.9, 0.1, 0.2, 0.15, 4.0, 5.0, 4.6])
    ordered = values.sort().values
    best = min(
        sum(float((part - part.mean()).square().sum()) for part in (ordered[:a], ordered[a:b], ordered[b:]))
        for a, b in itertools.combinations(range(1, 8), 2)
    )
    assert cost(values, kmeans(values, 3)) == pytest.approx(best, rel=1e-5)


def test_nearest_centroid_is_the_nearest():
    values, centroids = torch.randn(7, 9), torch.tensor([-1.0, 0.0, 0.5, 2.0])
    assert torch.equal(nearest_centroid(values, centroids), (values.unsqueeze(-1) - centroids).abs().argmin(-1))


def test_zeros_keep_index_zero_and_are_no_centroid():
    matrix = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 1.1]])
    centroids, indices = share_weights(matrix, 2, "linear", 0, keep_zeros="as-index-0")
    assert len(centroids) == 3
    assert indices.tolist() == [[0, 3, 0], [1, 0, 3]]
    assert float(centroids[2]) == pytest.approx(1.05)
    nothing, indices = share_weights(torch.zeros(2, 2), 3, "linear", 0, keep_zeros="as-index-0")
    assert nothing.tolist() == [0.0] * 7 and indices.tolist() == [[0, 0], [0, 0]]


def pruned_net(loaded_net):
    loaded = loaded_net()
    with torch.no_grad():
        for layer in (loaded.module.left, loaded.module.right, loaded.module.head):
            layer.weight[torch.rand_like(layer.weight) < 0.8] = 0
    loaded.storage["right.weight"] = "bitmap"
    return loaded


@pytest.mark.parametrize("coding", ["packed", "huffman"])
def test_pruned_weights_stay_zero_and_the_result_reloads(loaded_net, net_class, coding):
    loaded = pruned_net(loaded_net)
    zeros = loaded.module.right.weight == 0
    options = QuantizeOptions(scheme="codebook", bits=3, first_last="same", coding=coding)
    result = quantize(loaded, options, Context(original=loaded.clone()))
    assert torch.equal(loaded.module.right.weight == 0, zeros)
    assert len(torch.unique(loaded.module.right.weight)) <= 8
    assert "right.weight" not in loaded.storage
    entries = encode_all(dict(loaded.module.state_dict()), loaded.storage)
    with torch.device("meta"):
        rebuilt = net_class()
    replay(rebuilt, loaded.edits)
    rebuilt = rebuilt.to_empty(device="cpu").eval()
    rebuilt.load_state_dict(decode_all(entries), strict=True)
    inputs = torch.randn(2, 3, 8, 8)
    assert torch.equal(rebuilt(inputs), loaded.module(inputs))
    stored = sum(tensor.numel() * tensor.element_size() for tensor in entries.values())
    assert result.facts["tensor_bytes"] == stored
    assert result.facts["codebooks_bytes"] == 4 * (8 + 3 * 7)  # the first layer has no zeros


def test_centroids_are_tuned_by_the_sum_of_their_weights_gradients(loaded_net):
    loaded = pruned_net(loaded_net)
    quantize(loaded, QuantizeOptions(scheme="codebook", bits=2, first_last="same"), Context(original=loaded.clone()))
    layer = loaded.module.head
    reference = torch.nn.Linear(8, 5)
    with torch.no_grad():
        reference.weight.copy_(layer.weight)
        reference.bias.copy_(layer.bias)
    inputs = torch.randn(6, 8)
    layer(inputs).square().sum().backward()
    reference(inputs).square().sum().backward()
    codes = layer.codes("weight").long()
    expected = torch.stack([reference.weight.grad[codes == index].sum() for index in (1, 2, 3)])
    torch.testing.assert_close(layer.weight_codebook.grad, expected, rtol=1e-4, atol=1e-5)


def test_a_copy_has_its_own_codebook(loaded_net):
    loaded = pruned_net(loaded_net)
    quantize(loaded, QuantizeOptions(scheme="codebook"), Context(original=loaded.clone()))
    other = copy.deepcopy(loaded.module)
    with torch.no_grad():
        other.right.weight_codebook.zero_()
    assert bool((loaded.module.right.weight != 0).any())
    assert not bool((other.right.weight != 0).any())
