"""The sandbox against its alternatives, both sides in turns: every gate of its documentation.

    python benchmarks/sandbox.py [--rounds 30] [--only NAME ...]
    python benchmarks/sandbox.py --soak 100000

Starts a Docker daemon and makes an image of this Python where none is running and this is root;
peers that are missing are skipped and named. Writes benchmarks/results/sandbox.json, in which a gate
that was not measured this time keeps its line, and the soak benchmarks/results/sandbox_soak.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
from docker_image import daemon, make_image
from machine import about_this_machine

from agentrl.cli.sandbox_bench import row
from agentrl.testing.sandbox_bench import Line, Setting, chosen, measure, soak

RESULTS = Path(__file__).parent / "results"
IMAGE = "agentrl-sandbox-bench"
REST_S = 40.0
"""Zygotes that wait for the next wave of sessions are kept for 20 to 30 s."""
PEERS = ("docker", "jupyter-client", "ipykernel", "sympy")


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _write(name: str, found: dict[str, object]) -> None:
    about = about_this_machine() | {"peers": _versions(), "bubblewrap": bool(shutil.which("bwrap"))}
    RESULTS.joinpath(name).write_text(json.dumps({**found, "machine": about}, indent=1) + "\n")


def _compare(rounds: int, only: list[str]) -> bool:
    names = chosen(only)
    with daemon() as up:
        if up and any("docker" in name for name in names):
            make_image(IMAGE)
        setting = Setting(image=IMAGE)
        lines = asyncio.run(measure(setting, names, rounds, lambda line: click.echo(row(line))))
    _write("sandbox.json", {"gates": _merged(lines, rounds)})
    return all(line.verdict != "MISS" for line in lines)


def _merged(lines: list[Line], rounds: int) -> dict[str, object]:
    """What was measured now beside what other calls have measured; each gate was one run."""
    path = RESULTS / "sandbox.json"
    gates = json.loads(path.read_text())["gates"] if path.exists() else {}
    for line in lines:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        gates[line.name] = _rounded(line) | {"rounds": rounds, "when": when}
    return gates


def _rounded(line: Line) -> dict[str, object]:
    """Four digits are more than a measurement is worth."""
    return json.loads(
        json.dumps(asdict(line)), parse_float=lambda text: float(f"{float(text):.4g}")
    )


def _soak(runs: int) -> bool:
    found = asyncio.run(soak(Setting(), runs, lambda text: print(text, flush=True), REST_S))
    print(
        f"{runs / found.seconds:.0f} runs/s, {found.wrong} wrong, grown: {found.grown or 'nothing'}"
    )
    _write("sandbox_soak.json", asdict(found))
    return not found.grown and not found.wrong


def main() -> None:
    """Exit code 1 when a gate is missed or something has grown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--soak", type=int, default=0)
    given = parser.parse_args()
    good = _soak(given.soak) if given.soak else _compare(given.rounds, given.only)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
