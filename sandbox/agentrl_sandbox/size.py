"""How much a pool of forked interpreters holds, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.errors import UserError


@dataclass(frozen=True, slots=True)
class Size:
    """Checked when made: raises UserError."""

    max_sessions: int = 64
    spares: int = 2
    """Interpreters kept ready beyond the leased ones; 0: each is made when it is asked for."""
    wait_s: float = 600.0
    """Longest wait for a slot before `acquire` gives up."""
    idle_s: float = 3600.0
    """A session that nobody used for so long is closed, so that a lost lease costs no slot."""
    max_cells: int | None = None
    """Runs that one session may have; None: any number."""

    def __post_init__(self) -> None:
        if self.max_sessions < 1 or self.spares < 0:
            raise UserError(
                f"max_sessions={self.max_sessions} and spares={self.spares}: a pool needs at least "
                "one session and no negative number of spares"
            )
        most = 1 if self.max_cells is None else self.max_cells
        if self.wait_s <= 0 or self.idle_s <= 0 or most < 1:
            raise UserError(
                f"wait_s={self.wait_s}, idle_s={self.idle_s} and max_cells={self.max_cells} must "
                "be positive; leave max_cells out for no limit"
            )
