"""A weight update of a vLLM server: freeze, write files, load, drop caches, go on.

New requests wait at the gate from the beginning of an update to its end, and while the server sleeps.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from agentrl.engine.base import Bucket
from agentrl.engine.vllm.command import ServerSettings
from agentrl.engine.vllm.files import Parameters, shared_memory, write_tensors
from agentrl.engine.vllm.link import ServerLink
from agentrl.errors import DeadlineExceeded, UserError

UPDATE_TIMEOUT_S = 600.0
"""Longest wait of a request for an update that was begun."""


class WeightUpdates:
    """The versions of one server's weights."""

    def __init__(self, settings: ServerSettings, link: ServerLink, parameters: Parameters) -> None:
        self._settings, self._link, self._parameters = settings, link, parameters
        self.version = 0
        self.begun = 0
        """Updates begun so far."""
        self.waiting = 0
        """Requests held back."""
        self._next_version: int | None = None
        self._gate: asyncio.Event | None = None
        self._staging: TemporaryDirectory[str] | None = None
        self._received: set[str] = set()
        self._n_files = 0

    async def begin(self, version: int) -> None:
        """Freeze what is in flight and hold back what is new."""
        if self._next_version is not None:
            raise RuntimeError("begin_update was called twice without finish_update")
        directory = self._settings.weights_dir or shared_memory()
        if self._settings.url is not None and self._settings.weights_dir is None:
            raise UserError(
                "the server at engine.url reads weights as files: name a folder that both sides see "
                "with engine.weights_dir=..."
            )
        self._next_version = version
        self.begun += 1
        self._gate = asyncio.Event()
        self._received, self._n_files = set(), 0
        self._staging = TemporaryDirectory(prefix="agentrl-weights-", dir=directory)
        await self._link.control("/pause?mode=keep")

    async def put(self, bucket: Bucket) -> None:
        """Write some parameters to a file; an unknown one ends the engine."""
        if self._staging is None:
            raise RuntimeError("put was called without begin_update")
        for name in bucket:
            if not self._parameters.known(name):
                await self._link.die(f"the model has no parameter {name!r}")
        folder, index = Path(self._staging.name), self._n_files
        self._n_files += 1
        tensors = self._parameters.with_head(bucket)
        await asyncio.to_thread(write_tensors, tensors, folder, index)
        self._received |= set(bucket)

    async def finish(self) -> None:
        """Load the files, drop every cached key and value of the old weights, go on."""
        if self._next_version is None or self._staging is None:
            raise RuntimeError("finish_update was called without begin_update")
        missing = self._parameters.missing(self._received)
        if missing:
            await self._link.die(
                f"{len(missing)} parameters never arrived, first {missing[0]!r}: "
                "a sync must hand over the whole model"
            )
        arguments = {"method": "reload_weights", "kwargs": {"weights_path": self._staging.name}}
        await self._link.control("/collective_rpc", arguments)
        await self._drop_caches()
        await self._link.control("/update_weight_version", {"new_version": str(self._next_version)})
        await self._link.control("/resume")
        self.version, self._next_version = self._next_version, None
        self.let_go()

    async def sleep(self, *, keep_weights: bool) -> None:
        """See `VllmEngine.sleep`."""
        if not self._settings.sleep:
            raise UserError("this engine cannot sleep: start it with engine.sleep=true, on a GPU")
        if self._gate is None:
            self._gate = asyncio.Event()
            await self._link.control(f"/sleep?level={1 if keep_weights else 2}&mode=keep")

    async def wake_up(self) -> None:
        """See `VllmEngine.wake_up`."""
        if self._gate is not None and self._next_version is None:
            await self._link.control("/wake_up")
            await self._drop_caches()
            self.let_go()

    async def ready(self) -> None:
        """Wait at the gate. Raises DeadlineExceeded when an update takes too long."""
        gate = self._gate
        if gate is None:
            return
        self.waiting += 1
        try:
            async with asyncio.timeout(UPDATE_TIMEOUT_S):
                await gate.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"a weight update was not finished within {UPDATE_TIMEOUT_S:g} s"
            ) from error
        finally:
            self.waiting -= 1

    def let_go(self) -> None:
        """Remove the files and let the requests at the gate go on, or fail."""
        staging, self._staging = self._staging, None
        if staging is not None:
            staging.cleanup()
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.set()

    async def _drop_caches(self) -> None:
        done = await self._link.control("/reset_prefix_cache?reset_running_requests=true")
        if not done.get("success"):
            await self._link.die("the vLLM server kept keys and values of the old weights")
