"""Energy of a forward, modelled from counts: nothing here is measured, and reports say so.

Source: Horowitz, "Computing's Energy Problem (and What We Can Do About It)", ISSCC 2014: energies of operations in
45 nm at 0.9 V, and of memory reads of 64 bits. The model takes each stored weight from DRAM once a forward (of an
embedding table, nothing), and each activation that a multiplying layer makes to and from a 1 MB on-chip memory once.
What it leaves out (control, element-wise operations, weights that are read again) is not small on a processor, so
compare models by it rather than take it for joules of a device.
"""

from __future__ import annotations

from ..work import Work

#: bits of the operands -> picojoules of a multiplication and of the addition that follows
_MAC_PJ = {8: 0.2 + 0.1, 16: 1.1 + 0.4, 32: 3.7 + 0.9}  # int8 with int32 sums; float16; float32
_DRAM_PJ_A_BYTE = 1300 / 8  # the lower end of 1.3 to 2.6 nJ
_ON_CHIP_PJ_A_BYTE = 100 / 8
_PJ_A_MICROJOULE = 1e6


def mac_picojoules(bits: int) -> float:
    """Energy of one multiply-accumulate on operands of some bits: of the next wider operands in the table."""
    return next((energy for width, energy in _MAC_PJ.items() if bits <= width), _MAC_PJ[32])


def microjoules(work: Work) -> float:
    """Energy of one forward: arithmetic by its bits, weights read, activations written and read."""
    arithmetic = sum(count * mac_picojoules(bits) for bits, count in work.macs.items())
    traffic = work.read_bytes * _DRAM_PJ_A_BYTE + 2 * work.activation_bytes * _ON_CHIP_PJ_A_BYTE
    return (arithmetic + traffic) / _PJ_A_MICROJOULE
