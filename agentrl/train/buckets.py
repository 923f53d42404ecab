"""Weights in pieces of bounded size, on their way from a learner to an engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from agentrl.engine.base import Bucket

BUCKET_BYTES = 256 * 2**20
"""Size from which a new bucket starts."""


def buckets(tensors: Mapping[str, Tensor]) -> Iterator[Bucket]:
    """The tensors in order, live: the engine copies what it keeps."""
    bucket: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        bucket[name] = tensor
        size += tensor.numel() * tensor.element_size()
        if size >= BUCKET_BYTES:
            yield bucket
            bucket, size = {}, 0
    if bucket:
        yield bucket


__all__ = ["BUCKET_BYTES", "buckets"]
