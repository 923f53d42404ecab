"""The alternatives: a bare interpreter, Docker, Jupyter. Each raises Missing where it is not."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

from agentrl.testing.sandbox_bench.census import descendants, private_mb
from agentrl.testing.sandbox_bench.timing import Side

HARDENED: dict[str, Any] = {
    "network_mode": "none",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "pids_limit": 64,
    "mem_limit": "512m",
    "user": "1000:1000",
    "tmpfs": {"/work": "size=64m"},
}
_KERNEL_S = 60.0


class Missing(Exception):
    """A peer is not installed or does not run here."""


def interpreter(code: str) -> Side:
    """Seconds of `subprocess.run([python, "-c", code])`, output captured."""

    async def measure() -> float:
        began = perf_counter()
        await asyncio.to_thread(python, code)
        return perf_counter() - began

    return measure


def python(code: str) -> None:
    """Run a new interpreter, the peer without any isolation."""
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120)


@asynccontextmanager
async def docker_client(image: str) -> AsyncGenerator[Any]:
    """A client of a daemon that has the image. Raises Missing."""
    try:
        docker: Any = importlib.import_module("docker")
    except ImportError as error:
        raise Missing("the docker package is not installed") from error
    try:
        client = await asyncio.to_thread(docker.from_env)
        await asyncio.to_thread(client.images.get, image)
    except docker.errors.ImageNotFound as error:
        raise Missing(f"there is no image {image}") from error
    except docker.errors.DockerException as error:
        raise Missing("no Docker daemon answers") from error
    try:
        yield client
    finally:
        client.close()


@asynccontextmanager
async def docker_exec(image: str, python_in_image: str, code: str) -> AsyncGenerator[Side]:
    """Seconds of `docker exec python -c` in a warm, locked-down container. Raises Missing."""
    async with docker_client(image) as client:
        box = await asyncio.to_thread(
            client.containers.run, image, [python_in_image, "-c", "import time; time.sleep(7200)"],
            detach=True, **HARDENED,
        )  # fmt: skip

        def run() -> None:
            done = box.exec_run([python_in_image, "-c", code])
            if done.exit_code:
                raise RuntimeError(f"docker exec failed: {done.output[:300]!r}")

        async def measure() -> float:
            began = perf_counter()
            await asyncio.to_thread(run)
            return perf_counter() - began

        try:
            yield measure
        finally:
            await asyncio.to_thread(box.remove, force=True)


@asynccontextmanager
async def docker_run(image: str, python_in_image: str, code: str) -> AsyncGenerator[Side]:
    """Seconds of a locked-down `docker run --rm python -c`. Raises Missing."""
    async with docker_client(image) as client:

        def run() -> None:
            client.containers.run(image, [python_in_image, "-c", code], remove=True, **HARDENED)

        async def measure() -> float:
            began = perf_counter()
            await asyncio.to_thread(run)
            return perf_counter() - began

        yield measure


class Kernel:
    """A plain IPython kernel over ipc, as jupyter-client starts it."""

    def __init__(self) -> None:
        try:
            client: Any = importlib.import_module("jupyter_client.manager")
            importlib.import_module("ipykernel")
        except ImportError as error:
            raise Missing("jupyter-client and ipykernel are not installed") from error
        self._manager: Any = client.AsyncKernelManager(transport="ipc")
        self._client: Any = None

    async def start(self) -> float:
        """Seconds until it answers."""
        began = perf_counter()
        await self._manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._client = self._manager.client()
        self._client.start_channels()
        await self._client.wait_for_ready(timeout=_KERNEL_S)
        return perf_counter() - began

    async def cell(self, code: str) -> float:
        """Seconds until a cell's reply and its idle message are there."""
        began = perf_counter()
        sent = self._client.execute(code)
        await self._until(self._client.get_iopub_msg, sent, "status")
        reply = await self._until(self._client.get_shell_msg, sent, "execute_reply")
        if reply["content"]["status"] != "ok":
            raise RuntimeError(f"a cell failed: {reply['content']}")
        return perf_counter() - began

    async def _until(self, receive: Any, sent: str, kind: str) -> Any:
        while True:
            message = await receive(timeout=_KERNEL_S)
            if message["parent_header"].get("msg_id") != sent or message["msg_type"] != kind:
                continue
            if kind != "status" or message["content"]["execution_state"] == "idle":
                return message

    async def close(self) -> None:
        """End it and remove its files."""
        if self._client is not None:
            self._client.stop_channels()
        if self._manager.has_kernel:
            await self._manager.shutdown_kernel(now=True)


async def kernel_starts() -> float:
    """Seconds until a new kernel answers. Raises Missing."""
    kernel = Kernel()
    try:
        return await kernel.start()
    finally:
        await kernel.close()


@asynccontextmanager
async def kernel_cells(count: int = 5) -> AsyncGenerator[Side]:
    """Seconds per cell of a warm kernel. Raises Missing."""
    kernel = Kernel()

    async def measure() -> float:
        return sum([await kernel.cell("1 + 1") for _ in range(count)]) / count

    try:
        await kernel.start()
        yield measure
    finally:
        await kernel.close()


async def kernel_memory() -> float:
    """MB of an idle kernel with numpy and sympy loaded. Raises Missing."""
    before = descendants(os.getpid())
    kernel = Kernel()
    try:
        await kernel.start()
        await kernel.cell("import numpy, sympy")
        return sum(map(private_mb, descendants(os.getpid()) - before))
    finally:
        await kernel.close()
