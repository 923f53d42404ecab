"""Gathering the warm interpreter's memory in huge pages, so that a fork has less to copy.

A fork copies an entry per page, and an exit takes each back: for the objects of numpy and sympy some
ten thousand. In pages of 2 MiB there are a few dozen, and a child that writes gets a small page of
its own all the same. Halves what a session costs; where the kernel cannot do it (before 6.1), nothing
is different.
"""

from __future__ import annotations

import contextlib
import ctypes

from agentrl_sandbox.inside import kernel

_HUGE = 2 << 20
_COLLAPSE = 25
"""`MADV_COLLAPSE` of `linux/mman.h`."""


def gather() -> int:
    """Collapse what lies in whole huge pages; how many bytes the kernel took for that."""
    gathered = 0
    with contextlib.suppress(OSError):
        for start, end in _writable_regions():
            with contextlib.suppress(OSError):
                kernel.call(
                    "madvise", ctypes.c_void_p(start), ctypes.c_size_t(end - start), _COLLAPSE
                )
                gathered += end - start
    return gathered


def _writable_regions() -> list[tuple[int, int]]:
    """Private memory without a file behind it, cut to whole huge pages. Raises OSError."""
    found: list[tuple[int, int]] = []
    with open("/proc/self/maps") as file:
        for line in file:
            span, rights, _, _, inode, *name = line.split()
            if rights != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
                continue
            low, high = (int(number, 16) for number in span.split("-"))
            start, end = -(-low // _HUGE) * _HUGE, high // _HUGE * _HUGE
            if start < end:
                found.append((start, end))
    return found
