"""Long-Short (2505.11827): a long-thought and a short-thought role share one chain of thought.

The long role writes up to `</think>`; the short one goes on to `</answer>`, which ends the turn, or to
`</rethink>`, which asks the long one again. Both write into one row and read all of it. Only the
trained role's tokens are sampled tokens; the other role's writer is a partner of its name
(`rollout.partners.short`), else the policy itself, untrained. With `trained: both` the policy plays
both roles and every token is trained: exact, as each was sampled after what stands before it.

A thought that has used up `role_tokens` is closed by the plan; a tool call ends a turn as always, and
its role goes on in the next. Recorded components: `format`, 1 when every piece of the trained role is
well formed, and the measurement `roles/exchanges`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

from agentrl.episode import Episode
from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.roles import partner_of, refuse_partner, trained_role
from agentrl.rollout.plans.siblings import side_by_side
from agentrl.trajectory import Group, Trajectory
from agentrl.types import Task

Role = Literal["long", "short"]
ROLES: Final[tuple[Role, Role]] = ("long", "short")
STOPS: Final = {"long": ("</think>",), "short": ("</answer>", "</rethink>")}
"""Where a role hands over."""
_FORMS: Final = {
    "long": re.compile(r"<think>([^<]+)</think>"),
    "short": re.compile(r"<answer>([^<]+)</(?:answer|rethink)>"),
}


def well_formed(role: Role, piece: str) -> bool:
    """The whole piece is the role's one block, with something in it and no `<`."""
    found = _FORMS[role].fullmatch(piece)
    return found is not None and bool(found[1].strip())


@dataclass(slots=True)
class _Chain:
    """One episode's exchange of roles."""

    role: Role = "long"
    exchanges: int = 0
    """Times the short role was asked."""
    pieces: dict[Role, list[str]] = field(default_factory=lambda: {"long": [], "short": []})
    piece: str = ""
    """What the present role has written so far."""

    def hand_over(self) -> None:
        """The piece is whole; the other role goes on."""
        self.pieces[self.role].append(self.piece)
        self.piece = ""
        self.exchanges += self.role == "long"
        self.role = "short" if self.role == "long" else "long"


class LongShort:
    """Siblings whose turns two roles write in alternation."""

    roles: ClassVar = frozenset(ROLES)

    def __init__(
        self,
        *,
        group_size: int = 2,
        trained: Literal["both", "long", "short", "alternate"] = "both",
        role_tokens: int = 2048,
        exchanges: int = 4,
    ) -> None:
        """
        trained: whose tokens are; `alternate` trains the long role on even steps, the short one on
        odd ones. role_tokens: of one piece. exchanges: times the short role may be asked in one
        turn; what it then answers ends the turn.
        """
        if role_tokens < 1 or exchanges < 1:
            raise UserError("long_short needs role_tokens and exchanges of at least 1")
        self._group_size, self._trained = group_size, trained
        self._role_tokens, self._exchanges = role_tokens, exchanges

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """`group_size` chains in sibling order, all training the same role."""
        writers = self._writers(services, ctx)

        async def play(sibling: int) -> Trajectory:
            async with services.episodes.live(task, sibling, ctx) as episode:
                return await self._chained(episode, writers)

        return Group(task, await side_by_side(range(self._group_size), play), ctx.step)

    def _writers(self, services: Services, ctx: Ctx) -> dict[Role, str | None]:
        """Role -> the partner that writes for it; None where the policy does and is trained."""
        for role in ROLES:
            if self._trained in ("both", role):
                refuse_partner(role, services, self._trained)
        if self._trained == "both":
            return {"long": None, "short": None}
        mine = trained_role(self._trained, ROLES, ctx.step)
        partners = {role: partner_of(role, services, self._trained) for role in ROLES}
        return {role: None if role == mine else partners[role] for role in ROLES}

    async def _chained(self, episode: Episode, writers: dict[Role, str | None]) -> Trajectory:
        chain = _Chain()
        while episode.stop is None:
            before = episode.text
            written = await episode.write(
                by=writers[chain.role], stop=STOPS[chain.role], max_tokens=self._role_tokens
            )
            if written is None:
                break
            chain.piece += episode.text[len(before) :]
            if episode.complete:
                await self._acted(episode, chain)
                continue
            ended = chain.role == "short" and written.stop_text != "</rethink>"
            if chain.role == "long" and written.stop_text is None and episode.stop is None:
                episode.place("</think>")
            last = chain.exchanges == self._exchanges and chain.role == "short"
            chain.hand_over()
            if (ended or last) and episode.stop is None:
                await self._acted(episode, chain)
        if chain.piece:
            chain.pieces[chain.role].append(chain.piece)
        return _measured(episode.finish(), chain, writers)

    async def _acted(self, episode: Episode, chain: _Chain) -> None:
        """The world answers; a whole turn's roles begin anew, an interrupted piece goes on."""
        await episode.act()
        if chain.role == "long" and not chain.piece:
            chain.exchanges = 0


def _measured(trajectory: Trajectory, chain: _Chain, writers: dict[Role, str | None]) -> Trajectory:
    if trajectory.error is not None:
        return trajectory
    mine: list[Role] = [role for role in ROLES if writers[role] is None]
    good = [well_formed(role, piece) for role in mine for piece in chain.pieces[role]]
    asked = len(chain.pieces["short"])
    return trajectory.scored(
        **{"format": float(bool(good) and all(good)), "roles/exchanges": float(asked)}
    )


__all__ = ["LongShort", "well_formed"]
