"""The small shell's text commands, and the table of all of its commands.

Sent as source (`inside.py`); the standard library and `inside_files` alone.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import traceback
from collections.abc import Callable

from agentrl_tools.inside_files import FILE_COMMANDS, Fail, Stop, as_number, options, read, walked


def _inputs(files: list[str], given: str) -> str:
    return "".join(read(path) if path != "-" else given for path in files) if files else given


def _echo(a: list[str], given: str) -> tuple[str, int]:
    plain = a[:1] != ["-n"]
    return " ".join(a if plain else a[1:]) + ("\n" if plain else ""), 0


def _cat(a: list[str], given: str) -> tuple[str, int]:
    flags, files = options("cat", a, "n")
    text = _inputs(files, given)
    if "n" in flags:
        text = "".join(f"{i:6}\t{line}" for i, line in enumerate(text.splitlines(True), 1))
    return text, 0


def _ends(name: str) -> Callable[[list[str], str], tuple[str, int]]:
    def command(a: list[str], given: str) -> tuple[str, int]:
        flags, files = options(name, a, "", "n")
        wanted = flags.get("n", "10")
        n, lines = as_number(name, wanted), _inputs(files, given).splitlines(True)
        if name == "head":
            return "".join(lines[:n]), 0
        return "".join(lines[n - 1 :] if wanted.startswith("+") else lines[-n:] if n else []), 0

    return command


def _wc(a: list[str], given: str) -> tuple[str, int]:
    flags, files = options("wc", a, "lwc")
    rows: list[str] = []
    for path in files or ["-"]:
        text = given if path == "-" else read(path)
        counts = {"l": text.count("\n"), "w": len(text.split()), "c": len(text.encode())}
        shown = [str(counts[k]) for k in "lwc" if k in flags or not flags]
        rows.append(" ".join([*shown, *([] if path == "-" else [path])]) + "\n")
    return "".join(rows), 0


def _grep(a: list[str], given: str) -> tuple[str, int]:
    flags, rest = options("grep", a, "ivnclrEFwoh", "e")
    if "e" not in flags and not rest:
        raise Fail("grep: a pattern is missing", 2)
    pattern = flags["e"] if "e" in flags else rest.pop(0)
    if "F" in flags:
        pattern = re.escape(pattern)
    if "w" in flags:
        pattern = rf"\b(?:{pattern})\b"
    search = re.compile(pattern, re.IGNORECASE if "i" in flags else 0).search
    files = list(walked(rest or ["."])) if "r" in flags else rest
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


def _sort(a: list[str], given: str) -> tuple[str, int]:
    flags, files = options("sort", a, "nru", "kt")
    lines = _inputs(files, given).splitlines()
    field = as_number("sort", flags.get("k", "1").split(",")[0].rstrip("nr")) - 1

    def key(line: str) -> tuple[float, str]:
        parts = line.split(flags.get("t")) if "k" in flags else [line]
        cell = parts[field] if field < len(parts) else ""
        found = re.match(r"\s*-?\d+(?:\.\d+)?", cell)
        numeric = "n" in flags or "n" in flags.get("k", "")
        return (float(found[0]) if numeric and found else 0.0, cell)

    ordered = sorted(dict.fromkeys(lines) if "u" in flags else lines, key=key, reverse="r" in flags)
    return "".join(line + "\n" for line in ordered), 0


def _uniq(a: list[str], given: str) -> tuple[str, int]:
    flags, files = options("uniq", a, "cd")
    runs: list[tuple[str, int]] = []
    for line in _inputs(files, given).splitlines():
        if runs and runs[-1][0] == line:
            runs[-1] = (line, runs[-1][1] + 1)
        else:
            runs.append((line, 1))
    kept = [(x, n) for x, n in runs if n > 1 or "d" not in flags]
    return "".join(f"{n:7} {x}\n" if "c" in flags else f"{x}\n" for x, n in kept), 0


def _cut(a: list[str], given: str) -> tuple[str, int]:
    flags, files = options("cut", a, "", "dfc")
    wanted = flags.get("f") or flags.get("c")
    if not wanted:
        raise Fail("cut: give -f or -c", 2)
    ranges: list[tuple[int, int]] = []
    for piece in wanted.split(","):
        low, dash, high = piece.partition("-")
        first = as_number("cut", low or "1")
        ranges.append((first, as_number("cut", high or "999999") if dash else first))
    out: list[str] = []
    glue = "" if "c" in flags else flags.get("d", "\t")
    for line in _inputs(files, given).splitlines():
        parts = list(line) if "c" in flags else line.split(glue or "\t")
        kept = [x for i, x in enumerate(parts, 1) if any(lo <= i <= hi for lo, hi in ranges)]
        out.append(glue.join(kept) + "\n")
    return "".join(out), 0


def _tr(a: list[str], given: str) -> tuple[str, int]:
    flags, sets = options("tr", a, "ds")
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
    flags, rest = options("sed", a, "niE")
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


def _tee(a: list[str], given: str) -> tuple[str, int]:
    flags, paths = options("tee", a, "a")
    for path in paths:
        with open(path, "a" if "a" in flags else "w", encoding="utf-8") as file:
            file.write(given)
    return given, 0


def _seq(a: list[str], given: str) -> tuple[str, int]:
    numbers = [as_number("seq", x) for x in a]
    if not 1 <= len(numbers) <= 3:
        raise Fail("seq: give a last number, or first and last, or first, step and last", 2)
    first, last = (1, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[-1])
    step = numbers[1] if len(numbers) == 3 else 1
    if step == 0 or abs(last - first) // abs(step) > 100_000:
        raise Fail("seq: at most 100000 numbers", 2)
    stop = last + (1 if step > 0 else -1)
    return "".join(f"{n}\n" for n in range(first, stop, step)), 0


def _exit(a: list[str], given: str) -> tuple[str, int]:
    raise Stop("", as_number("exit", a[0]) & 0xFF if a else 0)


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
    **FILE_COMMANDS, "echo": _echo, "cat": _cat, "head": _ends("head"), "tail": _ends("tail"),
    "wc": _wc, "grep": _grep, "sort": _sort, "uniq": _uniq, "cut": _cut, "tr": _tr, "sed": _sed,
    "tee": _tee, "seq": _seq, "test": _test, "[": _test, "exit": _exit, "python": _python,
    "python3": _python, "true": lambda a, given: ("", 0), "false": lambda a, given: ("", 1),
}  # fmt: skip
"""Every command by name."""
