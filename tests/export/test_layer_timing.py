"""Times of layers in ONNX Runtime: which node belongs to which layer."""

from __future__ import annotations

import pytest

from compresskit.export.layer_timing import owners


def test_nodes_go_by_their_own_name_or_by_the_output_of_what_they_were_merged_with(tmp_path):
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node

    def conv(name, source, result, scope):
        made = node("Conv", [source, "w"], [result], name=name)
        entry = made.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.name_scopes", str(["", scope, "conv2d"])
        return made

    nodes = [
        conv("first", "x", "x1", "stem"),
        conv("left", "x1", "x2", "left"),
        conv("right", "x1", "x3", "right"),
        node("Add", ["x2", "x3"], ["sum"], name="add"),
        node("Relu", ["sum"], ["out"], name="relu"),
        conv("unnamed", "out", "y", "other"),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    # one of the branches took in the addition and the activation; the other runs under its own name
    timed = ["first", "left", "out", "unnamed", "add"]
    found = owners(tmp_path / "m.onnx", {"stem", "left", "right"}, timed)
    assert found == {"first": "stem", "left": "left", "out": "right"}
