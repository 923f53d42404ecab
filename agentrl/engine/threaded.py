"""What the in-process engines share: the engine contract over a backend on a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from agentrl.engine.base import Bucket, EngineStatistics, Generation, Sampling
from agentrl.engine.worker import Backend, EngineThread
from agentrl.transcript import Float32Array, Int32Array


class EngineBackend(Backend, Protocol):
    """A backend whose weights can be replaced between two steps."""

    @property
    def version(self) -> int:
        """Policy version of the weights in use."""
        ...

    @property
    def max_context(self) -> int:
        """Longest row, prompt and generation together, in tokens."""
        ...

    def begin_update(self, version: int) -> None:
        """Pause; the next `put`s make up version `version`."""
        ...

    def put(self, bucket: Bucket) -> None:
        """Copy some parameters, named as `state_dict()` of the model names them."""
        ...

    def finish_update(self) -> None:
        """Use the new weights; raises EngineError when one is missing."""
        ...

    def statistics(self) -> EngineStatistics:
        """Counts at this moment."""
        ...


BackendT = TypeVar("BackendT", bound=EngineBackend)


class ThreadedEngine(Generic[BackendT]):
    """Implements `agentrl.engine.base.Engine` by asking a backend."""

    def __init__(self, make: Callable[[], BackendT], *, name: str) -> None:
        """`make` loads the backend; it is called on the engine's thread, by `open`."""
        self._thread = EngineThread(make, name=name)

    @property
    def version(self) -> int:
        """See `Engine.version`."""
        return self._thread.backend.version

    @property
    def dead(self) -> str | None:
        """Why nothing more is served; None while the engine lives."""
        return self._thread.dead

    @property
    def max_context(self) -> int:
        """See `Engine.max_context`."""
        return self._thread.backend.max_context

    async def open(self) -> None:
        """Load. Raises UserError for a model that it cannot run, SetupError for a machine that it
        cannot run on."""
        await self._thread.open()

    async def generate(self, token_ids: Int32Array, sampling: Sampling) -> Generation:
        """Continue a row.

        Raises UserError for an empty row, one that fills `max_context`, stop strings without a
        tokenizer or what this engine cannot honour; EngineError when the engine died.
        """
        result = await self._thread.request(token_ids, sampling)
        assert isinstance(result, Generation)
        return result

    async def score(self, token_ids: Int32Array, sampling: Sampling) -> Float32Array:
        """See `Engine.score`. Raises as `generate` does."""
        result = await self._thread.request(token_ids, sampling, scoring=True)
        assert not isinstance(result, Generation)
        return result

    async def begin_update(self, version: int) -> None:
        """Pause between two steps and expect new weights."""
        await self._thread.call(lambda backend: backend.begin_update(version))

    async def put(self, bucket: Bucket) -> None:
        """Copy some parameters in, named as `state_dict()` of the model names them."""
        await self._thread.call(lambda backend: backend.put(bucket))

    async def finish_update(self) -> None:
        """Go on with the new weights. Raises EngineError, and ends the engine, when one is missing."""
        await self._thread.call(lambda backend: backend.finish_update())

    async def close(self) -> None:
        """See `Engine.close`."""
        await self._thread.close()

    def statistics(self) -> EngineStatistics:
        """See `Engine.statistics`."""
        return self._thread.backend.statistics()


__all__ = ["EngineBackend", "ThreadedEngine"]
