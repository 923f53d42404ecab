"""Token truth (law 2 and 3) as properties over arbitrary rows, and a few rows spelled out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.transcript import SAMPLED, Origin, Segment, Transcript, head

LOGPROB = st.floats(-20, 0, width=32)


@st.composite
def segments(draw: st.DrawFn, origins: tuple[Origin, ...] = tuple(Origin)) -> Segment:
    origin = draw(st.sampled_from(origins))
    ids = draw(st.lists(st.integers(0, 50_000), min_size=1, max_size=6))
    n = len(ids)
    return Segment(
        origin,
        ids,
        logprobs=draw(st.lists(LOGPROB, min_size=n, max_size=n)) if origin in SAMPLED else None,
        version=draw(st.integers(0, 9)) if origin is Origin.MODEL else None,
        temperature=draw(st.sampled_from([0.5, 1.0])),
        entropies=[0.5] * n if origin is Origin.MODEL and draw(st.booleans()) else None,
    )


@st.composite
def rows(draw: st.DrawFn) -> Transcript:
    prompts = draw(st.lists(segments((Origin.PROMPT,)), max_size=2))
    later = tuple(origin for origin in Origin if origin is not Origin.PROMPT)
    return Transcript().append(*prompts, *draw(st.lists(segments(later), max_size=6)))


@given(rows())
def test_every_derived_array_has_the_row_s_length(row: Transcript):
    arrays = (row.token_ids, row.mask, row.logprobs, row.entropies, row.temperatures)
    assert {len(a) for a in (*arrays, row.origins, row.versions)} == {len(row)}


@given(rows())
def test_the_mask_is_one_exactly_where_a_logprob_was_recorded(row: Transcript):
    expected = [s.logprobs is not None for s in row.segments for _ in range(len(s))]
    assert row.mask.tolist() == expected
    assert row.n_sampled == sum(expected)
    assert (row.logprobs[~row.mask] == 0).all()


@given(rows())
def test_versions_mark_what_the_engine_sampled(row: Transcript):
    assert ((row.versions >= 0) == (row.origins == Origin.MODEL)).all()


@given(rows(), st.data())
def test_a_fork_is_a_prefix_and_shares_whole_segments(row: Transcript, data: st.DataObject):
    n = data.draw(st.integers(0, len(row)))
    fork = row.fork(n)
    assert len(fork) == n
    for name in ("token_ids", "mask", "logprobs", "entropies", "origins", "versions"):
        assert np.array_equal(getattr(fork, name), getattr(row, name)[:n])
    assert all(a is b for a, b in zip(fork.segments[:-1], row.segments, strict=False))


@given(rows(), segments((Origin.MODEL, Origin.OBSERVATION)))
def test_appending_leaves_the_old_row_alone(row: Transcript, more: Segment):
    before = row.token_ids.copy()
    longer = row.append(more)
    assert np.array_equal(row.token_ids, before)
    assert np.array_equal(longer.token_ids, np.concatenate([before, more.token_ids]))


def test_a_row_of_two_turns_spelled_out():
    """prompt 1 2 | model 3 4 | observation 5 | scaffold 6 | forced 7"""
    row = Transcript().append(
        Segment(Origin.PROMPT, [1, 2]),
        Segment(Origin.MODEL, [3, 4], [-0.5, -1.0], version=2, entropies=[0.1, 0.2]),
        Segment(Origin.OBSERVATION, [5]),
        Segment(Origin.SCAFFOLD, [6]),
        Segment(Origin.FORCED, [7], [np.log(0.5)]),
    )
    assert row.token_ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert row.mask.tolist() == [False, False, True, True, False, False, True]
    assert row.logprobs.tolist() == pytest.approx([0, 0, -0.5, -1.0, 0, 0, -0.6931472])
    assert row.entropies.tolist() == pytest.approx([0, 0, 0.1, 0.2, 0, 0, 0])
    assert row.versions.tolist() == [-1, -1, 2, 2, -1, -1, -1]
    assert row.fork(3).mask.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"origin": Origin.MODEL, "token_ids": [1], "version": 0}, "needs logprobs"),
        ({"origin": Origin.FORCED, "token_ids": [1]}, "needs logprobs"),
        ({"origin": Origin.PROMPT, "token_ids": [1], "logprobs": [0.0]}, "cannot carry logprobs"),
        (
            {"origin": Origin.MODEL, "token_ids": [1], "logprobs": [-1.0]},
            "version belongs to MODEL",
        ),
        ({"origin": Origin.DEMO, "token_ids": [1], "version": 0}, "version belongs to MODEL"),
        (
            {"origin": Origin.MODEL, "token_ids": [1, 2], "logprobs": [-1.0], "version": 0},
            r"logprobs has shape \(1,\) for 2",
        ),
        (
            {"origin": Origin.MODEL, "token_ids": [1], "logprobs": [float("nan")], "version": 0},
            "not finite",
        ),
        ({"origin": Origin.MODEL, "token_ids": [1], "logprobs": [0.5], "version": 0}, "positive"),
        ({"origin": Origin.PROMPT, "token_ids": [-1]}, "negative"),
        ({"origin": Origin.PROMPT, "token_ids": [[1]]}, "one row"),
        (
            {"origin": Origin.FORCED, "token_ids": [1], "logprobs": [0.0], "entropies": [0.1]},
            "cannot carry entropies",
        ),
    ],
)
def test_misaligned_construction_raises(arguments: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        Segment(**arguments)  # type: ignore[arg-type]


def test_a_prompt_cannot_follow_what_was_generated():
    row = Transcript().append(Segment(Origin.PROMPT, [1]), Segment(Origin.OBSERVATION, [2]))
    with pytest.raises(ValueError, match="PROMPT segment cannot follow OBSERVATION"):
        row.append(Segment(Origin.PROMPT, [3]))


def test_empty_segments_leave_no_trace():
    assert Transcript().append(Segment(Origin.SCAFFOLD, [])).segments == ()


def test_arrays_are_read_only():
    segment = Segment(Origin.PROMPT, [1, 2])
    with pytest.raises(ValueError, match="read-only"):
        segment.token_ids[0] = 9
    with pytest.raises(ValueError, match="read-only"):
        Transcript((segment,)).mask[0] = True


def test_a_fork_outside_the_row_is_refused():
    with pytest.raises(ValueError, match="cannot fork 3 tokens of a row of 2"):
        Transcript((Segment(Origin.PROMPT, [1, 2]),)).fork(3)


def test_head_keeps_everything_aligned():
    segment = Segment(Origin.MODEL, [3, 4, 5], [-1, -2, -3], version=1, entropies=[1, 2, 3])
    cut = head(segment, 2)
    assert cut.token_ids.tolist() == [3, 4]
    assert cut.logprobs is not None
    assert cut.logprobs.tolist() == [-1, -2]
    assert cut.entropies is not None
    assert cut.entropies.tolist() == [1, 2]


def test_an_unknown_ratio_mode_is_refused():
    with pytest.raises(ValueError, match="ratio_mode"):
        Transcript(ratio_mode="other")
