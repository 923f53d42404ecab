"""A verl-tool server's tool (VerlTool, 2509.01055), used over `POST /get_observation`."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import TYPE_CHECKING, cast, final
from uuid import uuid4

from agentrl.context import Context
from agentrl.errors import SetupError, ToolError, UserError, WorldFault
from agentrl.types import JsonValue, ToolResult
from agentrl_tools.clip import clip_middle

if TYPE_CHECKING:
    import httpx

NOTHING = "(no result)"


class ToolServerLost(WorldFault, RuntimeError):
    """The tool server cannot be reached, or failed itself."""


@final
class VerlToolTool:
    """A tool of a verl-tool server; its state is the server's, one trajectory id per episode."""

    parallel = False
    uses_sandbox = False

    def __init__(
        self,
        *,
        url: str,
        name: str = "tool",
        description: str = "Sends an action to the tool server and returns what it observes.",
        template: str = "{action}",
        token_env: str = "",
        timeout_s: float = 60.0,
        max_chars: int = 4000,
    ) -> None:
        """Name a server; nothing is sent before the first call.

        Args:
            url: its address, ending in /get_observation.
            name: what the model calls the tool.
            description: what it is told of it.
            template: the action's text; each `{field}` is a text argument of the tool. For
                verl-tool's python_code: "```python\\n{code}\\n```".
            token_env: name of the environment variable with the bearer token; empty for none.
            timeout_s: seconds within which the server must answer.
            max_chars: budget of one observation; longer ones lose their middle.

        Raises UserError on an address or template that cannot be meant.
        """
        if not url.startswith(("http://", "https://")):
            raise UserError(f"verl_tool: the url {url!r} must begin with http:// or https://")
        if timeout_s <= 0 or max_chars < 2:
            raise UserError("verl_tool: timeout_s is above 0 and max_chars at least 2")
        self._fields = _fields(template)
        self.name = name
        self.description = description
        self._url, self._template, self._token = url, template, token_env
        self._timeout_s, self._max_chars = timeout_s, max_chars
        self._trajectory = ""
        self._client: httpx.AsyncClient | None = None
        self._used = False

    @property
    def schema(self) -> Mapping[str, JsonValue]:
        """One text per field of the template."""
        told = {name: {"type": "string", "description": f"The {name}."} for name in self._fields}
        return {"type": "object", "properties": told, "required": list(self._fields)}

    async def open(self, ctx: Context) -> None:
        """Take a trajectory id. Raises SetupError without httpx, UserError without the token."""
        self._trajectory = f"agentrl-{uuid4().hex}"
        self._client = _client(self._timeout_s, self._token)
        self._used = False

    async def __call__(self, **arguments: JsonValue) -> ToolResult:
        """Send one action. Raises ToolServerLost."""
        action = self._template.format(**{name: str(arguments[name]) for name in self._fields})
        self._used = True
        observation, valid = await self._send(action, finish=False)
        found = _Found.of(observation)
        if found.error:
            raise ToolServerLost(f"the tool server {self._url} failed: {found.error}")
        if not valid and not found.text:
            raise ToolError(found.reason or "The tool server could not read the action.")
        clipped = clip_middle(found.text or NOTHING, self._max_chars)
        return ToolResult(
            call_id="",
            content=clipped.text,
            error=None if valid else "execution",
            truncated=clipped.truncated,
        )

    async def close(self) -> None:
        """Let the server forget the trajectory; one that is gone has forgotten. Idempotent."""
        client = self._client
        if client is None:
            return
        try:
            if self._used:
                await self._send("", finish=True)
        except ToolServerLost:
            pass
        finally:
            self._client = None
            await client.aclose()

    async def _send(self, action: str, *, finish: bool) -> tuple[object, bool]:
        """One turn's observation and whether it was valid."""
        import httpx

        if self._client is None:
            raise RuntimeError("open() the tool before calling it")
        body: dict[str, list[JsonValue]] = {
            "trajectory_ids": [self._trajectory],
            "actions": [action],
            "finish": [finish],
            "is_last_step": [finish],
            "extra_fields": [{}],
        }
        try:
            answer = await self._client.post(self._url, json=body)
            answer.raise_for_status()
            found = answer.json()
            return found["observations"][0], bool(found["valids"][0])
        except httpx.HTTPStatusError as error:
            status, text = error.response.status_code, error.response.text[:200]
            raise ToolServerLost(
                f"the tool server {self._url} answered {status}: {text}"
            ) from error
        except httpx.TransportError as error:
            why = str(error) or type(error).__name__
            raise ToolServerLost(f"the tool server {self._url} cannot be reached: {why}") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ToolServerLost(
                f"{self._url} does not answer as a verl-tool server does; its address ends in "
                "/get_observation"
            ) from error


class _Found:
    """An observation: a text, or an object with `obs` and reasons."""

    def __init__(self, text: str, reason: str, error: str) -> None:
        self.text, self.reason, self.error = text, reason, error

    @classmethod
    def of(cls, observation: object) -> _Found:
        if not isinstance(observation, dict):
            return cls(str(observation), "", "")
        told = cast(Mapping[str, object], observation)
        return cls(*(str(told.get(key) or "") for key in ("obs", "invalid_reason", "error")))


def _fields(template: str) -> tuple[str, ...]:
    try:
        names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UserError(f"verl_tool: the template {template!r} cannot be read: {error}") from None
    if not names or not all(name.isidentifier() for name in names):
        raise UserError(
            f"verl_tool: the template {template!r} needs at least one field such as {{action}}"
        )
    return tuple(dict.fromkeys(names))


def _client(timeout_s: float, token: str) -> httpx.AsyncClient:
    import os

    try:
        import httpx
    except ImportError as error:
        raise SetupError(
            "a verl-tool server is called with httpx: pip install 'agentrl-framework[remote]'"
        ) from error
    if token and token not in os.environ:
        raise UserError(f"verl_tool: the environment variable {token} is not set; export it")
    headers = {"Authorization": f"Bearer {os.environ[token]}"} if token else {}
    return httpx.AsyncClient(timeout=timeout_s, headers=headers)


__all__ = ["ToolServerLost", "VerlToolTool"]
