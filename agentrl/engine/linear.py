"""Linear layers of the in-process engine, and the proof that a row's bits ignore its neighbours.

On a CPU the weights are packed once for oneDNN, about twice as fast here as torch's default
matrix product. A matrix product may choose another kernel, hence another order of summation, for
another number of rows; `invariant_rows` probes on the machine at hand that it does not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_ROWS = 8
"""Flat batches are padded to this many rows; below four, kernels of another kind are chosen."""

PROBED_ROWS = (8, 9, 15, 24, 64, 100, 192, 384)


class Linear:
    """y = x W^T + b over rows [n, in] -> [n, out]; `pack` follows every change of the weight."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, packed: bool) -> None:
        self.weight = weight
        """Shape [out, in]; the engine's own storage."""
        self.bias = bias
        self.packed = packed
        self._forward: Callable[[Tensor], Tensor] = self._plain

    def use(self, *, packed: bool) -> None:
        """Choose the kernel."""
        if packed != self.packed:
            self.packed = packed
            self.pack()

    def pack(self) -> None:
        """Take up the weight's present values."""
        if not self.packed:
            self._forward = self._plain
            return
        reordered = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous(), 64)
        product, bias = torch.ops.mkldnn._linear_pointwise.default, self.bias

        def forward(x: Tensor) -> Tensor:
            """The product with the reordered weight."""
            return product(x, reordered, bias, "none", [], "")

        self._forward = forward

    def __call__(self, x: Tensor) -> Tensor:
        return self._forward(x)

    def _plain(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN's packed product exists for this device and type."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype is torch.float32


def prove_rows(linear: Linear) -> bool:
    """Whether rows are independent, with torch's own product if the packed one fails."""
    if invariant_rows(linear):
        return True
    linear.use(packed=False)
    return invariant_rows(linear)


def invariant_rows(linear: Linear) -> bool:
    """Whether every row of a product has the same bits at every probed batch size and place."""
    out_features, in_features = linear.weight.shape
    generator = torch.Generator().manual_seed(in_features * 31 + out_features)
    x = torch.randn(max(PROBED_ROWS), in_features, generator=generator)
    x = x.to(linear.weight.device, linear.weight.dtype)
    reference = linear(x)
    for n in PROBED_ROWS:
        order = (torch.arange(n) * 7 + 3) % x.shape[0]
        if not torch.equal(linear(x[order].contiguous()), reference[order]):
            return False
    return True
