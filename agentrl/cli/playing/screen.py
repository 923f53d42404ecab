"""What is shown while an agent is played: its text as it comes, its calls, the row, the reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
from rich.console import Console
from rich.text import Text

from agentrl.chat.base import Tokenizer
from agentrl.cli.dry import MARKS, STYLES
from agentrl.cli.plain import plain
from agentrl.env import StepResult
from agentrl.trajectory import Trajectory
from agentrl.transcript import Origin, Transcript


class Screen:
    """Writes to a console; nothing of the world's can colour it or move its cursor."""

    def __init__(self, console: Console, isolation: str | None) -> None:
        """`isolation` is what the sandbox's level is called; None without a sandbox."""
        self._console, self._isolation = console, isolation

    def title(self, text: str) -> None:
        """A rule with words in it."""
        self._console.rule(Text(plain(text)))

    def note(self, text: str, style: str = "dim") -> None:
        """One line about what happens."""
        self._console.print(Text(plain(text), style), soft_wrap=True)

    def stream(self, text: str) -> None:
        """More of what the agent writes."""
        self._console.print(Text(plain(text), "green"), end="", soft_wrap=True)

    def end_of_turn(self, n_tokens: int, seconds: float) -> None:
        """What the turn cost."""
        speed = f", {n_tokens / seconds:.0f} tokens/s" if seconds > 0.05 else ""
        self._console.print()
        self.note(f"[{n_tokens} tokens, {seconds:.1f} s{speed}]")

    def said(self, role: str, text: str) -> None:
        """A message that is not the agent's."""
        self._console.print(Text.assemble((f"{role}: ", "bold"), plain(text)), soft_wrap=True)

    def stepped(self, result: StepResult, *, person: bool) -> None:
        """Every call with what came of it, and what else was said, unless a `person` said it."""
        by_id = {found.call_id: found for found in result.info.results}
        for message in result.observation:
            found = by_id.get(message.call_id or "")
            if found is None and message.role == "user" and person:
                continue
            if found is None:
                self.said(message.name or message.role, message.content)
                continue
            mark = f" {found.error}" if found.error else ""
            where = f" · isolation {self._isolation}" if self._isolation else ""
            facts = f"{message.name} · {found.wall_s * 1000:.1f} ms{where}"
            self._console.print(Text(f"{facts}{mark}", "red" if found.error else "cyan"))
            self._console.print(Text(plain(found.content), "yellow"), soft_wrap=True)

    def row(self, row: Transcript, tokenizer: Tokenizer) -> None:
        """The context as the policy reads it, coloured by origin; trained tokens stand out."""
        colour, text = self._console.color_system is not None, Text()
        for origin, run in groupby(row.segments, key=lambda segment: segment.origin):
            ids = np.concatenate([segment.token_ids for segment in run])
            words = plain(tokenizer.decode(ids))
            text.append(words if colour else MARKS.get(origin, "{}").format(words), STYLES[origin])
        self._console.print(text, soft_wrap=True)
        counts = self._legend(row)
        self.note(f"{len(row)} tokens: {counts}; mask 1 on {int(row.mask.sum())}")

    def _legend(self, row: Transcript) -> str:
        sizes: dict[Origin, int] = {}
        for segment in row.segments:
            sizes[segment.origin] = sizes.get(segment.origin, 0) + len(segment)
        return ", ".join(f"{n} {origin.name}" for origin, n in sizes.items())

    def ids(self, row: Transcript) -> None:
        """Ids, a line per segment, with the mask and the behaviour logprobs' sum."""
        for segment in row.segments:
            total = (
                "" if segment.logprobs is None else f" logprob {float(segment.logprobs.sum()):.3f}"
            )
            trained = int(segment.logprobs is not None)
            head = f"{segment.origin.name:<11} mask {trained}{total} "
            self._console.print(
                Text(head, "bold") + Text(str(segment.token_ids.tolist())), soft_wrap=True
            )

    def reward(self, rewards: Mapping[str, float]) -> None:
        """Every named component and the sum."""
        for name, value in rewards.items():
            self.note(f"  {name:<12} {value:+.3f}", "")
        self.note(f"  {'in all':<12} {sum(rewards.values()):+.3f}", "bold")

    def ending(self, played: Trajectory, tokenizer: Tokenizer, *, reward: bool) -> None:
        """The whole record of an episode, with its reward where there is one."""
        many = len(played.rows) > 1
        for i, row in enumerate(played.rows):
            name = f" {i + 1} of {len(played.rows)} {row.context!r}" if many else ""
            self.title(f"row{name} as the policy reads it")
            self.row(row, tokenizer)
        self.title(f"ended: {played.stop}")
        if played.error is not None:
            self.note(played.error, "red")
        calls: Sequence[str] = [call.name or "unreadable" for call in played.calls]
        self.note(
            f"{played.n_turns} turns, {len(calls)} calls, {played.timings.generate_s:.1f} s writing, "
            f"{played.timings.tool_s:.2f} s in tools; answer {played.answer!r}"
        )
        if reward:
            self.reward(played.rewards)


__all__ = ["Screen"]
