"""The Docker daemon through the docker SDK, errors put into our words. All calls block."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass
from typing import Any

from agentrl.errors import SandboxError, SandboxUnavailable, UserError
from agentrl_sandbox.docker import bundle
from agentrl_sandbox.owner import MARK, Owner

_CALL_S = 30
_GONE_S = 10.0
_USER = 60_000
"""User and group inside; nobody's anywhere."""
_SOURCES_MB = 16
_INODES = 16_384


@dataclass(frozen=True, slots=True)
class Box:
    """What one container may use and how it is started."""

    image: str
    python: str
    runtime: str | None
    memory_mb: int
    disk_mb: int
    processes: int


class Daemon:
    """A connection to the daemon that `DOCKER_HOST` names, or to the one of this machine."""

    def __init__(self, api: Any, where: str, info: dict[str, Any]) -> None:
        # The SDK has no types worth the name: it is `docker.APIClient`.
        self._api = api
        self._where = where
        self._owner = Owner.me()
        self.runtimes: frozenset[str] = frozenset(info.get("Runtimes") or {})
        """Names of the container runtimes that it knows."""
        self.memory_mb: int = int(info.get("MemTotal") or 0) >> 20
        """Of its machine; 0 when it does not say."""

    @classmethod
    def connect(cls) -> Daemon:
        """Find the daemon. Raises SandboxUnavailable with the remedy."""
        try:
            import docker
        except ImportError as error:
            raise SandboxUnavailable(
                "the docker sandbox needs the docker SDK: pip install 'agentrl-framework[docker]'"
            ) from error
        where = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        if not where.startswith(("unix://", "tcp://")) or os.environ.get("DOCKER_TLS_VERIFY"):
            raise UserError(
                f"the docker sandbox cannot use {where}: set DOCKER_HOST to a unix:// or plain "
                "tcp:// address (over ssh: ssh -L ./docker.sock:/var/run/docker.sock HOST)"
            )
        try:
            _knock(where)
            api: Any = docker.APIClient(base_url=where, version="auto", timeout=_CALL_S)
            info = api.info()
        except _errors() as error:
            raise SandboxUnavailable(
                f"no Docker daemon answers at {where} ({_words(error)}): start it with "
                "`sudo systemctl start docker` (or run `dockerd`), or set DOCKER_HOST"
            ) from error
        return cls(api, where, info)

    def close(self) -> None:
        """Give back the connections."""
        self._api.close()

    def _sdk(self) -> Any:
        """The SDK's client, for one call. Raises OSError when the daemon is gone."""
        _knock(self._where)
        return self._api

    def check_image(self, image: str, how_to_get: str) -> None:
        """Raises SandboxUnavailable when the daemon does not have it."""
        from docker.errors import ImageNotFound

        try:
            self._sdk().inspect_image(image)
        except ImageNotFound as error:
            raise SandboxUnavailable(f"there is no image {image!r}: {how_to_get}") from error
        except _errors() as error:
            raise SandboxUnavailable(f"the image {image!r}: {_words(error)}") from error

    def launch(self, name: str, box: Box) -> socket.socket:
        """Create, attach to and start a container. Raises SandboxError; then nothing is left."""
        try:
            self._create(name, box)
            channel = self._attach(name)
        except _errors() as error:
            self.remove(name)
            raise SandboxError(f"no container could be made: {_words(error)}") from error
        try:
            self._sdk().start(name)
        except _errors() as error:
            channel.close()
            self.remove(name)
            raise SandboxError(f"the container does not start: {_words(error)}") from error
        return channel

    def _create(self, name: str, box: Box) -> None:
        options = f"rw,nosuid,nodev,noexec,uid={_USER},gid={_USER}"
        inodes = f"nr_inodes={_INODES}"
        host_config = self._api.create_host_config(
            network_mode="none",
            ipc_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            pids_limit=box.processes,
            mem_limit=f"{box.memory_mb}m",
            memswap_limit=f"{box.memory_mb}m",
            tmpfs={
                bundle.HOME: f"{options},mode=0700,size={_SOURCES_MB}m",
                bundle.WORK: f"{options},mode=0711,size={box.disk_mb}m,{inodes}",
            },
            # Everything said on the channel would otherwise be written to the machine's disk.
            log_config={"type": "none", "config": {}},
            auto_remove=True,
            runtime=box.runtime,
        )
        self._sdk().create_container(
            box.image,
            entrypoint=[box.python, "-I", "-c", bundle.PROGRAM],
            command=[],
            name=name,
            hostname="sandbox",
            user=f"{_USER}:{_USER}",
            working_dir="/",
            environment={"HOME": bundle.WORK, "TMPDIR": bundle.WORK, "LANG": "C.UTF-8"},
            stdin_open=True,
            network_disabled=True,
            healthcheck={"test": ["NONE"]},
            labels=self._owner.labels(),
            host_config=host_config,
        )

    def _attach(self, name: str) -> socket.socket:
        params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        wrapped = self._sdk().attach_socket(name, params)
        try:
            channel = socket.socket(fileno=os.dup(wrapped.fileno()))
        finally:
            # The response owns the connection; where it is not kept, the wrapper is all there is.
            getattr(wrapped, "_response", wrapped).close()
        channel.setblocking(False)
        return channel

    def remove(self, name: str) -> None:
        """Kill it and wait until it is removed; gone already is as good. Never raises."""
        with contextlib.suppress(*_errors()):
            self._sdk().remove_container(name, force=True, v=True)
        deadline = time.monotonic() + _GONE_S
        with contextlib.suppress(*_errors()):
            while time.monotonic() < deadline:
                self._sdk().inspect_container(name)
                time.sleep(0.02)

    def sweep(self) -> int:
        """Remove the containers whose owners are dead, and say how many there were.

        Containers of other machines and of earlier boots are left alone while they run.
        """
        found: list[dict[str, Any]] = []
        with contextlib.suppress(*_errors()):
            found = self._sdk().containers(all=True, filters={"label": MARK})
        stale = [entry["Id"] for entry in found if _is_stale(entry)]
        for name in stale:
            self.remove(name)
        return len(stale)


def _is_stale(entry: dict[str, Any]) -> bool:
    owner = Owner.from_labels(entry.get("Labels") or {})
    gone = owner.is_gone() if owner is not None else None
    return entry.get("State") not in ("running", "created") if gone is None else gone


def _knock(where: str) -> None:
    """Connect and hang up: the SDK leaves a socket behind for every refusal. Raises OSError."""
    if where.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_CALL_S)
            probe.connect(where.removeprefix("unix://"))


def _errors() -> tuple[type[Exception], ...]:
    """What the SDK raises: its own errors, and those of the libraries below it."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    return DockerException, RequestException, OSError


def _words(error: Exception) -> str:
    explanation = getattr(error, "explanation", None)
    return " ".join(str(explanation or error).split())[:500]
