"""What known cards can do at most: products of bfloat16 matrices with sums in float32, dense, and memory traffic.

By NVIDIA's data sheets of the cards (H100, H200, A100, L40S, L4, A10: product data sheets; GeForce: the architectures'
white papers, "peak BF16 tensor TFLOPS with FP32 accumulate"). Figures "with sparsity" are halved. A card is known by
what its driver calls it; of others no share of a roofline is given.
"""

from __future__ import annotations

from typing import NamedTuple


class Peak(NamedTuple):
    """Of one card: floating point operations and bytes, a second."""

    flops: float
    bandwidth: float


CARDS = {  # the longer name first where one begins with another
    "H100 PCIe": Peak(756e12, 2.00e12),
    "H100 NVL": Peak(835e12, 3.90e12),
    "H100": Peak(989e12, 3.35e12),  # SXM
    "H200 NVL": Peak(835e12, 4.80e12),
    "H200": Peak(989e12, 4.80e12),
    "A100-SXM4-40GB": Peak(312e12, 1.555e12),
    "A100-PCIE-40GB": Peak(312e12, 1.555e12),
    "A100-SXM4-80GB": Peak(312e12, 2.039e12),
    "A100 80GB PCIe": Peak(312e12, 1.935e12),
    "L40S": Peak(362e12, 0.864e12),
    "L4": Peak(121e12, 0.300e12),
    "A10": Peak(125e12, 0.600e12),
    "RTX 3090": Peak(71e12, 0.936e12),
    "RTX 4090": Peak(165e12, 1.008e12),
    "RTX 5090": Peak(209e12, 1.792e12),
}
QUALIFIED = (" Ti", " D", " Laptop", "G")  # after a name they make another card of it


def peak_of(device_kind: str) -> Peak | None:
    """The peaks of a device, by the name JAX has for it; None if it is not known."""
    for name, peak in CARDS.items():
        before, found, after = device_kind.partition(name)
        if found and before in ("", "NVIDIA ", "NVIDIA GeForce ") and not after.startswith(QUALIFIED):
            return peak if not after[:1].isdigit() else None
    return None
