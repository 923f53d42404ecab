"""Plays verifiers environments for another process. Executed by path under the environment's Python.

    -> {"id": 1, "do": "load", "env": "my-env", "args": {...}, "path": [...]}
    -> {"id": 2, "do": "rows", "split": "train", "start": 0, "stop": 64}
    -> {"id": 3, "do": "start", "episode": "e1", "split": "train", "index": 5}
    <- {"id": 3, "ok": {"messages": [...], "tools": [...]}}      the model is asked
    -> {"id": 4, "do": "say", "episode": "e1", "message": {"role": "assistant", ...}}
    <- {"id": 4, "ok": {"messages": [...], "tools": [...]}}      asked again, or
    <- {"id": 4, "ok": {"reward": 1.0, "metrics": {...}, ...}}   over
    -> {"id": 5, "do": "end", "episode": "e1"}
    <- {"id": n, "error": "...", "kind": "missing" | "user" | "world"}

One JSON object a line. Environments with `load_environment` (verifiers 0.1) are played here by their
own rollout, unchanged; its model is an OpenAI client whose requests are handed to whoever drives.
Tasksets of verifiers 0.4 are in `tasksets.py`. Only the standard library and what verifiers itself
needs are imported: agentrl need not be installed.
"""

# pyright: basic
# (what verifiers, openai and their HTTP client are is known to the other Python only)

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import inspect
import json
import os
import sys
import threading
from typing import Any


class Refused(Exception):
    """A request that cannot be met; `kind` says whose fault it is."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Episode:
    """One rollout: a conversation between the environment and whoever drives."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.rollout: asyncio.Task[Any] | None = None

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The model's answer to a chat completion request."""
        tools = [tool["function"] for tool in body.get("tools") or [] if "function" in tool]
        self.asked.put_nowait({"messages": body["messages"], "tools": tools})
        message = await self.said.get()
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        return {
            "id": "chatcmpl-agentrl", "object": "chat.completion", "created": 0, "model": "policy",
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        }  # fmt: skip

    async def next(self) -> dict[str, Any]:
        """The next request to the model, or how the rollout ended."""
        asking = asyncio.ensure_future(self.asked.get())
        rollout = self.rollout
        assert rollout is not None
        await asyncio.wait([asking, rollout], return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            return asking.result()
        asking.cancel()
        return rollout.result()


def client_for(episode: Episode) -> Any:
    """An OpenAI client that asks the episode instead of the network."""
    openai: Any = importlib.import_module("openai")
    # httpx or its successor, whichever this openai was written for.
    base = openai.DefaultAsyncHttpxClient.__mro__[1]
    httpx: Any = importlib.import_module(base.__module__.partition(".")[0])

    class Policy(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: Any) -> Any:
            if not request.url.path.endswith("/chat/completions"):
                return httpx.Response(404, json={"error": {"message": "chat completions only"}})
            return httpx.Response(200, json=await episode.complete(json.loads(request.content)))

    return openai.AsyncOpenAI(
        api_key="none",
        base_url="http://policy.invalid/v1",
        max_retries=0,
        timeout=None,
        http_client=httpx.AsyncClient(transport=Policy()),
    )


class Classic:
    """An environment of the form most are published in: `load_environment(**args)`."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.sets: dict[str, Any] = {}

    def rows(self, split: str) -> Any:
        """The data set of a split; None when the environment brings no own one for evaluation."""
        if split not in self.sets:
            if split == "test":
                has = getattr(self.env, "eval_dataset", None) is not None
                has = has or getattr(self.env, "eval_dataset_source", None) is not None
                self.sets[split] = self.env.get_eval_dataset() if has else None
            else:
                try:
                    self.sets[split] = self.env.get_dataset()
                except ValueError:
                    self.sets[split] = None
        return self.sets[split]

    async def play(self, split: str, index: int, episode: Episode) -> dict[str, Any]:
        """Run the environment's own rollout and rubric."""
        row = dict(self.rows(split)[index])
        vf: Any = importlib.import_module("verifiers")
        client = client_for(episode)
        wrapper = getattr(vf, "OpenAIChatCompletionsClient", None)
        client = wrapper(client) if wrapper is not None else client
        if hasattr(self.env, "run_rollout"):
            called = self.env.run_rollout
            known = inspect.signature(called).parameters
            options = {"max_retries": 0} if "max_retries" in known else {}
            state = await called(row, client, "policy", {}, **options)
        else:
            state = await self.env.rollout(row, client, "policy", {})
            await self.env.rubric.score_rollout(state)
        return _outcome(state)


def _outcome(state: Any) -> dict[str, Any]:
    error = state.get("error")
    if error is not None and not isinstance(error, str):
        kind = error.get("error") if isinstance(error, dict) else None
        kind = kind or type(error).__name__
        text = error.get("error_chain_str") if isinstance(error, dict) else None
        error = f"{kind}: {text or error}"
    metrics = {k: float(v) for k, v in (state.get("metrics") or {}).items() if v is not None}
    return {
        "reward": float(state.get("reward") or 0.0),
        "metrics": metrics,
        "error": error,
        "truncated": bool(state.get("is_truncated")),
        "stop": state.get("stop_condition"),
    }


class Worker:
    """Answers requests; everything runs in one event loop."""

    def __init__(self, out: Any) -> None:
        self.out = out
        self.loaded: Any = None
        self.episodes: dict[str, Episode] = {}
        self.running: set[asyncio.Task[None]] = set()

    def take(self, line: str) -> None:
        """Begin to answer one line."""
        asked = json.loads(line)
        task = asyncio.get_running_loop().create_task(self.answer(asked))
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    async def answer(self, asked: dict[str, Any]) -> None:
        """Answer with `ok` or `error`."""
        try:
            told = {"ok": await getattr(self, "do_" + asked["do"])(asked)}
        except Refused as error:
            told = {"error": str(error), "kind": error.kind}
        except Exception as error:  # noqa: BLE001  the border: the process serves other episodes too
            told = {"error": f"{type(error).__name__}: {error}", "kind": "world"}
        self.out.write(json.dumps({"id": asked["id"], **told}, default=str) + "\n")
        self.out.flush()

    async def do_load(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Load the environment once; sizes of its splits (-1: none)."""
        if self.loaded is None:
            _add_path(asked.get("path") or [])
            # In the main thread: verifiers sets signal handlers as it loads.
            self.loaded = _load(asked["env"], asked["args"])
        sets = {split: self.loaded.rows(split) for split in ("train", "test")}
        return {
            "version": importlib.metadata.version("verifiers"),
            **{split: -1 if rows is None else len(rows) for split, rows in sets.items()},
        }

    async def do_rows(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        """Prompts and answers of some rows."""
        rows = self._rows(asked)
        found = [rows[i] for i in range(asked["start"], min(asked["stop"], len(rows)))]
        return [{"prompt": row.get("prompt"), "answer": row.get("answer")} for row in found]

    async def do_start(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Begin a rollout."""
        if self.loaded is None:
            raise Refused("world", "nothing is loaded")
        self._rows(asked)
        episode = self.episodes[asked["episode"]] = Episode()
        episode.rollout = asyncio.ensure_future(
            self.loaded.play(asked["split"], asked["index"], episode)
        )
        return await episode.next()

    async def do_say(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Hand over the model's message."""
        episode = self.episodes.get(asked["episode"])
        if episode is None:
            raise Refused("world", "there is no such episode")
        episode.said.put_nowait(asked["message"])
        return await episode.next()

    async def do_end(self, asked: dict[str, Any]) -> None:
        """Give up a rollout; the environment's own clean-up still runs."""
        episode = self.episodes.pop(asked["episode"], None)
        if episode is not None and episode.rollout is not None and not episode.rollout.done():
            episode.rollout.cancel()
            await asyncio.wait([episode.rollout])

    def _rows(self, asked: dict[str, Any]) -> Any:
        rows = None if self.loaded is None else self.loaded.rows(asked["split"])
        if rows is None:
            raise Refused("user", f"the environment has no {asked['split']} data")
        return rows


def _add_path(folders: list[str]) -> None:
    """Here and, for the tool servers that an environment starts, in its children."""
    sys.path[:0] = folders
    before = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    os.environ["PYTHONPATH"] = os.pathsep.join([*folders, *before])


def _load(name: str, args: dict[str, Any]) -> Any:
    if importlib.util.find_spec("verifiers") is None:
        raise Refused("missing", f"{sys.executable} has no verifiers")
    module = name.replace("-", "_").split("/")[-1]
    if importlib.util.find_spec(module) is None:
        raise Refused("user", f"{sys.executable} has no environment {name!r} (module {module})")
    try:
        if hasattr(importlib.import_module(module), "load_environment"):
            return Classic(_classic(name, args))
        return _tasksets().Tasksets(name, args)
    except (TypeError, AttributeError, ValueError, RuntimeError, ImportError) as error:
        raise Refused("user", f"{name} cannot be loaded: {error}") from error


def _classic(name: str, args: dict[str, Any]) -> Any:
    vf: Any = importlib.import_module("verifiers")
    if not hasattr(vf, "load_environment"):
        version = importlib.metadata.version("verifiers")
        raise Refused("missing", f"{name} needs verifiers<0.2, not {version}")
    return vf.load_environment(name, **args)


def _tasksets() -> Any:
    """The file beside this one, which is no module to the Python that runs here."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tasksets.py")
    spec = importlib.util.spec_from_file_location("agentrl_tasksets", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def main() -> None:
    """Serve standard input until it ends."""
    # What the environment prints must not fall between the answers.
    sys.path.pop(0)  # this file's folder, whose names are none of the environment's
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker(out)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(worker.take, line)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=read, daemon=True).start()
    await ended.wait()
    if hasattr(worker.loaded, "close"):
        await asyncio.wait([asyncio.ensure_future(worker.loaded.close())], timeout=1.5)
    os._exit(0)  # a sync tool that still runs in a thread must not hold the process


if __name__ == "__main__":
    asyncio.run(main())
