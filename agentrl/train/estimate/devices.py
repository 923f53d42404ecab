"""What a device can do: data sheets for the GPUs, a measurement for one CPU core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentrl.errors import UserError
from agentrl.suggest import did_you_mean

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Device:
    """Peaks, and the shares of them that real kernels are expected to reach."""

    name: str
    memory: float
    """Bytes."""
    bf16_flops: float
    """Dense multiply-adds in bf16, counted as two operations, per second."""
    fp32_flops: float
    bandwidth: float
    """Bytes per second between memory and processor."""
    link: float
    """Bytes per second out of one device to its neighbours in the same node."""
    network: float
    """Bytes per second out of one device to other nodes."""
    bf16_share: float = 0.5
    """Of the peak, in the learner's large products."""
    fp32_share: float = 0.5
    bandwidth_share: float = 0.7
    """Of the peak, while decoding."""
    layer_s: float = 40e-6
    """Seconds a decoded layer takes however few rows there are: kernel launches."""
    overhead: float = 1.5 * GIB
    """Bytes held by the driver's context, libraries and fragmentation."""

    def flops(self, dtype: str) -> float:
        """Operations per second reached in `dtype`."""
        if dtype == "bfloat16":
            return self.bf16_share * self.bf16_flops
        return self.fp32_share * self.fp32_flops


DEVICES: Mapping[str, Device] = {
    "H200": Device("H200", 141e9, 989e12, 67e12, 4.8e12, 450e9, 50e9),
    "H100": Device("H100", 80e9, 989e12, 67e12, 3.35e12, 450e9, 50e9),
    "A100": Device("A100", 80e9, 312e12, 19.5e12, 2.04e12, 300e9, 25e9),
    "L40S": Device("L40S", 48e9, 362e12, 91.6e12, 0.864e12, 32e9, 12.5e9),
    "CPU": Device(
        "CPU",
        memory=16 * GIB,
        bf16_flops=440e9,
        fp32_flops=85e9,
        bandwidth=32e9,
        link=4e9,
        network=1e9,
        bf16_share=0.42,
        fp32_share=0.9,
        layer_s=250e-6,
        overhead=0.4 * GIB,
    ),
}
"""SXM boards with NVLink (H200, H100, A100 of 80 GB), a PCIe card (L40S), one core of a server CPU.

Data sheets give GPU peaks without sparsity; links and networks are one direction of what such nodes
usually have (NVLink, PCIe 4 x16, 100 to 400 Gbit/s a GPU). The core's rates are those of one with AVX-512
and its bf16 products, as benchmarks/estimate.py measured them; its shares were fitted there too.
"""


def device_of(name: str) -> Device:
    """Raises UserError with the nearest name."""
    by_upper = {known.upper(): device for known, device in DEVICES.items()}
    if name.upper() not in by_upper:
        raise UserError(f"device={name} is not known{did_you_mean(name.upper(), DEVICES)}")
    return by_upper[name.upper()]


__all__ = ["DEVICES", "GIB", "Device", "device_of"]
