"""LiveCodeBench's tests (arXiv:2403.07974), as `agentrl.verify.code` reads tests.

A test is `{"input": ..., "output": ..., "testtype": "stdin" | "functional"}`; hidden ones may be
compressed: base64 of zlib of a pickled string of JSON. The pickle is never loaded, its one string is
read out of it.
"""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Mapping, Sequence
from typing import cast

from agentrl.data.rows import Row
from agentrl.errors import UserError
from agentrl.types import JsonValue

MAX_BYTES = 256 << 20
"""Of one task's tests, unpacked."""
IMPORTS = "from typing import *\nfrom collections import *\nimport math, heapq, bisect, itertools\n"
"""What starter code takes for granted."""
NEEDED = ("question_content", "public_test_cases")


def tests_in(row: Row) -> dict[str, JsonValue]:
    """Metadata of a row: `cases` (hidden ones, else the public), `public`, `entry_point`, `prompt`.

    Raises UserError that names the row and the column.
    """
    name = _function(row)
    public = [_case(test, name, row) for test in _tests(row, "public_test_cases")]
    hidden = [_case(test, name, row) for test in _tests(row, "private_test_cases")]
    if not public and not hidden:
        raise UserError(f"{row.where}: there are no tests; give public or private ones")
    found: dict[str, JsonValue] = {"cases": hidden or public, "public": public}
    if name is not None:
        found |= {"entry_point": name, "prompt": IMPORTS}
    return found


def _function(row: Row) -> str | None:
    """`Solution.method` or the function's name; None for programs."""
    data = row.values.get("metadata")
    if isinstance(data, str) and data.strip():
        data = _json(data, "metadata", row)
    name = (
        cast(Mapping[str, JsonValue], data).get("func_name") if isinstance(data, Mapping) else None
    )
    if not isinstance(name, str) or not name:
        return None
    return f"Solution.{name}" if "class Solution" in str(row.values.get("starter_code")) else name


def _tests(row: Row, column: str) -> Sequence[JsonValue]:
    value = row.values.get(column)
    if isinstance(value, str) and value.strip():
        text = value.lstrip()
        value = _json(value if text.startswith("[") else _unpacked(value, column, row), column, row)
    if value is None or value == "":
        return ()
    if not isinstance(value, list):
        raise UserError(f"{row.where}: {column} must be a list of tests; write one or leave it out")
    return cast(Sequence[JsonValue], value)


def _unpacked(text: str, column: str, row: Row) -> str:
    """The JSON in a compressed column."""
    try:
        unzip = zlib.decompressobj()
        raw = unzip.decompress(base64.b64decode(text, validate=True), MAX_BYTES)
        if unzip.unconsumed_tail:
            raise UserError(f"{row.where}: {column} has over {MAX_BYTES >> 20} MB; leave it out")
        strings = [
            argument for _, argument, _ in pickletools.genops(raw) if isinstance(argument, str)
        ]
    except (binascii.Error, zlib.error, ValueError) as error:
        raise UserError(f"{row.where}: {column} is neither JSON nor packed ({error})") from None
    if len(strings) != 1:
        raise UserError(f"{row.where}: {column} packs {len(strings)} texts instead of one; mend it")
    return strings[0]


def _json(text: str, column: str, row: Row) -> JsonValue:
    try:
        return cast(JsonValue, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{row.where}: {column} is not JSON ({error}); mend the row") from None


def _case(test: JsonValue, name: str | None, row: Row) -> JsonValue:
    if not isinstance(test, Mapping):
        raise UserError(
            f"{row.where}: a test must be an object with input and output, not {test!r}"
        )
    given, wanted = test.get("input"), test.get("output")
    if not isinstance(given, str) or not isinstance(wanted, str):
        raise UserError(f"{row.where}: a test has no text input and output; mend the row")
    if name is None:
        return {"stdin": given, "stdout": wanted}
    arguments = [_json(line, "a test's input", row) for line in given.splitlines() if line.strip()]
    return {"args": arguments, "expected": _json(wanted, "a test's output", row)}


__all__ = ["IMPORTS", "NEEDED", "tests_in"]
