"""Seeds depend on every part; a context counts time down."""

from __future__ import annotations

from time import monotonic

from hypothesis import given
from hypothesis import strategies as st

from agentrl.context import Context, Unlimited
from agentrl.points import Patch, combined
from agentrl.seeds import derive
from agentrl.suggest import did_you_mean

PARTS = st.lists(st.one_of(st.integers(0, 99), st.text(max_size=4)), min_size=1, max_size=4)


@given(PARTS)
def test_a_seed_repeats_and_fits_63_bits(parts: list[int | str]):
    assert derive(*parts) == derive(*parts)
    assert 0 <= derive(*parts) < 2**63


@given(st.lists(PARTS.map(tuple), unique=True, min_size=2, max_size=2))
def test_other_parts_give_another_seed(pair: list[tuple[int | str, ...]]):
    assert derive(*pair[0]) != derive(*pair[1])


def test_a_number_is_not_its_digits():
    assert derive(1) != derive("1")
    assert derive(1, 23) != derive(12, 3)


def test_the_seed_of_today_is_the_seed_of_tomorrow():
    """A stored run must replay with later versions."""
    assert derive("tasks", 0, "train") == 1075025889745975114


def test_remaining_time():
    assert Context().remaining_s(30.0) == 30.0
    assert Context(deadline=monotonic() - 1).remaining_s(30.0) == 0.0
    assert 4.0 < Context(deadline=monotonic() + 5).remaining_s(30.0) <= 5.0
    assert Context(deadline=monotonic() + 50).remaining_s(30.0) == 30.0


async def test_an_unlimited_slot_opens_at_once():
    async with Unlimited().slot() as waited_s:
        assert waited_s == 0.0


def test_patches_add_up():
    patches = [Patch(lr=1.0, reset_reference=True), Patch(reset_optimizer=True), Patch(lr=2.0)]
    assert combined(patches) == Patch(lr=2.0, reset_reference=True, reset_optimizer=True)


def test_hints():
    assert did_you_mean("stpes", ["steps", "seed"]) == "; did you mean 'steps'?"
    assert did_you_mean("zzz", ["steps", "seed"]) == "; known: seed, steps"
    assert did_you_mean("zzz", []) == ""
