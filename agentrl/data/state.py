"""What a source leaves in a checkpoint, and taking it up again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from agentrl.data.stream import TaskStream
from agentrl.errors import UserError
from agentrl.types import JsonValue

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    StateT = TypeVar("StateT", bound=DataclassInstance)
else:
    StateT = TypeVar("StateT")

_STREAM = "stream"


def stored(state: DataclassInstance, stream: TaskStream) -> Mapping[str, JsonValue]:
    """A state dataclass as plain JSON, marked with the stream its positions belong to."""
    return {**cast("dict[str, JsonValue]", asdict(state)), _STREAM: stream.digest}


def restored(kind: type[StateT], values: Mapping[str, JsonValue], stream: TaskStream) -> StateT:
    """The state `stored` wrote.

    Raises UserError when it is another kind of source's or belongs to other tasks.
    """
    if values.get(_STREAM) != stream.digest:
        raise UserError(
            "the checkpoint was made with other tasks, seed, split or shuffling; resume with the "
            "same data.*, env.* and seed"
        )
    own = {name: value for name, value in values.items() if name != _STREAM}
    if set(own) == {field.name for field in fields(kind)}:
        with suppress(ValidationError):
            return TypeAdapter(kind).validate_python(own)
    raise UserError(
        f"the checkpoint's task source left {', '.join(sorted(own)) or 'nothing'}, which this "
        "data.source cannot go on from; resume with the same one or start a new run"
    )


__all__ = ["restored", "stored"]
