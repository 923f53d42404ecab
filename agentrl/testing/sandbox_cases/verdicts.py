"""Verdicts: functions of what this side saw, empty when the promise held."""

from __future__ import annotations

import ast
from typing import cast

from agentrl.sandbox import ExecStatus
from agentrl.testing.sandbox_cases.case import Seen, Verdict

OVER_S = 6.0
"""What an answer may come late; a busy machine is slow, not wrong."""


def every(*verdicts: Verdict) -> Verdict:
    """All of them; the first that fails speaks."""
    return lambda seen: next((told for v in verdicts if (told := v(seen))), "")


def ends(*statuses: ExecStatus, step: int = -1) -> Verdict:
    """A step ends in one of these ways."""

    def verdict(seen: Seen) -> str:
        found = seen.results[step]
        if found.status in statuses:
            return ""
        told = found.error or found.stdout[:80]
        return f"status {found.status}, not {' or '.join(statuses)} ({told!r})"

    return verdict


def not_ok(seen: Seen) -> str:
    """The last step did not succeed."""
    return "status ok" if seen.last.status == "ok" else ""


def in_time(seconds: float, step: int = -1) -> Verdict:
    """A step answers after `seconds`, give or take a busy machine."""

    def verdict(seen: Seen) -> str:
        took_s = seen.took_s[step]
        return f"it took {took_s:.1f} s" if took_s > seconds + OVER_S else ""

    return verdict


def closed_in_time(seen: Seen) -> str:
    """Closing the sessions is not held up."""
    return f"closing took {seen.closed_s:.1f} s" if seen.closed_s > OVER_S else ""


def gives(value: str | None, step: int = -1) -> Verdict:
    """A step ends well with this value."""

    def verdict(seen: Seen) -> str:
        found = seen.results[step]
        right = (found.status, found.value) == ("ok", value)
        return "" if right else f"{found.status}, {found.value!r}, not {value!r} ({found.error})"

    return verdict


def is_not(value: str, step: int = -1) -> Verdict:
    """A step does not have this value."""
    return lambda seen: f"it gave {value}" if seen.results[step].value == value else ""


def prints(text: str, step: int = -1) -> Verdict:
    """A step has exactly this output."""

    def verdict(seen: Seen) -> str:
        found = seen.results[step].stdout
        return "" if found == text else f"it printed {found[:200]!r}"

    return verdict


def prints_not(word: str, step: int = -1) -> Verdict:
    """A step's output does not hold this word."""
    return lambda seen: f"it printed {word!r}" if word in seen.results[step].stdout else ""


def fails_with(*kinds: str, step: int = -1) -> Verdict:
    """A step ends in an exception of one of these kinds."""

    def verdict(seen: Seen) -> str:
        found = seen.results[step]
        error = found.error or ""
        right = found.status == "error" and error.startswith(kinds)
        return "" if right else f"{found.status}, {error!r}"

    return verdict


def tried(seen: Seen) -> dict[str, str]:
    """How each attempt went, as the code told. Raises AssertionError when it told nothing."""
    try:
        found: object = ast.literal_eval(seen.last.value or "")
    except (ValueError, SyntaxError):
        found = None
    if not isinstance(found, dict):
        raise AssertionError(f"no outcomes but {seen.last.status}: {seen.last.error}")
    return cast("dict[str, str]", found)


def refused(seen: Seen) -> str:
    """None of the attempts was done."""
    done = [name for name, outcome in tried(seen).items() if outcome == "done"]
    return f"allowed: {', '.join(done)}" if done else ""


def secret_kept(seen: Seen) -> str:
    """No secret is in any output."""
    return "a secret came out" if any(s in seen.text for s in seen.stage.secrets) else ""


def untouched(seen: Seen) -> str:
    """The folder outside is as it was."""
    return "; ".join(seen.stage.changes())


def unreached(seen: Seen) -> str:
    """Nothing came to any socket."""
    return ", ".join(f"it reached {name}" for name in seen.stage.reached())


def unharmed(seen: Seen) -> str:
    """The foreign process is as it was."""
    return seen.stage.harm()


def unwritten(seen: Seen) -> str:
    """No file turned up where none may."""
    found = seen.stage.written()
    return f"it wrote {', '.join(found)}" if found else ""


def nothing_left(seen: Seen) -> str:
    """No process outlives its session."""
    left = seen.stage.processes()
    return f"{len(left)} processes outlive the session" if left else ""


def nothing_passed(seen: Seen) -> str:
    """No descriptor came over to this side."""
    found = seen.stage.descriptors()
    return f"this process holds {', '.join(found)}" if found else ""


def small_here(seen: Seen) -> str:
    """This side's memory did not grow with what the code did."""
    grown = seen.stage.grown_mb()
    return f"this process grew by {grown:.0f} MB" if grown > 256 else ""


def within_memory(seen: Seen) -> str:
    """The peak that was reported stays near the limit."""
    peak = max(result.peak_rss_mb for result in seen.results)
    return f"{peak:.0f} MB were used" if peak > seen.limits.memory_mb + 256 else ""


def lost(seen: Seen) -> str:
    """The interpreter ended, and the result says so."""
    return "" if seen.last.state_lost else "state_lost is False"


def fewer_than(limit: int) -> Verdict:
    """The number that the code printed is below `limit`; nothing printed counts as 0."""

    def verdict(seen: Seen) -> str:
        text = seen.last.stdout.strip()
        return f"{text} were allowed" if text.isdigit() and int(text) >= limit else ""

    return verdict


def not_this_host(seen: Seen) -> str:
    """What was read of private system files differs from what they hold here."""
    found = tried(seen)
    same = [path for path, digest in seen.stage.digests().items() if found.get(path) == digest]
    return f"it read {', '.join(same)}" if same else ""
