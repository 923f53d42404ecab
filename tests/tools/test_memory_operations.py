"""The four operations of Memory-R1 as text, and the numbers of its specification."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.errors import ParseError
from agentrl_envs.memory_qa.facts import PLAIN, Fact
from agentrl_envs.memory_qa.keeper import belief
from agentrl_tools.memory import Entry, MemoryBank, Operation, apply, parse_operations
from agentrl_tools.memory.operations import EVENTS, as_json, as_lines

(PETS,) = (attribute for attribute in PLAIN if attribute.name == "pets")


def adopted() -> MemoryBank:
    bank = MemoryBank()
    bank.add("Ann adopted a dog called Buddy")
    return bank


def dogs(bank: MemoryBank) -> int:
    return len(belief(bank.entries(), "Ann", PETS).fact.values)


def test_an_update_merges_into_one_entry_that_names_both() -> None:
    bank = adopted()
    done = apply(bank, Operation("UPDATE", 1, "Ann has dogs Buddy and Scout"))
    assert done.valid
    assert bank.entries() == [Entry(1, "Ann has dogs Buddy and Scout")]
    assert dogs(bank) == 2


def test_delete_and_add_loses_the_first_dog() -> None:
    bank = adopted()
    for operation in (Operation("DELETE", 1), Operation("ADD", None, "Ann adopted Scout")):
        assert apply(bank, operation).valid
    assert bank.entries() == [Entry(2, "Ann adopted Scout")]
    assert belief(bank.entries(), "Ann", PETS).fact == Fact(("Scout",))
    assert dogs(bank) == 1


@pytest.mark.parametrize("event", ["UPDATE", "DELETE"])
@pytest.mark.parametrize("entry_id", [7, None])
def test_an_unknown_id_is_a_flagged_no_op(event: str, entry_id: int | None) -> None:
    bank = adopted()
    before = bank.snapshot()
    done = apply(bank, Operation(event, entry_id, "x"))  # pyright: ignore[reportArgumentType]
    assert not done.valid
    assert "There is no memory 7. There are: 1." in done.told or "needs the id" in done.told
    assert bank.snapshot() == before


def test_noop_is_idempotent() -> None:
    bank = adopted()
    before = bank.snapshot()
    assert [apply(bank, Operation("NOOP")).valid for _ in range(3)] == [True] * 3
    assert bank.snapshot() == before


def test_lines_are_read() -> None:
    text = "ADD Bo has dog\nUPDATE 12 Bo in Tar was Bri\n\nDELETE 3\nNOOP"
    assert parse_operations(text) == (
        Operation("ADD", None, "Bo has dog"),
        Operation("UPDATE", 12, "Bo in Tar was Bri"),
        Operation("DELETE", 3),
        Operation("NOOP"),
    )


@pytest.mark.parametrize(
    "text",
    [
        '{"memory": [{"id": "1", "text": "t", "event": "UPDATE", "old_memory": "o"}]}',
        'Sure!\n```json\n[{"id": 1, "text": "t", "event": "update"}]\n```\nDone.',
        '{"id": "1", "text": "t", "event": "UPDATE"} and more',
    ],
)
def test_json_is_read_wherever_it_stands(text: str) -> None:
    assert parse_operations(text) == (Operation("UPDATE", 1, "t"),)


def test_mem0_calls_it_none() -> None:
    assert parse_operations('[{"id": "0", "text": "t", "event": "NONE"}]') == (Operation("NOOP"),)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no operation"),
        ("I would add it.", "no operation"),
        ('{"memory": [', "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"memory": 3}', "not a list"),
        ('[{"text": "t"}]', "event is"),
        ('["ADD"]', "event is"),
        ('[{"event": "ADD", "text": 3}]', "is a string"),
        ('[{"event": "DELETE", "id": true}]', "no id"),
        ('[{"event": "DELETE", "id": "one"}]', "no id"),
        ("UPDATE it to this", "needs the id"),
        ("ADD a\nthen b", "'then b' is not"),
    ],
)
def test_what_cannot_be_read_is_told(text: str, told: str) -> None:
    with pytest.raises(ParseError, match=told):
        parse_operations(text)


WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20
)
OPERATIONS = st.one_of(
    st.builds(Operation, st.just("ADD"), st.none(), WORDS),
    st.builds(Operation, st.just("UPDATE"), st.integers(0, 10**17), WORDS),
    st.builds(Operation, st.just("DELETE"), st.integers(0, 10**17)),
    st.just(Operation("NOOP")),
)


@given(st.lists(OPERATIONS, min_size=1, max_size=5))
def test_both_forms_say_any_operations(operations: list[Operation]) -> None:
    assert parse_operations(as_json(operations)) == tuple(operations)
    assert parse_operations(as_lines(operations)) == tuple(operations)


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    with suppress(ParseError):
        assert all(operation.event in EVENTS for operation in parse_operations(text))
