"""The words of memory_qa: sessions, prompts and turns, in either style."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random

from agentrl.verify.extract import last_answer_tag
from agentrl_envs.memory_qa.facts import STYLES, Attribute, Fact, Style
from agentrl_envs.memory_qa.story import Event, Key, Story, after, key_of
from agentrl_tools.memory import Entry, Operation
from agentrl_tools.memory.operations import as_json, as_lines, listed

_MARK = re.compile(r"\*{0,2}\bAnswer:\*{0,2}[ \t]*(.+)", re.IGNORECASE)

_CHAT = {
    "terse": ("hi", "so hot", "ok", "bye now"),
    "plain": (
        "What a lovely day it is.",
        "I slept badly, but never mind.",
        "Did you watch the match last night?",
        "The train was late again this morning.",
        "I could eat soup every day.",
        "Thanks for listening, as always.",
    ),
}

_MANAGE = """You keep a memory of what people tell. Compare the new session with the memories, which \
have their id in front, and choose for each new fact:
ADD: nothing is remembered about it yet; write a new memory.
UPDATE: a memory changes or grows; give its id and its whole new text. What is still true stays in \
the text, and so does the value that was true before.
DELETE: nothing of a memory is true any more; give its id.
NONE: there is nothing new.
Reply with JSON only: {"memory": [{"id": "1", "text": "...", "event": "ADD|UPDATE|DELETE|NONE"}]}"""

_ANSWER = """Answer a question about people from what is remembered about them. First list the \
memories that matter for it; where two contradict each other, the later one is right. Then end with a \
line of a few words:
**Answer:** ..."""


def attributes_of(style: Style) -> Mapping[str, Attribute]:
    """The attributes that a style tells about, by name."""
    return {attribute.name: attribute for attribute in STYLES[style]}


def lines_of(story: Story, style: Style) -> list[list[str]]:
    """What is said in each session, a line each."""
    facts: dict[Key, Fact] = {}
    told: list[list[str]] = []
    for number, session in enumerate(story.sessions):
        lines: list[str] = []
        for event in session:
            fact = facts.get(key_of(event), Fact())
            lines.append(f"{event.person}: {_said(event, fact, style)}")
            facts[key_of(event)] = after(event, fact)
        told.append(lines if style == "terse" else _with_small_talk(lines, story, number))
    return told


def _said(event: Event, fact: Fact, style: Style) -> str:
    if event.happening == "chat":
        chat = _CHAT[style]
        return chat[int(event.value) % len(chat)]
    attribute = attributes_of(style)[event.attribute]
    if event.happening == "remove":
        return attribute.gone.format(v=event.value)
    form = attribute.further if fact.values else attribute.first
    return form.format(v=event.value)


def _with_small_talk(lines: Sequence[str], story: Story, number: int) -> list[str]:
    """Lines that say nothing around those that do."""
    rng = Random(f"{story.digest} {number}")
    mixed: list[str] = []
    for line in lines:
        mixed.append(f"{rng.choice(story.people)}: {rng.choice(_CHAT['plain'])}")
        mixed.append(line)
    return mixed


def question_of(story: Story, style: Style) -> str:
    """The question as it is asked."""
    attribute = attributes_of(style)[story.attribute]
    form = attribute.earlier if story.kind == "temporal" else attribute.question
    return form.format(p=story.person, v=story.fact.values[-1] if story.fact.values else "")


def manager_prompt(entries: Sequence[Entry], lines: Sequence[str], when: str, style: Style) -> str:
    """What the manager reads: related memories by id, then the session."""
    known = listed(sorted(entries))
    if style == "terse":
        return f"{known}\n> {'; '.join(lines)}"
    session = "\n".join(lines)
    return f"{_MANAGE}\n\nMemories:\n{known or '(none)'}\n\nSession{when}:\n{session}"


def answer_prompt(entries: Sequence[Entry], question: str, style: Style) -> str:
    """What the answerer reads: retrieved memories by id, then the question."""
    known = listed(sorted(entries))
    if style == "terse":
        return f"{known}\n? {question}"
    return f"{_ANSWER}\n\nMemories:\n{known or '(none)'}\n\nQuestion: {question}"


def operations_turn(operations: Sequence[Operation], style: Style) -> str:
    """The manager's turn."""
    return as_lines(operations) if style == "terse" else as_json(operations)


def answer_turn(relevant: Sequence[Entry], answer: str, style: Style) -> str:
    """The answerer's turn: what matters of the memories, then the answer."""
    if style == "terse":
        return f"{','.join(str(entry.id) for entry in relevant)}<answer>{answer}</answer>"
    listing = listed(relevant) or "(none)"
    return f"Relevant memories:\n{listing}\n\n**Answer:** {answer}"


def read_answer(text: str) -> str | None:
    """The answer of a turn: its last `<answer>` tag, else its last `Answer:` line; None without."""
    tagged = last_answer_tag(text)
    if tagged is not None:
        return tagged
    marked = _MARK.findall(text)
    return str(marked[-1]).strip() if marked else None


__all__ = [
    "answer_prompt",
    "answer_turn",
    "attributes_of",
    "lines_of",
    "manager_prompt",
    "operations_turn",
    "question_of",
    "read_answer",
]
