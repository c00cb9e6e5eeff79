"""The small network, its quantization and its calibration data, as the tests of quantization have them; a detector."""

from torch import nn

from tests.quantization.conftest import images, loaded_net, net_class, one_thread, run

__all__ = ["Detector", "images", "loaded_net", "net_class", "one_thread", "run"]


class Detector(nn.Module):
    """Boxes of the places whose score is above zero: as many as there are."""

    def __init__(self):
        super().__init__()
        self.body, self.scores, self.boxes = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 1, 1), nn.Conv2d(8, 4, 1)

    def forward(self, images):
        maps = self.body(images).relu()
        found = zip(self.scores(maps).flatten(1), self.boxes(maps).flatten(2), strict=True)
        return [{"boxes": boxes.T[scores > 0], "scores": scores[scores > 0]} for scores, boxes in found]
