"""Reading requests: bounded bodies, typed fields, refusals that say what is wrong."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import cast

from starlette.requests import Request

from agentrl.types import JsonValue


class BadRequest(Exception):
    """A request that is refused; carries the HTTP status to answer with."""

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message, status)
        self.message = message
        self.status = status


async def read_json(request: Request, max_bytes: int) -> Mapping[str, JsonValue]:
    """The request's JSON object. Raises BadRequest: 413 too large, 415 no JSON, 422 no object."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Web pages may post other kinds to a server on this machine without asking anybody.
        raise BadRequest("the body must be application/json", 415)
    data = bytearray()
    too_large = BadRequest(f"the body is larger than {max_bytes} bytes", 413)
    if int(request.headers.get("content-length") or 0) > max_bytes:
        raise too_large
    async for piece in request.stream():
        data += piece
        if len(data) > max_bytes:
            raise too_large
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadRequest("the body must be a JSON object")
    return cast(Mapping[str, JsonValue], found)


def text(body: Mapping[str, JsonValue], name: str, default: str | None = None) -> str:
    """A string field. Raises BadRequest when it is missing or of another type."""
    value = body.get(name, default)
    if not isinstance(value, str):
        raise BadRequest(f"`{name}` must be a string")
    return value


def number(body: Mapping[str, JsonValue], name: str, default: float, most: float) -> float:
    """A finite number field in [-1, most]. Raises BadRequest."""
    value = body.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= most:
        raise BadRequest(f"`{name}` must be a number of at most {most:g}")
    return float(value)


def texts(body: Mapping[str, JsonValue], name: str) -> list[str]:
    """A list of strings, empty when missing. Raises BadRequest."""
    value = body.get(name)
    found: object = [] if value is None else value
    if not isinstance(found, list) or not all(
        isinstance(x, str) for x in cast(list[object], found)
    ):
        raise BadRequest(f"`{name}` must be a list of strings")
    return cast(list[str], found)


def uploads(body: Mapping[str, JsonValue]) -> dict[str, str]:
    """`files`: relative path -> base64; null contents are left out. Raises BadRequest."""
    value = body.get("files")
    found: object = {} if value is None else value
    if not isinstance(found, dict):
        raise BadRequest("`files` must be an object of path -> base64 text")
    kept: dict[str, str] = {}
    for name, content in cast(dict[str, object], found).items():
        if content is None:
            continue
        if not isinstance(content, str):
            raise BadRequest(f"the file {name!r} must be base64 text")
        try:
            base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError):
            raise BadRequest(f"the file {name!r} is not base64") from None
        kept[inner_path(name)] = content
    return kept


def inner_path(name: str) -> str:
    """A path that stays in the work folder. Raises BadRequest."""
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "\0" in name:
        raise BadRequest(f"the path {name!r} must be relative and stay in the work folder")
    return name


__all__ = ["BadRequest", "inner_path", "number", "read_json", "text", "texts", "uploads"]
