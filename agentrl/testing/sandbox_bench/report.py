"""Running the comparisons, and what is written down of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from agentrl.errors import SandboxUnavailable, UserError
from agentrl.suggest import did_you_mean
from agentrl.testing.sandbox_bench.gates import GATES, Gate, Setting
from agentrl.testing.sandbox_bench.ours import CORES, overshoots, pool
from agentrl.testing.sandbox_bench.peers import Missing
from agentrl.testing.sandbox_bench.timing import Spread, in_turns

OVERSHOOT = "timeout overshoot"
OVERSHOOT_S = 0.050
_LIMIT_S = 0.5
_SLOW_SHARE = 3

Verdict = Literal["PASS", "MISS", "skipped"]


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison, measured; times in ms, memory in MB."""

    name: str
    verdict: Verdict
    ratio: float | None = None
    """Best against best."""
    median_ratio: float | None = None
    least: float | None = None
    unit: str = "ms"
    ours: Spread | None = None
    peer: Spread | None = None
    what: str = ""
    """Both sides in words, or why it was skipped."""
    isolation: str = ""
    load: float = 0.0
    """Runnable processes of the machine, averaged over the last minute, when it was measured."""


def chosen(only: Sequence[str]) -> list[str]:
    """Names of the comparisons to run, all without a choice. Raises UserError."""
    known = [gate.name for gate in GATES] + [OVERSHOOT]
    for word in only:
        if not any(word in name for name in known):
            raise UserError(f"there is no comparison {word!r}{did_you_mean(word, known)}")
    return [name for name in known if not only or any(word in name for word in only)]


async def measure(
    setting: Setting, names: Sequence[str], rounds: int, told: Callable[[Line], None]
) -> list[Line]:
    """Run the named comparisons one after another; `told` hears of each at once.

    A peer that takes seconds gets a third of the rounds beyond thirty, never fewer than thirty.
    """
    lines: list[Line] = []
    for gate in GATES:
        if gate.name in names:
            enough = max(min(rounds, 30), rounds // _SLOW_SHARE) if gate.slow else rounds
            lines.append(await _compared(gate, setting, enough))
            told(lines[-1])
    if OVERSHOOT in names:
        lines.append(await _overshoot(setting, rounds))
        told(lines[-1])
    return lines


async def _compared(gate: Gate, setting: Setting, rounds: int) -> Line:
    try:
        async with gate.set_up(setting) as sides:
            pair = await in_turns(sides.ours, sides.peer, rounds)
    except (Missing, SandboxUnavailable) as error:
        return Line(gate.name, "skipped", what=str(error))
    scale = 1.0 if gate.unit == "MB" else 1000.0
    return Line(
        gate.name,
        "PASS" if pair.ratio >= gate.least else "MISS",
        ratio=pair.ratio,
        median_ratio=pair.median_ratio,
        least=gate.least,
        unit=gate.unit,
        ours=_scaled(pair.ours, scale),
        peer=_scaled(pair.peer, scale),
        what=f"{gate.ours}; against {gate.peer}",
        isolation=sides.isolation,
        load=round(os.getloadavg()[0], 2),
    )


async def _overshoot(setting: Setting, rounds: int) -> Line:
    """The 99th percentile with twice as many endless loops as cores."""
    samples: list[float] = []
    runs = 2 * CORES
    try:
        async with pool(setting.options) as warm:
            while len(samples) < max(100, rounds * runs):
                samples += await overshoots(warm, _LIMIT_S, runs)
            isolation = warm.isolation
    except SandboxUnavailable as error:
        return Line(OVERSHOOT, "skipped", what=str(error))
    found = Spread.of(samples)
    return Line(
        OVERSHOOT,
        "PASS" if found.p99 <= OVERSHOOT_S else "MISS",
        ratio=OVERSHOOT_S / found.p99,
        least=1.0,
        ours=_scaled(found, 1000.0),
        what=f"99th percentile beyond a limit of {_LIMIT_S:g} s, {runs} endless loops at once; "
        f"against {OVERSHOOT_S * 1000:g} ms",
        isolation=isolation,
        load=round(os.getloadavg()[0], 2),
    )


def _scaled(spread: Spread, scale: float) -> Spread:
    parts = {
        name: value if name == "n" else value * scale for name, value in asdict(spread).items()
    }
    return Spread(**parts)
