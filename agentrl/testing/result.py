"""What a conformance kit reports, and how one check is run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, ParamSpec, TypeAlias

P = ParamSpec("P")

Body: TypeAlias = Callable[[], Awaitable[str | None]]
"""Raises to fail; returns a remark (a measured fact, why it was skipped) or None."""


Kind: TypeAlias = Literal["check", "known leak", "skipped"]


class Check(NamedTuple):
    """One named promise and what tests it."""

    name: str
    body: Body


def promise(body: Callable[P, Awaitable[str | None]], *args: P.args, **kwargs: P.kwargs) -> Check:
    """A check named after the first line of its docstring, which states the promise."""
    first = (body.__doc__ or "").partition("\n")[0].rstrip(".")
    return Check(first[:1].lower() + first[1:], partial(body, *args, **kwargs))


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One promise of a contract, tested."""

    name: str
    ok: bool
    detail: str = ""
    """What went wrong, or a remark."""
    kind: Kind = "check"
    """`known leak`: it did not hold, as is documented, and `ok` is True; `skipped`: nothing ran."""


def failures(results: Iterable[CheckResult]) -> list[CheckResult]:
    """The checks that did not hold."""
    return [result for result in results if not result.ok]


async def run_checks(checks: Iterable[Check], *, deadline_s: float = 60.0) -> list[CheckResult]:
    """Run checks one after another; each has its own deadline."""
    return [await _run(check, deadline_s) for check in checks]


async def _run(check: Check, deadline_s: float) -> CheckResult:
    try:
        async with asyncio.timeout(deadline_s):
            remark = await check.body()
    except TimeoutError:
        return CheckResult(check.name, False, f"not finished within {deadline_s:g} s")
    except Exception as error:  # noqa: BLE001  the border to the code under test
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        text = " ".join(str(error).split()) or "assertion failed"
        return CheckResult(check.name, False, f"{kind}{text}")
    return CheckResult(check.name, True, remark or "")


def expect(condition: bool, otherwise: str) -> None:
    """Raise AssertionError with a sentence unless `condition` holds; works under `python -O`."""
    if not condition:
        raise AssertionError(otherwise)
