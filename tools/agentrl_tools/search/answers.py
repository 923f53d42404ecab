"""Answers of a web search kept on disk, one file each, to be read again instead of paid again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from agentrl.errors import UserError
from agentrl.types import JsonValue

Asked = Mapping[str, JsonValue]
"""What makes a request the same as another: address, query, number of results; never a key."""


class Answers:
    """A folder of JSON files, shared by processes: each is written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError when the folder cannot be made."""
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cache={folder} cannot be written: {error.strerror}") from error

    def path(self, asked: Asked) -> Path:
        """The file of a request."""
        text = json.dumps(asked, sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"

    def get(self, asked: Asked) -> JsonValue:
        """The kept answer, or None. A damaged file counts as none."""
        try:
            kept: object = json.loads(self.path(asked).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(kept, dict):
            return None
        fields = cast("dict[str, JsonValue]", kept)
        return fields.get("answer") if fields.get("asked") == dict(asked) else None

    def put(self, asked: Asked, answer: JsonValue) -> None:
        """Keep an answer."""
        path = self.path(asked)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps({"asked": dict(asked), "answer": answer}), "utf-8")
        os.replace(partial, path)


__all__ = ["Answers", "Asked"]
