"""Tasksets of verifiers 0.4, for `worker.py`, which loads this file by path under another Python.

The package's own rollout, tool servers and rewards run unchanged. Its agent is a program, here one
that lives in this process: it asks for a completion, runs the calls on the task's MCP servers, and
asks again. Its completions are handed to whoever drives by an endpoint on loopback.
"""

# pyright: basic
# (what verifiers, aiohttp and mcp are is known to the other Python only)

from __future__ import annotations

import asyncio
import importlib
import importlib.machinery
import json
import sys
import types
from contextlib import AsyncExitStack
from itertools import islice
from typing import Any

HARNESS = "agentrl_harness"
MOST_TASKS = 4096
"""Taken of a taskset without an end."""


class Tasksets:
    """A taskset and its environment, kept ready to play."""

    def __init__(self, name: str, args: dict[str, Any]) -> None:
        _define_harness()
        loaders: Any = importlib.import_module("verifiers.v1.utils.loaders")
        agent = {"harness": {"id": HARNESS}, "runtime": {"type": "subprocess"}}
        config = loaders.resolve_env_config({"taskset": {"id": name, **args}, "agent": agent})
        self.env = loaders.load_environment(config)
        self.tasks = list(islice(iter(self.env.taskset), MOST_TASKS))
        self.episodes: dict[str, Any] = {}
        self.names = iter(range(sys.maxsize))
        self.port: int | None = None
        self.ending = asyncio.Event()
        self.keeper: asyncio.Task[None] | None = None
        self.lock = asyncio.Lock()

    def rows(self, split: str) -> list[dict[str, Any]] | None:
        """Prompt and answer of every task; there is no second set."""
        if split == "test":
            return None
        return [
            {"prompt": task.data.prompt, "answer": getattr(task.data, "answer", None)}
            for task in self.tasks
        ]

    async def play(self, split: str, index: int, episode: Any) -> dict[str, Any]:
        """Run the package's own episode of a task."""
        await self._serve()
        vf: Any = importlib.import_module("verifiers.v1")
        clients: Any = importlib.import_module("verifiers.v1.configs.client")
        name = f"e{next(self.names)}"
        self.episodes[name] = episode
        client = clients.EvalClientConfig(
            base_url=f"http://127.0.0.1:{self.port}/{name}/v1", api_key_var="AGENTRL_NO_KEY"
        )
        try:
            context = vf.ModelContext(client=client, model="policy", sampling=vf.SamplingConfig())
            (slot,) = self.env.slots(self.tasks[index], 1)
            played = await self.env.run_slot(slot, context)
        finally:
            del self.episodes[name]
        return _outcome(played)

    async def close(self) -> None:
        """End the tool servers."""
        self.ending.set()
        if self.keeper is not None:
            await self.keeper

    async def _serve(self) -> None:
        async with self.lock:
            if self.keeper is None:
                ready = asyncio.get_running_loop().create_future()
                self.keeper = asyncio.ensure_future(self._keep(ready))
                await asyncio.wait([ready, self.keeper], return_when=asyncio.FIRST_COMPLETED)
                if self.keeper.done():
                    failed, self.keeper = self.keeper, None
                    failed.result()

    async def _keep(self, ready: asyncio.Future[None]) -> None:
        """Hold what episodes share; entered and left by one task, as its parts demand."""
        web: Any = importlib.import_module("aiohttp.web")

        async def chat(request: Any) -> Any:
            episode = self.episodes[request.match_info["episode"]]
            return web.json_response(await episode.complete(await request.json()))

        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/{episode}/v1/chat/completions", chat)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.port = runner.addresses[0][1]
            async with self.env.serving():
                ready.set_result(None)
                await self.ending.wait()
        finally:
            await runner.cleanup()


def _outcome(played: Any) -> dict[str, Any]:
    errors = [error for source in (played, *played.traces) for error in source.errors]
    trace = played.traces[0] if played.traces else None
    rewards = {} if trace is None else {k: float(v.score) for k, v in trace.rewards.items()}
    metrics = {} if trace is None else {k: float(v) for k, v in trace.metrics.items()}
    return {
        "reward": 0.0 if trace is None else float(trace.reward),
        "metrics": {**metrics, **rewards},
        "error": f"{errors[0].type}: {errors[0].message}" if errors else None,
        "truncated": bool(getattr(trace, "is_truncated", False)),
        "stop": getattr(trace, "stop_condition", None),
    }


def _define_harness() -> None:
    """Make the agent's program known to the package, which finds it by a module's name."""
    if HARNESS in sys.modules:
        return
    vf: Any = importlib.import_module("verifiers.v1")
    runtimes: Any = importlib.import_module("verifiers.v1.runtimes")

    class Config(vf.HarnessConfig):
        pass

    class Driven(vf.Harness[Config]):
        """An agent that only says what it is told."""

        APPENDS_SYSTEM_PROMPT = True
        SUPPORTS_MCP = True
        EXECUTES_CODE = False
        NEEDS_CONTAINER = False

        async def setup(self, runtime: Any) -> None:
            """Nothing to install."""

        async def launch(
            self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str,
            mcp_urls: dict[str, str], data: Any, tool_interception_url: str | None = None,
        ) -> Any:  # fmt: skip
            """Play until a turn without calls."""
            system, prompt = self.resolve_prompt(data)
            messages = [{"role": "system", "content": system}] if system else []
            messages += [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            async with AsyncExitStack() as stack:
                tools = await _connect(mcp_urls, stack)
                await _converse(endpoint, secret, ctx.model, messages, tools)
            return runtimes.ProgramResult(exit_code=0, stdout="", stderr="")

    module: Any = types.ModuleType(HARNESS)
    module.__spec__ = importlib.machinery.ModuleSpec(HARNESS, None)
    module.Driven, module.__all__ = Driven, ["Driven"]
    Driven.__module__ = HARNESS
    sys.modules[HARNESS] = module


async def _connect(urls: dict[str, str], stack: AsyncExitStack) -> dict[str, tuple[Any, Any]]:
    """Name -> (client, tool) of every tool of the task's servers."""
    tools: dict[str, tuple[Any, Any]] = {}
    if not urls:
        return tools
    mcp: Any = importlib.import_module("mcp")
    for server, url in urls.items():
        client = await stack.enter_async_context(mcp.Client(url))
        for tool in (await client.list_tools()).tools:
            name = tool.name if tool.name not in tools else f"{server}_{tool.name}"
            tools[name] = (client, tool)
    return tools


async def _converse(
    endpoint: str, secret: str, model: str, messages: list[Any], tools: dict[str, tuple[Any, Any]]
) -> None:
    aiohttp: Any = importlib.import_module("aiohttp")
    body: dict[str, Any] = {"model": model}
    if tools:
        body["tools"] = [_told(name, tool) for name, (_, tool) in tools.items()]
    head = {"Authorization": f"Bearer {secret}"}
    async with aiohttp.ClientSession(
        headers=head, timeout=aiohttp.ClientTimeout(total=None)
    ) as http:
        while True:
            url = f"{endpoint.rstrip('/')}/chat/completions"
            async with http.post(url, json={**body, "messages": messages}) as answer:
                if answer.status != 200:
                    return  # a limit of the environment's was reached; its trace says which
                message = (await answer.json())["choices"][0]["message"]
            messages.append(message)
            if not message.get("tool_calls"):
                return
            for call in message["tool_calls"]:
                text = await _run(call["function"], tools)
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})


def _told(name: str, tool: Any) -> dict[str, Any]:
    function = {"name": name, "description": tool.description, "parameters": tool.input_schema}
    return {"type": "function", "function": function}


async def _run(function: dict[str, Any], tools: dict[str, tuple[Any, Any]]) -> str:
    name = function["name"]
    if name not in tools:
        return f"There is no tool named {name!r}. Tools: {', '.join(sorted(tools)) or 'none'}."
    client, tool = tools[name]
    result = await client.call_tool(tool.name, json.loads(function["arguments"] or "{}"))
    return "\n".join(getattr(block, "text", f"[{block.type}]") for block in result.content)
