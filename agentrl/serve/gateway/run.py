"""`agentrl serve`: a model behind a URL until Ctrl-C, as an agent or as a recorder."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agentrl.config import RunConfig
from agentrl.errors import UserError
from agentrl.model_path import model_path
from agentrl.rollout.parts import Parts
from agentrl.serve.gateway.agent import Agent
from agentrl.serve.gateway.backend import Recording
from agentrl.serve.gateway.recordings import OpenSessions
from agentrl.serve.gateway.server import (
    allowed_hosts,
    need_packages,
    serve_until_signal,
    token_for,
    url_of,
)
from agentrl.serve.gateway.session import SamplingBy
from agentrl.serve.running import is_loopback
from agentrl.serve.sandbox_server import listen
from agentrl.train import loop, setup
from agentrl.train.folder import RunFolder, create, planned
from agentrl.train.metrics import append_line
from agentrl.trajectory import Trajectory
from agentrl.trajectory_json import to_line

TOKEN_ENV = "AGENTRL_GATEWAY_TOKEN"
Mode = Literal["agent", "record"]
Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a gateway is served."""

    mode: Mode = "agent"
    host: str = "127.0.0.1"
    """Anything but loopback opens the model and its tools to others."""
    port: int = 8000
    """0 takes a free one."""
    token_env: str = TOKEN_ENV
    """Environment variable with the token that clients send as API key."""
    allow_no_token: bool = False
    """Serve beyond loopback without a token."""
    max_body_mb: int = 32
    sampling: SamplingBy = "run"
    """Whose temperature recorded sessions use."""


def serve(
    config: RunConfig, settings: Settings, *, command: str, announce: Announce = print
) -> None:
    """Serve until SIGINT or SIGTERM; running requests get ten seconds to end.

    announce: hears where the server listens and where it records. Raises UserError for bad input
    or an address that would be open to all, SetupError where packages or a sandbox are missing.
    """
    need_packages()
    token = token_for(settings.host, settings.token_env, allow_no_token=settings.allow_no_token)
    if settings.max_body_mb < 1:
        raise UserError(f"--max-body-mb is at least 1, not {settings.max_body_mb}")
    folder = planned(config) if settings.mode == "record" else None
    parts = _parts(config, settings.mode)
    with listen(settings.host, settings.port) as listening:
        if folder is not None:
            create(folder, config, command)
        asyncio.run(_serve(config, settings, parts, listening, token, folder, announce))


def _parts(config: RunConfig, mode: Mode) -> Parts:
    make_env = setup.env_factory(config.env)
    chat = setup.open_chat(config, make_env())
    engine = setup.make_engine(config, chat, model_path(config.model.path))
    recorded = mode == "record"
    temperature = config.rollout.temperature if recorded else config.eval.temperature
    return setup.make_parts(config, chat, make_env, engine, temperature)


async def _serve(
    config: RunConfig,
    settings: Settings,
    parts: Parts,
    listening: socket.socket,
    token: str | None,
    folder: RunFolder | None,
    announce: Announce,
) -> None:
    from agentrl.serve.gateway.app import Rules, gateway_app

    name = Path(config.model.path).name
    rules = Rules(token, settings.max_body_mb << 20, allowed_hosts(settings.host))
    async with AsyncExitStack() as opened:
        await loop.open_parts(opened, parts.engine, parts.pool, parts.partners)
        if folder is None:
            agent = Agent(
                name,
                parts,
                seed=config.seed,
                in_flight=config.rollout.in_flight,
                call_s=config.env.call_s,
            )
            app, reaping = gateway_app(name, agent, rules), None
        else:
            sessions = _sessions(config, settings, parts, folder)
            opened.callback(sessions.close_all)
            backend = Recording(name, sessions, parts.renderer.tokenizer)
            app, reaping = gateway_app(name, backend, rules, sessions), sessions
        for line in _lines(name, settings, listening, token, folder):
            announce(line)
        async with asyncio.TaskGroup() as group:
            reaper = None if reaping is None else group.create_task(reaping.reap())
            await serve_until_signal(app, listening)
            if reaper is not None:
                reaper.cancel()


def _sessions(
    config: RunConfig, settings: Settings, parts: Parts, folder: RunFolder
) -> OpenSessions:
    def keep(trajectory: Trajectory) -> None:
        append_line(folder.trajectories, to_line(trajectory))

    return OpenSessions(parts, keep, seed=config.seed, sampling=settings.sampling)


def _lines(
    name: str,
    settings: Settings,
    listening: socket.socket,
    token: str | None,
    folder: RunFolder | None,
) -> list[str]:
    url = url_of(settings.host, listening.getsockname()[1])
    lines = [f"{name} at {url}/v1 ({settings.mode})"]
    if folder is not None:
        lines.append(f"sessions are kept in {folder.trajectories}")
    if not is_loopback(settings.host):
        guard = "WITH THE TOKEN" if token else "WITHOUT ANY TOKEN"
        lines.append(
            f"WARNING: EVERYONE WHO REACHES {url} {guard} CAN USE THIS MODEL AND ITS TOOLS"
        )
    return lines


__all__ = ["TOKEN_ENV", "Mode", "Settings", "serve"]
