"""What torch's CPU allocator really held, to hold estimates against."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false
# torch leaves the profiler's records untyped; what leaves this file is typed.

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Callable[[], object]) -> int:
    """Bytes that tensors on the CPU took at most at once during `work`, beyond those before it.

    Every allocation and release is counted, those inside kernels too; resident memory is not read.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    profiler = recorded.profiler
    assert profiler is not None
    assert profiler.kineto_results is not None
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


__all__ = ["peak_bytes"]
