"""How the benchmark counts and compares; what it measures is no test's business."""

from __future__ import annotations

import os
import sys

import pytest

from agentrl.cli.main import run
from agentrl.cli.sandbox_bench import row
from agentrl.errors import UserError
from agentrl.testing.sandbox_bench import GATES, Line, Setting, chosen, soak
from agentrl.testing.sandbox_bench.census import census, descendants
from agentrl.testing.sandbox_bench.soak import MIXTURE, grown_since
from agentrl.testing.sandbox_bench.timing import Pair, Spread, in_turns, quantile

linux = pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux")


def test_quantiles_by_hand():
    hundred = [float(n) for n in range(1, 101)]
    assert [quantile(hundred, share) for share in (0.1, 0.5, 0.99, 1.0)] == [10, 50, 99, 100]
    assert quantile([7.0], 0.99) == 7.0
    found = Spread.of([3.0, 1.0, 2.0, 10.0])
    assert (found.n, found.median, found.least, found.p90, found.p99) == (4, 2.5, 1.0, 10.0, 10.0)


def test_ratios_say_how_many_times_less_we_need():
    pair = Pair(ours=Spread.of([2.0, 4.0, 6.0]), peer=Spread.of([10.0, 20.0, 60.0]))
    assert (pair.ratio, pair.median_ratio) == (5.0, 5.0)


async def test_sides_take_turns():
    order: list[str] = []

    async def ours() -> float:
        order.append("a")
        return 1.0

    async def peer() -> float:
        order.append("b")
        return float(len(order))

    pair = await in_turns(ours, peer, 4)
    assert "".join(order) == "ab" + "ba" + "ab" + "ba" + "ab"
    assert (pair.ours.n, pair.peer.n, pair.peer.least) == (4, 4, 3.0)


def test_comparisons_are_chosen_by_part_of_their_name():
    assert chosen(["docker exec"]) == ["throughput / docker exec", "docker back end / docker exec"]
    assert len(chosen([])) == len(GATES) + 1
    with pytest.raises(UserError, match=r"no comparison 'throughput / dcker run'.*did you mean"):
        chosen(["throughput / dcker run"])


def test_a_line_says_what_was_measured():
    ours, peer = Spread.of([2.0, 3.0]), Spread.of([60.0, 61.0])
    line = Line("a / b", "PASS", 30.0, 24.2, 20.0, "ms", ours, peer)
    told = "30.00x (at least 20x)   ours 2, median 2.5; peer 60, median 60.5 ms"
    assert row(line).endswith(told)
    assert row(Line("a / b", "skipped", what="no Docker daemon answers")).endswith("answers")


def test_growth_is_what_rest_holds_beyond_the_busy_first_half():
    first = [{"files": 3, "memory_mb": 100}, {"files": 7, "memory_mb": 120}]
    assert grown_since(first, {"files": 7, "memory_mb": 148}) == []
    assert grown_since(first, {"files": 8, "memory_mb": 149}) == [
        "files: 7 -> 8", "memory_mb: 120 -> 149",
    ]  # fmt: skip


@linux
def test_the_census_sees_what_we_hold():
    before = census()
    with open(os.devnull) as first, open(os.devnull) as second:
        assert census().descriptors == before.descriptors + 2
        assert not first.closed
        assert not second.closed
    assert before.processes == len(descendants(os.getpid())) + 1
    assert before.mounts > 0


@linux
@pytest.mark.slow
async def test_a_short_soak_grows_nothing():
    found = await soak(Setting(), 10 * len(MIXTURE), lambda _: None)
    assert (found.wrong, found.grown) == (0, ())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--rounds", "0"], "--rounds"),
        (["--only", "nothing"], "no comparison 'nothing'"),
        (["sandbox=docker"], "measures sandbox=local"),
    ],
)
def test_bench_that_cannot_begin(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert run(["sandbox", "bench", *argv]) == 2
    assert words in capsys.readouterr().err
