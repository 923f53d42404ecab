"""Memory across steps does not depend on the order in which anything arrived."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.history import HistoryStore, Write

WRITES = st.lists(
    st.builds(
        Write,
        namespace=st.sampled_from(["otc", "pass"]),
        key=st.sampled_from(["a", "b"]),
        value=st.floats(-1e6, 1e6),
        reduce=st.just("min"),
        uid=st.text("0123456789", min_size=1, max_size=3),
    ),
    max_size=12,
    unique_by=lambda w: (w.namespace, w.key, w.uid),
)


@pytest.mark.parametrize("reduce", ["min", "max", "sum", "count_mean"])
@given(data=st.data())
def test_any_order_of_arrival_commits_the_same_bits(reduce: str, data: st.DataObject):
    writes = [
        Write(w.namespace, w.key, w.value, reduce, w.uid)  # type: ignore[arg-type]
        for w in data.draw(WRITES)
    ]
    one, other = HistoryStore(), HistoryStore()
    one.commit(writes)
    other.commit(data.draw(st.permutations(writes)))
    assert one.to_json() == other.to_json()


@given(WRITES)
def test_the_checkpoint_reads_back(writes: list[Write]):
    store = HistoryStore()
    store.commit(writes)
    again = HistoryStore.from_json(json.loads(json.dumps(store.to_json())))
    assert again.to_json() == store.to_json()


def test_reduces_by_hand():
    store = HistoryStore()
    for value, uid in ((4.0, "0/t/0"), (2.0, "0/t/1"), (6.0, "0/t/2")):
        for reduce in ("min", "max", "sum", "count_mean"):
            store.commit([Write(reduce, "t", value, reduce, uid)])  # type: ignore[arg-type]
    found = {space: store.get(space, "t") for space in ("min", "max", "sum", "count_mean")}
    assert found == {"min": 2.0, "max": 6.0, "sum": 12.0, "count_mean": 4.0}
    assert store.count("min", "t") == 3


def test_unseen_is_none_not_zero():
    assert HistoryStore().get("otc", "t") is None
    assert HistoryStore().count("otc", "t") == 0


def test_one_uid_commits_once_per_step_and_key():
    store = HistoryStore()
    twice = [Write("n", "t", 1.0, "sum", "0/t/0")] * 2
    assert store.commit(twice) == 1
    assert store.get("n", "t") == 1.0


def vector(value: float, uid: str, keep: int = 2) -> Write:
    return Write("v", "t", 0.0, "recent", uid, (value, -value), keep)


def test_recent_vectors_are_first_in_first_out():
    """Three of a step in the order of their uids, whatever the order of arrival; two are kept."""
    store = HistoryStore()
    assert store.recent("v", "t") == ()
    store.commit([vector(3.0, "0/t/2"), vector(1.0, "0/t/0"), vector(2.0, "0/t/1")])
    assert store.recent("v", "t") == ((2.0, -2.0), (3.0, -3.0))
    store.commit([vector(4.0, "1/t/0")])
    assert store.recent("v", "t") == ((3.0, -3.0), (4.0, -4.0))
    assert store.keys("v") == ("t",)


@given(st.permutations(range(5)))
def test_vectors_do_not_depend_on_arrival_and_survive_a_checkpoint(order: list[int]):
    writes = [vector(float(i), f"0/t/{i}", keep=3) for i in range(5)]
    one, other = HistoryStore(), HistoryStore()
    one.commit([*writes, Write("n", "t", 1.0, "sum", "u")])
    other.commit([Write("n", "t", 1.0, "sum", "u"), *(writes[i] for i in order)])
    again = HistoryStore.from_json(json.loads(json.dumps(other.to_json())))
    assert one.to_json() == other.to_json() == again.to_json()
    assert again.recent("v", "t") == one.recent("v", "t")


def test_a_namespace_holds_numbers_or_vectors():
    store = HistoryStore()
    store.commit([vector(1.0, "u")])
    with pytest.raises(ValueError, match="not both"):
        store.commit([Write("v", "t", 1.0, "sum", "u")])
    with pytest.raises(ValueError, match="keep >= 1"):
        store.commit([Write("w", "t", 0.0, "recent", "u", (1.0,))])
