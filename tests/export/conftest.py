"""The small network, its quantization and its calibration data, as the tests of quantization have them."""

from tests.quantization.conftest import images, loaded_net, net_class, one_thread, run

__all__ = ["images", "loaded_net", "net_class", "one_thread", "run"]
