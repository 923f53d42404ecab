"""The memory bank: ids never come back, hostile text is only text, copies are independent."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.errors import SetupError, ToolError, UserError
from agentrl_tools.memory import Bounds, Entry, MemoryBank
from agentrl_tools.memory.bank import quoted
from agentrl_tools.memory.vectors import load_encoder


def axes(texts: Sequence[str]) -> list[list[float]]:
    """An encoder that can be worked out by hand: how often a, b and c stand in the text."""
    return [[float(text.count(letter)) for letter in "abc"] for text in texts]


def filled(*texts: str, **options: object) -> MemoryBank:
    bank = MemoryBank(**options)  # pyright: ignore[reportArgumentType]
    for text in texts:
        bank.add(text)
    return bank


def test_the_four_operations_on_entries() -> None:
    bank = filled("Ann lives in Tarn", "Bo has a dog")
    assert bank.update(1, "Ann lives in Brill") == Entry(1, "Ann lives in Brill")
    assert bank.delete(2) == Entry(2, "Bo has a dog")
    assert bank.entries() == [Entry(1, "Ann lives in Brill")]


def test_ids_are_never_used_again() -> None:
    bank = filled("one", "two", "three")
    bank.delete(3)
    bank.delete(1)
    assert bank.add("four").id == 4
    bank.delete(4)
    bank.delete(2)
    assert (len(bank), bank.add("five").id) == (0, 5)


@pytest.mark.parametrize("entry_id", [0, -1, 2, 10**30])
def test_an_unknown_id_is_told_with_the_ids_there_are(entry_id: int) -> None:
    bank = filled("only")
    for call in (lambda: bank.update(entry_id, "x"), lambda: bank.delete(entry_id)):
        with pytest.raises(ToolError, match=rf"no memory {entry_id}\. There are: 1\."):
            call()
    assert bank.entries() == [Entry(1, "only")]


def test_sizes_are_bounded_and_told() -> None:
    bank = MemoryBank(bounds=Bounds(entries=2, chars=10))
    with pytest.raises(ToolError, match="has 11 characters; a memory holds 10"):
        bank.add("x" * 11)
    bank.add("x" * 10)
    bank.add("y")
    with pytest.raises(ToolError, match=r"full \(2 entries\)"):
        bank.add("z")
    with pytest.raises(ToolError, match="no text"):
        bank.update(1, " \n\x00 ")
    bank.delete(1)
    assert bank.add("z").id == 3


def test_search_ranks_by_shared_words_and_ties_by_id() -> None:
    bank = filled("cats purr", "dogs bark", "dogs and cats", "dogs bark")
    assert [e.id for e in bank.search("bark dogs", k=9)] == [2, 4, 3]
    assert [e.id for e in bank.search("CATS!", k=1)] == [1]
    assert bank.search("fish", k=9) == bank.search("", k=9) == bank.search("dogs", k=0) == []


def test_related_fills_up_with_the_newest() -> None:
    bank = filled("a cat", "x", "y", "z")
    assert [e.id for e in bank.related("cat", k=3)] == [1, 4, 3]
    assert [e.id for e in bank.related("?!", k=9)] == [4, 3, 2, 1]


def test_a_changed_memory_is_found_by_its_new_words_only() -> None:
    bank = filled("Ann lives in Tarn")
    bank.update(1, "Ann lives in Brill")
    assert bank.search("Tarn", k=5) == []
    assert bank.search("Brill", k=5) == bank.entries()
    bank.delete(1)
    assert bank.search("Brill", k=5) == []


@pytest.mark.parametrize(
    "query",
    [
        '"',
        "a OR",
        "NEAR(a b)",
        "text:x",
        "a* AND NOT b",
        "'; DROP TABLE words; --",
        "(",
        "^a",
        "\x00",
    ],
)
def test_operators_in_a_query_are_words(query: str) -> None:
    bank = filled("a b near drop table", "nothing")
    found = bank.search(query, k=5)
    assert [e.id for e in found] in ([], [1])
    assert len(bank) == 2


def test_quoted_terms() -> None:
    assert quoted('a_b "c" AND') == '"a" OR "b" OR "c" OR "AND"'
    assert quoted("?!") == ""
    assert quoted("x " * 1000).count('"x"') == 64


@given(text=st.text(), query=st.text())
@settings(max_examples=80, deadline=None)
def test_any_text_is_kept_on_one_line_and_any_query_answered(text: str, query: str) -> None:
    bank = MemoryBank()
    try:
        entry = bank.add(text)
    except ToolError:
        assert not text.replace("\x00", " ").split() or len(text) > 1000
    else:
        assert "\n" not in entry.text
        assert bank.entries() == [entry]
    assert len(bank.search(query, k=3)) <= 1
    bank.close()


def test_lone_surrogates_and_control_characters_are_stored() -> None:
    assert filled("a\ud800b\x00c\nd").entries() == [Entry(1, "a?b c d")]


def test_a_snapshot_brings_back_memories_and_the_next_id() -> None:
    bank = filled("one", "two")
    state = bank.snapshot()
    bank.delete(1)
    bank.add("three")
    bank.restore(state)
    assert [e.text for e in bank.entries()] == ["one", "two"]
    assert bank.search("one", k=1) == [Entry(1, "one")]
    assert bank.add("again").id == 3


def test_copies_go_their_own_ways() -> None:
    bank = filled("one", "two")
    bank.delete(2)
    left, right = bank.fork(2)
    left.update(1, "left")
    assert right.add("right").id == 3
    bank.close()
    assert left.entries() == [Entry(1, "left")]
    assert right.entries() == [Entry(1, "one"), Entry(3, "right")]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "update", "delete", "snapshot", "restore", "fork"]),
        st.integers(1, 6),
    ),
    max_size=30,
)


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_a_bank_agrees_with_a_dictionary_that_counts(steps: list[tuple[str, int]]) -> None:
    """Every state, the next id included, after any operations, snapshots and copies."""
    bank, kept, model, next_id = MemoryBank(), b"", dict[int, str](), 1
    stored = (dict(model), next_id)
    for number, (step, entry_id) in enumerate(steps):
        text = f"text{number}"
        if step == "add":
            assert bank.add(text) == Entry(next_id, text)
            model[next_id] = text
            next_id += 1
        elif step == "snapshot":
            kept, stored = bank.snapshot(), (dict(model), next_id)
        elif step == "restore" and kept:
            bank.restore(kept)
            model, next_id = dict(stored[0]), stored[1]
        elif step == "fork":
            (copy,) = bank.fork(1)
            bank.close()
            bank = copy
        elif step in ("update", "delete") and entry_id not in model:
            with pytest.raises(ToolError):
                bank.delete(entry_id) if step == "delete" else bank.update(entry_id, text)
        elif step == "update":
            bank.update(entry_id, text)
            model[entry_id] = text
        elif step == "delete":
            assert bank.delete(entry_id).text == model.pop(entry_id)
        assert bank.entries() == sorted(Entry(*item) for item in model.items())
        for known, said in model.items():
            assert bank.search(said, k=9) == [Entry(known, said)]
    bank.close()


def test_an_encoder_ranks_by_cosine() -> None:
    """Query (1, 1, 0): cosines 1/sqrt(2), 1, 0 and 3/sqrt(10) for aab -> (2, 1, 0)."""
    bank = filled("a", "ab", "c", "aab", encoder=axes)
    assert [e.id for e in bank.search("ba", k=4)] == [2, 4, 1, 3]
    bank.update(3, "bbaa")
    assert [e.id for e in bank.search("ba", k=2)] == [2, 3]
    (copy,) = bank.fork(1)
    assert [e.id for e in copy.search("c", k=1)] == [1]


def test_an_encoder_is_found_by_name() -> None:
    name = "agentrl_tools.memory.vectors:packed"
    assert callable(load_encoder(name))
    with pytest.raises(UserError, match="module:Attr"):
        load_encoder("minilm")
    with pytest.raises(UserError, match="no encoder"):
        load_encoder("agentrl_tools.memory.bank:MAX_TERMS")
    with pytest.raises(SetupError, match="cannot be imported"):
        load_encoder("no_such_module_here:Encoder")
