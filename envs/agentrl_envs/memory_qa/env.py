"""Questions about what was told in earlier sessions, after Memory-R1 (arXiv:2508.19828).

Two roles share one policy. The manager reads each session in a fresh context, beside the memories
that are related to it, and writes operations on the bank; the answerer reads the question beside
retrieved memories, says which of them matter, and answers. The reward is the answer's, for both. Either
role may be played exactly by rule, or the answerer by a frozen partner, so that only the other is
trained, as the paper does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from itertools import cycle
from random import Random
from typing import Literal, Self, final

from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.errors import ParseError, UserError
from agentrl.seeds import derive
from agentrl.types import Message, Task
from agentrl.verify.text_answer import exact_match, token_f1
from agentrl_envs.memory_qa.dialogue import Dialogue, dialogue_of
from agentrl_envs.memory_qa.facts import STYLES, Style
from agentrl_envs.memory_qa.language import (
    answer_prompt,
    answer_turn,
    manager_prompt,
    operations_turn,
    read_answer,
)
from agentrl_envs.memory_qa.locomo import locomo_tasks
from agentrl_envs.memory_qa.names import names_of
from agentrl_envs.memory_qa.retrieval import for_answer
from agentrl_envs.memory_qa.story import KINDS, LEAST_SLOTS, SPLITS, Author, Kind, Shape
from agentrl_envs.memory_qa.stream import generated
from agentrl_tools.memory import (
    Bounds,
    Entry,
    MemoryBank,
    Operation,
    apply,
    parse_operations,
)
from agentrl_tools.memory.vectors import load_encoder

POLICY, EXACT = "policy", "exact"

BOUNDS = Bounds(entries=4096, chars=2000)
"""Of the bank: the longest conversations of LoCoMo have about 700 lines."""


@final
class MemoryQA(Env):
    """Multi-session dialogues with changing facts: manage a memory, then answer from it."""

    protocol = "hermes"
    expert_floor = 0.99
    random_ceiling = 0.2

    def __init__(
        self,
        *,
        style: Style = "plain",
        kinds: tuple[Kind, ...] = KINDS,
        sessions: int = 4,
        facts: int = 1,
        people: int = 2,
        chatter: float = 0.25,
        train_questions: int = 152,
        manager: str = POLICY,
        answerer: str = POLICY,
        manages: Literal["all", "linked", "random"] = "all",
        related: int = 10,
        retrieved: int = 60,
        reward: Literal["em", "f1"] = "em",
        care: float = 1.0,
        locomo: str | None = None,
        encoder: str | None = None,
    ) -> None:
        """Make one episode's environment.

        Args:
            style: `terse` lines and operations for tiny models, `plain` English and JSON otherwise.
            kinds: question types to draw from: single, changed, temporal, counted.
            sessions: chunks of dialogue per story.
            facts: events per session.
            people: persons per story.
            chatter: share of the events beside the evidence in which nothing is told.
            train_questions: how many training tasks there are; Memory-R1 trains on 152.
            manager: `policy`, or `exact` to have the bank made by rule.
            answerer: `policy`, `exact` to have the answer read by rule, or the name of a partner
                (`rollout.partners`), which is frozen.
            manages: sessions that the policy manages: `all`, only the last one that the answer
                depends on (`linked`, as Memory-R1 trains), or a random one; the rest is done exactly.
            related: memories shown to the manager beside a session.
            retrieved: memories shown to the answerer, an equal share for each speaker.
            reward: exact match, or token F1, of the answer.
            care: how often `expert` takes an event in exactly; below 1 it misses or overwrites things
                on purpose, for making a model that has something left to learn.
            locomo: a `locomo10.json` to take tasks from instead of generating them.
            encoder: `module:Attr` of a text encoder; memories are then retrieved by cosine, as
                published, instead of by shared words.

        Raises UserError on a size, a kind or a role that does not fit.
        """
        _check_sizes(sessions, facts, people, train_questions, related, retrieved)
        _check_kinds(kinds, sessions * facts)
        if not (0 <= care <= 1 and 0 <= chatter <= 1):
            raise UserError("env.care and env.chatter are shares between 0 and 1")
        if manager not in (POLICY, EXACT):
            raise UserError(f"env.manager is policy or exact, not {manager!r}; see env.answerer")
        if manager == EXACT and answerer != POLICY:
            raise UserError("env.manager=exact needs env.answerer=policy: nobody would be trained")
        self.style: Style = style
        self.kinds, self.train_questions = tuple(kinds), train_questions
        self.shape = Shape(sessions, facts, people, chatter)
        self.manager, self.answerer, self.manages = manager, answerer, manages
        self.partners = () if answerer in (POLICY, EXACT) else (answerer,)
        self.related, self.retrieved, self.reward, self.care = related, retrieved, reward, care
        self.locomo = locomo
        self._encoder = None if encoder is None else load_encoder(encoder)
        if care < 1 or locomo is not None:
            self.expert_floor = None
        if manages == "random":  # most sessions do not matter to the answer
            self.random_ceiling = None
        self._task: Task | None = None
        self._dialogue: Dialogue | None = None
        self._bank: MemoryBank | None = None
        self._at = 0
        self._invalid = 0

    @property
    def memories(self) -> list[Entry]:
        """The bank's present memories. Raises RuntimeError before `reset`."""
        return self._live()[2].entries()

    @property
    def invalid(self) -> int:
        """Operations so far that could not be read or carried out."""
        return self._invalid

    def _live(self) -> tuple[Task, Dialogue, MemoryBank]:
        if self._task is None or self._dialogue is None or self._bank is None:
            raise RuntimeError("reset() the environment before stepping it")
        return self._task, self._dialogue, self._bank

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Begin with an empty bank; what the policy does not manage comes first. No chance in it."""
        await self.close()
        self._task, self._dialogue = task, dialogue_of(task, self.style)
        if self._dialogue.story is None and self.answerer == EXACT:
            self._dialogue.read(())
        self._bank = MemoryBank(bounds=BOUNDS, encoder=self._encoder)
        self._at = self._invalid = 0
        self._skip()
        return self._shown()

    def _skip(self) -> None:
        """Manage exactly what comes before the policy's next session."""
        task, dialogue, bank = self._live()
        mine = self._managed(task, dialogue)
        while self._at < len(dialogue.sessions) and self._at not in mine:
            for operation in self._exact(task, dialogue, bank, self._at, task.seed):
                apply(bank, operation)
            self._at += 1

    def _managed(self, task: Task, dialogue: Dialogue) -> range:
        """The sessions that the policy manages."""
        n = len(dialogue.sessions)
        if self.manager == EXACT:
            return range(0)
        if self.manages == "all":
            return range(n)
        one = dialogue.linked
        if self.manages == "random":
            one = Random(derive("managed", task.seed, task.id)).randrange(n)
        return range(one, one + 1)

    def _exact(
        self, task: Task, dialogue: Dialogue, bank: MemoryBank, at: int, seed: int
    ) -> tuple[Operation, ...]:
        rng = Random(derive("care", seed, task.id, at))
        return dialogue.exact(bank.entries(), at, care=self.care, rng=rng)

    def _shown(self) -> Observation:
        """The next context's only message: a session, or the question."""
        task, dialogue, bank = self._live()
        if self._at < len(dialogue.sessions):
            session = dialogue.sessions[self._at]
            known = bank.related("\n".join(session.lines), k=self.related)
            return (
                Message("user", manager_prompt(known, session.lines, session.when, self.style)),
            )
        found = for_answer(bank, task.question, dialogue.speakers, k=self.retrieved)
        return (Message("user", answer_prompt(found, task.question, self.style)),)

    async def step(self, action: Action) -> StepResult:
        """Carry the manager's operations out, or judge the answer."""
        task, dialogue, bank = self._live()
        if self._at == len(dialogue.sessions):
            return self._judged(task, read_answer(action.text))
        self._manage(bank, action)
        self._at += 1
        self._skip()
        if self._at < len(dialogue.sessions):
            info = StepInfo(context=f"session {self._at + 1}")
            return StepResult(self._shown(), 0.0, False, False, info)
        if self.answerer == EXACT:
            return self._judged(task, dialogue.read(bank.entries())[1])
        by = None if self.answerer == POLICY else self.answerer
        return StepResult(self._shown(), 0.0, False, False, StepInfo(context="answer", by=by))

    def _manage(self, bank: MemoryBank, action: Action) -> None:
        """Apply a turn's operations; what cannot be read is a NOOP (Memory-R1) and counted."""
        try:
            if action.tool_calls or action.parse_error is not None:
                raise ParseError("operations are text, not calls")
            asked = parse_operations(action.text)
        except ParseError:
            self._invalid += 1
            return
        self._invalid += sum(not apply(bank, operation).valid for operation in asked)

    def _judged(self, task: Task, answer: str | None) -> StepResult:
        gold = task.answer
        if gold is None:
            raise UserError(f"task {task.id} has no answer; memory_qa needs one to check against")
        worth = float(exact_match(answer, gold)) if self.reward == "em" else token_f1(answer, gold)
        return StepResult((), worth, True, False, StepInfo(answer=answer))

    async def fork(self, n: int) -> list[Self]:
        """Copies with copies of the bank."""
        banks = self._live()[2].fork(n)
        copies = [copy(self) for _ in range(n)]
        for made, bank in zip(copies, banks, strict=True):
            made._bank = bank
        return copies

    async def close(self) -> None:
        """Let go of the bank."""
        if self._bank is not None:
            self._bank.close()
        self._bank = None

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """A stream of tasks: kinds in turn, no question twice; `train` repeats `train_questions`.

        The splits train, validation and test share no person. With `locomo` its conversations are
        split instead, each split repeated. Raises UserError on another split.
        """
        if split not in SPLITS:
            raise UserError(f"memory_qa has the splits {', '.join(SPLITS)}, not {split!r}")
        if self.locomo is not None:
            return cycle(locomo_tasks(self.locomo, split))
        author = Author(names_of(split, self.style), STYLES[self.style], self.shape)
        stream = generated(author, self.kinds, self.style, Random(derive("memory_qa", seed, split)))
        if split != "train":
            return stream
        return cycle([next(stream) for _ in range(self.train_questions)])

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """The turns of the exact manager and answerer, hasty at times where `care` is below 1.

        Raises UserError on a task from a file.
        """
        dialogue = dialogue_of(task, self.style)
        if dialogue.story is None:
            raise UserError(
                "memory_qa's expert plays generated tasks only, not those of env.locomo"
            )
        bank = MemoryBank()
        mine = self._managed(task, dialogue)
        turns: list[str] = []
        for at in range(len(dialogue.sessions)):
            asked = self._exact(task, dialogue, bank, at, seed if at in mine else task.seed)
            if at in mine:
                turns.append(operations_turn(asked, self.style))
            for operation in asked:
                apply(bank, operation)
        if self.answerer != EXACT:
            known, answer = dialogue.read(bank.entries())
            relevant = [bank.get(entry_id) for entry_id in known.ids]
            turns.append(answer_turn(relevant, answer, self.style))
        bank.close()
        return turns

    def random_turn(self, rng: Random) -> str:
        """An operation or an answer, blindly: it serves as a turn of either role."""
        entry = rng.randint(1, 3)
        attribute = rng.choice(STYLES[self.style])
        value = rng.choice(attribute.values)
        person = rng.choice(names_of("train", self.style))
        operation = rng.choice(
            (f"ADD {person} {value}", f"UPDATE {entry} {person} {value}", f"DELETE {entry}", "NOOP")
        )
        answer = rng.choice((value, str(rng.randint(0, 3))))
        return f"{operation} <answer>{answer}</answer>"


def _check_sizes(*sizes: int) -> None:
    if min(sizes) < 1:
        raise UserError(
            "env.sessions, facts, people, train_questions, related and retrieved are at least 1"
        )


def _check_kinds(kinds: tuple[Kind, ...], n_slots: int) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise UserError(f"env.kinds: choose some of {', '.join(KINDS)}, not {list(kinds)}")
    most = max(LEAST_SLOTS[kind] for kind in kinds)
    if n_slots < most:
        raise UserError(f"env.sessions * env.facts is at least {most} for such questions")


__all__ = ["EXACT", "POLICY", "MemoryQA"]
