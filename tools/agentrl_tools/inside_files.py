"""The small shell's file commands, and what all of its commands share.

Sent as source (`inside.py`); the standard library alone. A command takes its words and the text given to
it, and returns its output and exit code; its own failures are `Fail`.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
from collections.abc import Callable, Iterator

_home = os.getcwd()


class Fail(Exception):
    """A command's own failure: message and exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Stop(Fail):
    """The end of the whole line: `exit`, or what this shell cannot do."""


def options(
    name: str, arguments: list[str], allowed: str, valued: str = ""
) -> tuple[dict[str, str], list[str]]:
    """Options by letter, and the rest. `valued` letters take the next word or what follows."""
    flags: dict[str, str] = {}
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += list(words)
        elif len(word) < 2 or not word.startswith("-"):
            rest.append(word)
        elif word[1:].isdigit() and "n" in valued:
            flags["n"] = word[1:]
        else:
            letters = word[1:]
            while letters:
                letter, letters = letters[0], letters[1:]
                if letter in valued:
                    flags[letter] = letters or next(words, "")
                    letters = ""
                elif letter in allowed:
                    flags[letter] = ""
                else:
                    known = " ".join(f"-{x}" for x in allowed + valued)
                    raise Fail(f"{name}: -{letter} is not available; known: {known}", 2)
    return flags, rest


def read(path: str) -> str:
    """A file's text; what is no UTF-8 is replaced."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def as_number(name: str, text: str) -> int:
    """An integer. Raises Fail."""
    if not re.fullmatch(r"[-+]?\d{1,9}", text):
        raise Fail(f"{name}: {text!r} is no number", 2)
    return int(text)


def _cd(a: list[str], given: str) -> tuple[str, int]:
    os.chdir(a[0] if a else _home)
    return "", 0


def _ls(a: list[str], given: str) -> tuple[str, int]:
    flags, paths = options("ls", a, "la1hR")
    out: list[str] = []
    for path in paths or ["."]:
        names = sorted(os.listdir(path)) if os.path.isdir(path) else [path]
        shown = [n for n in names if "a" in flags or not n.startswith(".") or n == path]
        if not os.path.exists(path):
            raise Fail(f"ls: {path}: No such file or directory", 2)
        out += [f"{path}:"] if len(paths) > 1 and os.path.isdir(path) else []
        for name in shown:
            full = os.path.join(path, name) if os.path.isdir(path) else name
            kind = "d" if os.path.isdir(full) else "-"
            out.append(f"{kind} {os.lstat(full).st_size:>9} {name}" if "l" in flags else name)
    return "".join(line + "\n" for line in out), 0


def _find(a: list[str], given: str) -> tuple[str, int]:
    starts = a[: next((i for i, x in enumerate(a) if x.startswith("-")), len(a))]
    tests = a[len(starts) :]
    chosen = dict(zip(tests[::2], tests[1::2], strict=False))
    if set(chosen) - {"-name", "-type"} or len(tests) % 2:
        raise Fail("find: only -name PATTERN and -type f|d are available", 2)
    out: list[str] = []
    for start in starts or ["."]:
        found = [start] if os.path.exists(start) else []
        for folder, folders, names in os.walk(start):
            found += [os.path.join(folder, n) for n in sorted(folders + names)]
        for path in sorted(found):
            kind = "d" if os.path.isdir(path) else "f"
            named = fnmatch.fnmatch(os.path.basename(path), chosen.get("-name", "*"))
            if named and chosen.get("-type", kind) == kind:
                out.append(path)
    return "".join(path + "\n" for path in out), 0


def _mkdir(a: list[str], given: str) -> tuple[str, int]:
    flags, paths = options("mkdir", a, "p")
    for path in paths:
        os.makedirs(path, exist_ok=True) if "p" in flags else os.mkdir(path)
    return "", 0


def _rm(a: list[str], given: str) -> tuple[str, int]:
    flags, paths = options("rm", a, "rRf")
    for path in paths:
        if os.path.isdir(path) and not os.path.islink(path):
            if not {"r", "R"} & set(flags):
                raise Fail(f"rm: {path}: is a folder; use -r")
            shutil.rmtree(path)
        elif os.path.lexists(path) or "f" not in flags:
            os.remove(path)
    return "", 0


def _moved(name: str) -> Callable[[list[str], str], tuple[str, int]]:
    def command(a: list[str], given: str) -> tuple[str, int]:
        flags, paths = options(name, a, "rRfap")
        if len(paths) < 2:
            raise Fail(f"{name}: give what and where to", 2)
        *sources, target = paths
        for source in sources:
            into = (
                os.path.join(target, os.path.basename(source)) if os.path.isdir(target) else target
            )
            if name == "mv":
                shutil.move(source, into)
            elif not os.path.isdir(source):
                shutil.copy(source, into)
            elif {"r", "R", "a"} & set(flags):
                shutil.copytree(source, into, dirs_exist_ok=True)
            else:
                raise Fail(f"cp: {source}: is a folder; use -r")
        return "", 0

    return command


def _touch(a: list[str], given: str) -> tuple[str, int]:
    for path in a:
        open(path, "a", encoding="utf-8").close()
    return "", 0


def walked(paths: list[str]) -> Iterator[str]:
    """The files under some paths."""
    for path in paths:
        if os.path.isdir(path):
            for folder, _, names in os.walk(path):
                yield from (os.path.join(folder, name) for name in sorted(names))
        else:
            yield path


FILE_COMMANDS: dict[str, Callable[[list[str], str], tuple[str, int]]] = {
    "pwd": lambda a, given: (os.getcwd() + "\n", 0), "cd": _cd, "ls": _ls, "find": _find,
    "mkdir": _mkdir, "rm": _rm, "mv": _moved("mv"), "cp": _moved("cp"), "touch": _touch,
}  # fmt: skip
"""By name."""
