"""One run, heard through a kernel's messages until it is idle and has replied.

Whatever a message says is a claim of the process that ran the code, its types included: nothing of
it is believed to have any shape.
"""

from __future__ import annotations

from queue import Empty
from typing import Any, cast

from agentrl_sandbox.capture import Capture
from agentrl_sandbox.conversation import FLOOD_BYTES, Ending
from agentrl_sandbox.inside import wire

_SLICE_S = 60.0
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)
"""What jupyter-client raises on bytes that are no message of its own."""


class Talk:
    """The outputs of one run and its reply."""

    def __init__(self, client: Any, keep_bytes: int) -> None:
        self.stdout, self.stderr = Capture(keep_bytes), Capture(keep_bytes)
        self._client = client
        self._keep_bytes = keep_bytes
        self._value: str | None = None
        self._error: str | None = None
        self._status = ""
        self._message = ""

    async def run(self, code: str) -> Ending:
        """Send the code and hear it out."""
        try:
            self._message = self._client.execute(
                code, allow_stdin=False, stop_on_error=False, store_history=False
            )
            while not self._take(await self._next(self._client.get_iopub_msg)):
                if self.stdout.dropped + self.stderr.dropped > FLOOD_BYTES:
                    return "flood"
            self._status = _text((await self._next(self._client.get_shell_msg)).get("status"))
        except _UNREADABLE:
            return "broken"
        return "done"

    async def _next(self, get: Any) -> dict[str, object]:
        """The content of the next message that answers ours, its type under `msg_type`."""
        while True:
            try:
                message = await get(timeout=_SLICE_S)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") == self._message:
                return {**message["content"], "msg_type": message["header"]["msg_type"]}

    def _take(self, content: dict[str, object]) -> bool:
        """Note one output; whether the kernel is idle."""
        kind = content["msg_type"]
        if kind == "stream":
            target = self.stderr if content.get("name") == "stderr" else self.stdout
            target.add(_bytes(content.get("text")))
        elif kind == "execute_result":
            self._value = _plain(content)
        elif kind == "display_data":
            self.stdout.add(_bytes(_plain(content)) + b"\n")
        elif kind == "error":
            self._note_error(content)
        return kind == "status" and content.get("execution_state") == "idle"

    def _note_error(self, content: dict[str, object]) -> None:
        name, told = _text(content.get("ename")), _text(content.get("evalue"))
        self._error = f"{name}: {told}" if told else name
        lines = content.get("traceback")
        if isinstance(lines, list):
            for line in cast("list[object]", lines):
                self.stderr.add(_bytes(line) + b"\n")

    def reply(self) -> wire.Reply:
        """What the kernel claims, cut to size."""
        kind = wire.OK if self._status == "ok" else wire.ERROR
        error = None if self._error is None else self._error[: wire.MAX_ERROR_BYTES]
        return wire.Reply(wire.NO_NONCE, kind, _cut(self._value, self._keep_bytes), error)


def _plain(content: dict[str, object]) -> str:
    data = content.get("data")
    return (
        _text(cast("dict[str, object]", data).get("text/plain")) if isinstance(data, dict) else ""
    )


def _cut(value: str | None, keep_bytes: int) -> str | None:
    data = _bytes(value)
    beyond = len(data) - keep_bytes
    if value is None or beyond <= 0:
        return value
    return data[:keep_bytes].decode("utf-8", "replace") + f"... [{beyond} more bytes]"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _bytes(value: object) -> bytes:
    # Lone surrogates as `local` shows them.
    return _text(value).encode("utf-8", "backslashreplace")
