"""A conversation on disk: the tokens of every turn, so that it goes on exactly where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentrl.errors import UserError
from agentrl.trajectory_json import task_json
from agentrl.types import Task

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Turn:
    """What the agent wrote in one turn."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    """As recorded; 0 for tokens that were not sampled."""


@dataclass(frozen=True, slots=True)
class Saved:
    """Everything that is needed to play a conversation again."""

    words: Sequence[str]
    """Of the command line."""
    task: Task
    said: Mapping[int, str]
    """Number of a turn -> what the person answered it with."""
    turns: Sequence[Turn]
    declined: Sequence[str]
    """Ids of calls that were not run."""
    results: Sequence[str]
    """What the calls answered."""

    def write(self, path: Path) -> None:
        """Replace `path`, whole or not at all."""
        data = {
            "schema_version": SCHEMA_VERSION,
            "words": list(self.words),
            "task": task_json(self.task),
            "said": {str(turn): text for turn, text in self.said.items()},
            "turns": [{"token_ids": list(t.token_ids), "logprobs": list(t.logprobs)} for t in self.turns],
            "declined": list(self.declined),
            "results": list(self.results),
        }  # fmt: skip
        partly = path.with_name(path.name + ".part")
        partly.write_text(json.dumps(data) + "\n")
        partly.replace(path)

    @classmethod
    def read(cls, path: Path) -> Saved:
        """Raises UserError on a file that `write` did not make."""
        try:
            data: Mapping[str, Any] = json.loads(path.read_text())
            if data["schema_version"] != SCHEMA_VERSION:
                raise UserError(
                    f"{path} has schema_version {data['schema_version']}, this agentrl reads "
                    f"{SCHEMA_VERSION}; use the version that wrote it"
                )
            return cls(
                data["words"],
                Task(**data["task"]),
                {int(turn): text for turn, text in data["said"].items()},
                [Turn(t["token_ids"], t["logprobs"]) for t in data["turns"]],
                data["declined"],
                data["results"],
            )
        except FileNotFoundError:
            raise UserError(f"there is no file {path}; /save FILE writes one") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is not a saved conversation ({type(error).__name__}: {error}); "
                "open a file that /save wrote"
            ) from None


__all__ = ["Saved", "Turn"]
