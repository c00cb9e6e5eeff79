"""Functions are replaced under every name while the context is open, and are back afterwards."""

import types
import warnings

import pytest
import torch
from torch import nn

from compresskit.export.exporters.branch_free.detection import batched_nms
from compresskit.export.exporters.branch_free.replaced import branch_free, no_deprecations
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.onnx import export_onnx

ops = pytest.importorskip("torchvision.ops")
boxes_module = pytest.importorskip("torchvision.ops.boxes")
roi_heads = pytest.importorskip("torchvision.models.detection.roi_heads")


def test_names_that_other_modules_gave_are_replaced_too(monkeypatch):
    own, original = types.ModuleType("own"), boxes_module.batched_nms
    own.suppress = original
    monkeypatch.setitem(__import__("sys").modules, "own", own)
    with pytest.raises(KeyError), branch_free():
        assert own.suppress is boxes_module.batched_nms is ops.batched_nms is batched_nms
        raise KeyError
    assert own.suppress is boxes_module.batched_nms is ops.batched_nms is original


def test_other_warnings_stay():
    with pytest.warns(FutureWarning, match="another"), no_deprecations():
        warnings.warn("`create_unbacked_symint` is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("another", FutureWarning, stacklevel=1)


class Detector(nn.Module):
    """A class and a box a cell; those above a threshold are suppressed, sorted and given masks and keypoints."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Conv2d(3, 8, 3, 4, 1)

    def forward(self, images):
        return [self.found_in(image) for image in images]

    def found_in(self, image):
        values = self.maps(image[None])[0].flatten(1).T
        corners = values[:, :2].sigmoid() * 8
        boxes = torch.cat([corners, corners + 2 + values[:, 2:4].sigmoid() * 6], 1)
        kept = torch.where(values[:, 4] > 0)[0]
        boxes, scores, labels = boxes[kept], values[kept, 4], (values[kept, 5] > 0).long()
        best = ops.batched_nms(boxes, scores, labels, 0.3)
        boxes, scores, labels = boxes[best], scores[best], labels[best]
        shapes = torch.arange(36.0).reshape(1, 1, 6, 6) * scores[:, None, None, None]
        points, _ = roi_heads.heatmaps_to_keypoints(shapes.sin(), boxes)
        masks = roi_heads.paste_masks_in_image(shapes.sin(), boxes, (16, 16))
        return {"boxes": boxes, "labels": labels, "scores": scores, "masks": masks, "keypoints": points}


def test_a_detector_becomes_a_file_that_takes_any_number_of_boxes(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = Detector().eval()
    image = torch.randn(3, 16, 16)
    program = export_program(model, ([image],))
    export_onnx(program, tmp_path / "detector.onnx")
    session = runtime.InferenceSession(str(tmp_path / "detector.onnx"))
    (entry,) = session.get_inputs()
    counts = set()
    for given in (image, image.flip(2), image * 0 - 10.0 * torch.sign(model.maps.weight[4, :, 1, 1])[:, None, None]):
        with torch.no_grad():
            (wanted,) = model([given])
        found = session.run(None, {entry.name: given.detach().numpy()})
        counts.add(len(wanted["boxes"]))
        for value, array in zip(wanted.values(), found, strict=True):
            torch.testing.assert_close(torch.from_numpy(array), value, atol=1e-3, rtol=1e-4)
    assert len(counts) > 1


class Translator(nn.Module):
    """torch's own transformer asks whether the mask that it is given is causal."""

    def __init__(self):
        super().__init__()
        self.net = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

    def forward(self, source, target):
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.net(source, target, tgt_mask=mask)


def test_a_given_mask_is_not_looked_at():
    torch.manual_seed(0)
    model = Translator().eval()
    given = (torch.randn(3, 5, 8), torch.randn(3, 4, 8))
    program = export_program(model, given)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(*given), model(*given), atol=1e-5, rtol=1e-4)
