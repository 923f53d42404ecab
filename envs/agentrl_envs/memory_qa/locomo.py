"""Tasks from LoCoMo (Maharana et al. 2024, arXiv:2402.17753): a `locomo10.json` the user has.

Its layout: a list of samples, each with `conversation` (`speaker_a`, `speaker_b`, `session_N` lists of
`{speaker, dia_id, text}`, `session_N_date_time`), `qa` (`question`, `answer`, `category`, `evidence`)
and `observation` (`session_N_observation`: speaker -> [[fact, dia_id], ...]). Adversarial questions
(category 5) are left out, as in Memory-R1 (arXiv:2508.19828), and whole conversations go to one split,
one to train, one to validation, the rest to test (1:1:8 of ten).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from agentrl.errors import UserError
from agentrl.types import JsonValue, Task

CATEGORIES = {1: "multi_hop", 2: "temporal", 3: "open_domain", 4: "single_hop"}
"""Question types that are kept; 5 is adversarial."""

_SESSION = re.compile(r"session_(\d+)")
_EVIDENCE = re.compile(r"D(\d+):")

Node = Mapping[str, Any]


@cache
def locomo_tasks(path: str, split: str) -> tuple[Task, ...]:
    """The questions of a split, conversation by conversation, in the file's order.

    Raises UserError that names the file when it cannot be read, has another layout, or holds too
    few conversations for the split.
    """
    samples = _read(path)
    chosen = {"train": samples[:1], "validation": samples[1:2], "test": samples[2:]}[split]
    try:
        tasks = tuple(task for sample in chosen for task in _tasks(sample))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path} is not laid out as locomo10.json: {_told(error)}") from None
    if not tasks:
        raise UserError(
            f"{path} has {len(samples)} conversations and no question for the split {split!r}; "
            "the first one is train, the second one validation, the others test"
        )
    return tasks


def _told(error: Exception) -> str:
    return f"there is no {error}" if isinstance(error, KeyError) else str(error)


def _read(path: str) -> Sequence[Node]:
    try:
        loaded: Any = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"env.locomo: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"env.locomo: {path} is not JSON: {error}") from None
    if not isinstance(loaded, list) or not loaded:
        raise UserError(f"env.locomo: {path} is not a list of conversations")
    return cast("Sequence[Node]", loaded)


def _tasks(sample: Node) -> Iterator[Task]:
    conversation: Node = sample["conversation"]
    name = str(sample.get("sample_id", "locomo"))
    numbers = _numbers(conversation)
    sessions = [_session(conversation, sample.get("observation") or {}, n) for n in numbers]
    speakers = [str(conversation["speaker_a"]), str(conversation["speaker_b"])]
    for index, qa in enumerate(cast("Sequence[Node]", sample["qa"])):
        category = CATEGORIES.get(int(qa["category"]))
        if category is None or "answer" not in qa:
            continue
        dialogue: dict[str, JsonValue] = {
            "sessions": sessions,
            "speakers": speakers,
            "linked": _linked(qa.get("evidence") or (), numbers),
        }
        metadata: Mapping[str, JsonValue] = {"family": category, "dialogue": dialogue}
        answer = str(qa["answer"])
        yield Task(f"locomo/{name}/{index}", str(qa["question"]), answer, metadata)


def _numbers(conversation: Node) -> list[int]:
    """The sessions that have turns, in order."""
    found = (_SESSION.fullmatch(key) for key, value in conversation.items() if value)
    numbers = sorted(int(match[1]) for match in found if match)
    if not numbers:
        raise ValueError("a conversation has no session_1")
    return numbers


def _session(conversation: Node, observation: Node, number: int) -> Mapping[str, JsonValue]:
    when = str(conversation.get(f"session_{number}_date_time", ""))
    noted = cast("Node", observation.get(f"session_{number}_observation") or {})
    notes = [str(fact) for facts in noted.values() for fact, _ in _pairs(facts)]
    lines = [_line(turn) for turn in cast("Sequence[Node]", conversation[f"session_{number}"])]
    return {"lines": lines, "when": f" ({when})" if when else "", "notes": notes}


def _line(turn: Node) -> str:
    """What was said, on one line; a shared picture is its caption."""
    caption = turn.get("blip_caption")
    shown = f" [shows {caption}]" if caption else ""
    return " ".join(f"{turn['speaker']}: {turn['text']}{shown}".split())


def _pairs(facts: object) -> Iterable[tuple[object, object]]:
    for fact in cast("Sequence[Sequence[object]]", facts):
        yield fact[0], fact[1]


def _linked(evidence: Iterable[object], numbers: Sequence[int]) -> int:
    """Index of the last session among the evidence (`D3:7` is of session 3); the last without any."""
    told = [int(found) for item in evidence for found in _EVIDENCE.findall(str(item))]
    known = [numbers.index(number) for number in told if number in numbers]
    return max(known, default=len(numbers) - 1)


__all__ = ["CATEGORIES", "locomo_tasks"]
