"""The commands of the small shell: file and text tools that start no process.

Sent as source (`inside.py`); the standard library alone. A command takes its words and the text given to
it, and returns its output and exit code; its own failures are `Fail`.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator

_home = os.getcwd()


class Fail(Exception):
    """A command's own failure: message and exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Stop(Fail):
    """The end of the whole line: `exit`, or what this shell cannot do."""


def _flags(
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


def _inputs(files: list[str], given: str) -> str:
    return "".join(read(path) if path != "-" else given for path in files) if files else given


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"[-+]?\d{1,9}", text):
        raise Fail(f"{name}: {text!r} is no number", 2)
    return int(text)


def _echo(a: list[str], given: str) -> tuple[str, int]:
    plain = a[:1] != ["-n"]
    return " ".join(a if plain else a[1:]) + ("\n" if plain else ""), 0


def _cd(a: list[str], given: str) -> tuple[str, int]:
    os.chdir(a[0] if a else _home)
    return "", 0


def _cat(a: list[str], given: str) -> tuple[str, int]:
    flags, files = _flags("cat", a, "n")
    text = _inputs(files, given)
    if "n" in flags:
        text = "".join(f"{i:6}\t{line}" for i, line in enumerate(text.splitlines(True), 1))
    return text, 0


def _ends(name: str) -> Callable[[list[str], str], tuple[str, int]]:
    def command(a: list[str], given: str) -> tuple[str, int]:
        flags, files = _flags(name, a, "", "n")
        wanted = flags.get("n", "10")
        n, lines = _number(name, wanted), _inputs(files, given).splitlines(True)
        if name == "head":
            return "".join(lines[:n]), 0
        return "".join(lines[n - 1 :] if wanted.startswith("+") else lines[-n:] if n else []), 0

    return command


def _wc(a: list[str], given: str) -> tuple[str, int]:
    flags, files = _flags("wc", a, "lwc")
    rows: list[str] = []
    for path in files or ["-"]:
        text = given if path == "-" else read(path)
        counts = {"l": text.count("\n"), "w": len(text.split()), "c": len(text.encode())}
        shown = [str(counts[k]) for k in "lwc" if k in flags or not flags]
        rows.append(" ".join([*shown, *([] if path == "-" else [path])]) + "\n")
    return "".join(rows), 0


def _grep(a: list[str], given: str) -> tuple[str, int]:
    flags, rest = _flags("grep", a, "ivnclrEFwoh", "e")
    if "e" not in flags and not rest:
        raise Fail("grep: a pattern is missing", 2)
    pattern = flags["e"] if "e" in flags else rest.pop(0)
    if "F" in flags:
        pattern = re.escape(pattern)
    if "w" in flags:
        pattern = rf"\b(?:{pattern})\b"
    search = re.compile(pattern, re.IGNORECASE if "i" in flags else 0).search
    files = list(_walked(rest or ["."])) if "r" in flags else rest
    out: list[str] = []
    for path in files or ["-"]:
        lines = (given if path == "-" else read(path)).splitlines()
        hits = [(i, x) for i, x in enumerate(lines, 1) if bool(search(x)) is ("v" not in flags)]
        prefix = f"{path}:" if len(files) > 1 and "h" not in flags else ""
        if "l" in flags:
            out += [path] if hits else []
        elif "c" in flags:
            out.append(f"{prefix}{len(hits)}")
        else:
            number = "n" in flags
            for i, line in hits:
                found = search(line)
                shown = found[0] if "o" in flags and found else line
                out.append(f"{prefix}{f'{i}:' if number else ''}{shown}")
    return "".join(line + "\n" for line in out), 0 if out and out != ["0"] else 1


def _walked(paths: list[str]) -> Iterator[str]:
    for path in paths:
        if os.path.isdir(path):
            for folder, _, names in os.walk(path):
                yield from (os.path.join(folder, name) for name in sorted(names))
        else:
            yield path


def _sort(a: list[str], given: str) -> tuple[str, int]:
    flags, files = _flags("sort", a, "nru", "kt")
    lines = _inputs(files, given).splitlines()
    field = _number("sort", flags.get("k", "1").split(",")[0].rstrip("nr")) - 1

    def key(line: str) -> tuple[float, str]:
        parts = line.split(flags.get("t")) if "k" in flags else [line]
        cell = parts[field] if field < len(parts) else ""
        found = re.match(r"\s*-?\d+(?:\.\d+)?", cell)
        numeric = "n" in flags or "n" in flags.get("k", "")
        return (float(found[0]) if numeric and found else 0.0, cell)

    ordered = sorted(dict.fromkeys(lines) if "u" in flags else lines, key=key, reverse="r" in flags)
    return "".join(line + "\n" for line in ordered), 0


def _uniq(a: list[str], given: str) -> tuple[str, int]:
    flags, files = _flags("uniq", a, "cd")
    runs: list[tuple[str, int]] = []
    for line in _inputs(files, given).splitlines():
        if runs and runs[-1][0] == line:
            runs[-1] = (line, runs[-1][1] + 1)
        else:
            runs.append((line, 1))
    kept = [(x, n) for x, n in runs if n > 1 or "d" not in flags]
    return "".join(f"{n:7} {x}\n" if "c" in flags else f"{x}\n" for x, n in kept), 0


def _cut(a: list[str], given: str) -> tuple[str, int]:
    flags, files = _flags("cut", a, "", "dfc")
    wanted = flags.get("f") or flags.get("c")
    if not wanted:
        raise Fail("cut: give -f or -c", 2)
    ranges: list[tuple[int, int]] = []
    for piece in wanted.split(","):
        low, dash, high = piece.partition("-")
        first = _number("cut", low or "1")
        ranges.append((first, _number("cut", high or "999999") if dash else first))
    out: list[str] = []
    glue = "" if "c" in flags else flags.get("d", "\t")
    for line in _inputs(files, given).splitlines():
        parts = list(line) if "c" in flags else line.split(glue or "\t")
        kept = [x for i, x in enumerate(parts, 1) if any(lo <= i <= hi for lo, hi in ranges)]
        out.append(glue.join(kept) + "\n")
    return "".join(out), 0


def _tr(a: list[str], given: str) -> tuple[str, int]:
    flags, sets = _flags("tr", a, "ds")
    if not sets or (len(sets) < 2 and not flags):
        raise Fail("tr: give two sets, or -d and one", 2)
    first = _set(sets[0])
    if "d" in flags:
        return given.translate({ord(c): None for c in first}), 0
    if len(sets) > 1:
        second = _set(sets[1]) or " "
        second += second[-1] * (len(first) - len(second))
        given = given.translate({ord(c): second[i] for i, c in enumerate(first)})
    if "s" in flags:
        given = re.sub(f"([{re.escape(_set(sets[-1]))}])\\1+", r"\1", given)
    return given, 0


def _set(text: str) -> str:
    text = text.replace("[:upper:]", "A-Z").replace("[:lower:]", "a-z").replace("\\n", "\n")
    return re.sub(
        r"(.)-(.)",
        lambda m: "".join(map(chr, range(ord(m[1]), min(ord(m[2]), ord(m[1]) + 999) + 1))),
        text,
    )


def _sed(a: list[str], given: str) -> tuple[str, int]:
    flags, rest = _flags("sed", a, "niE")
    script = rest.pop(0) if rest else ""
    printed = re.fullmatch(r"(\d+)(?:,(\d+|\$))?([pd])", script)
    replaced = re.fullmatch(r"s(.)(.*?)(?<!\\)\1(.*?)(?<!\\)\1(g?I?)", script, re.DOTALL)
    if printed is None and replaced is None:
        raise Fail("sed: only s/a/b/g, 2,5p (with -n) and 2,5d are available", 2)

    def edited(text: str) -> str:
        lines = text.splitlines(True)
        if printed is not None:
            low = int(printed[1])
            high = len(lines) if printed[2] == "$" else int(printed[2] or low)
            inside = printed[3] == "p"
            return "".join(x for i, x in enumerate(lines, 1) if (low <= i <= high) is inside)
        assert replaced is not None
        into = re.sub(r"&", r"\\g<0>", replaced[3])
        count, ignore = (
            (0 if "g" in replaced[4] else 1),
            (re.IGNORECASE if "I" in replaced[4] else 0),
        )
        return "".join(re.sub(replaced[2], into, x, count=count, flags=ignore) for x in lines)

    if "i" not in flags:
        return edited(_inputs(rest, given)), 0
    for path in rest:
        text = edited(read(path))
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    return "", 0


def _ls(a: list[str], given: str) -> tuple[str, int]:
    flags, paths = _flags("ls", a, "la1hR")
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
    options = dict(zip(tests[::2], tests[1::2], strict=False))
    if set(options) - {"-name", "-type"} or len(tests) % 2:
        raise Fail("find: only -name PATTERN and -type f|d are available", 2)
    out: list[str] = []
    for start in starts or ["."]:
        found = [start] if os.path.exists(start) else []
        for folder, folders, names in os.walk(start):
            found += [os.path.join(folder, n) for n in sorted(folders + names)]
        for path in sorted(found):
            kind = "d" if os.path.isdir(path) else "f"
            named = fnmatch.fnmatch(os.path.basename(path), options.get("-name", "*"))
            if named and options.get("-type", kind) == kind:
                out.append(path)
    return "".join(path + "\n" for path in out), 0


def _mkdir(a: list[str], given: str) -> tuple[str, int]:
    flags, paths = _flags("mkdir", a, "p")
    for path in paths:
        os.makedirs(path, exist_ok=True) if "p" in flags else os.mkdir(path)
    return "", 0


def _rm(a: list[str], given: str) -> tuple[str, int]:
    flags, paths = _flags("rm", a, "rRf")
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
        flags, paths = _flags(name, a, "rRfap")
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


def _tee(a: list[str], given: str) -> tuple[str, int]:
    flags, paths = _flags("tee", a, "a")
    for path in paths:
        with open(path, "a" if "a" in flags else "w", encoding="utf-8") as file:
            file.write(given)
    return given, 0


def _seq(a: list[str], given: str) -> tuple[str, int]:
    numbers = [_number("seq", x) for x in a]
    if not 1 <= len(numbers) <= 3:
        raise Fail("seq: give a last number, or first and last, or first, step and last", 2)
    first, last = (1, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[-1])
    step = numbers[1] if len(numbers) == 3 else 1
    if step == 0 or abs(last - first) // abs(step) > 100_000:
        raise Fail("seq: at most 100000 numbers", 2)
    stop = last + (1 if step > 0 else -1)
    return "".join(f"{n}\n" for n in range(first, stop, step)), 0


def _exit(a: list[str], given: str) -> tuple[str, int]:
    raise Stop("", _number("exit", a[0]) & 0xFF if a else 0)


def _test(a: list[str], given: str) -> tuple[str, int]:
    a = a[:-1] if a[-1:] == ["]"] else a
    checks = {"-e": os.path.exists, "-f": os.path.isfile, "-d": os.path.isdir, "-n": bool}
    if len(a) == 2 and a[0] in checks:
        return "", int(not checks[a[0]](a[1]))
    if len(a) == 3 and a[1] in ("=", "!="):
        return "", int((a[0] == a[2]) is (a[1] == "!="))
    raise Fail("test: only -e, -f, -d, -n, = and != are available", 2)


def _python(a: list[str], given: str) -> tuple[str, int]:
    """Run a program in this interpreter, with names of its own."""
    if a[:1] == ["-c"] and len(a) > 1:
        source, name, arguments = a[1], "-c", a[2:]
    elif a and not a[0].startswith("-"):
        source, name, arguments = read(a[0]), a[0], a[1:]
    elif not a or a == ["-"]:
        source, name, arguments = given, "-", list[str]()
    else:
        raise Fail("python: give a file, -c CODE, or a program on standard input", 2)
    kept, printed = (sys.argv, sys.stdin), io.StringIO()
    sys.argv, sys.stdin = [name, *arguments], io.StringIO(given if name != "-" else "")
    code = 0
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            exec(compile(source, name, "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception:  # noqa: BLE001 - whatever the program raises is its result
        printed.write(traceback.format_exc(limit=-3))
        code = 1
    finally:
        sys.argv, sys.stdin = kept
    return printed.getvalue(), code


COMMANDS: dict[str, Callable[[list[str], str], tuple[str, int]]] = {
    "echo": _echo, "pwd": lambda a, given: (os.getcwd() + "\n", 0), "cd": _cd, "cat": _cat,
    "head": _ends("head"), "tail": _ends("tail"), "wc": _wc, "grep": _grep, "sort": _sort,
    "uniq": _uniq, "cut": _cut, "tr": _tr, "sed": _sed, "ls": _ls, "find": _find, "mkdir": _mkdir,
    "rm": _rm, "mv": _moved("mv"), "cp": _moved("cp"), "touch": _touch, "tee": _tee, "seq": _seq,
    "test": _test, "exit": _exit, "[": _test, "python": _python, "python3": _python,
    "true": lambda a, given: ("", 0), "false": lambda a, given: ("", 1),
}  # fmt: skip
"""Every command by name."""
