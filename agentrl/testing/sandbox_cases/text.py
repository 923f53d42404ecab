"""What is printed, echoed and handed over arrives, or is cut and counted."""

from __future__ import annotations

from agentrl.testing.sandbox_cases.case import Case, Seen, Step
from agentrl.testing.sandbox_cases.verdicts import (
    ends,
    every,
    fails_with,
    gives,
    in_time,
    prints,
    small_here,
)

DELIMITERS = '\0\x1e\x04 done ok\n{"status": "ok"}\n--END--\n\x1b[31m\n'


def _counted(seen: Seen) -> str:
    kept = len(seen.last.stdout.encode("utf-8", "surrogatepass"))
    if kept > seen.limits.output_bytes + 200:
        return f"{kept} bytes kept"
    return "" if seen.last.stdout_dropped > 0 else "nothing says that output was dropped"


def _bytes_arrive(seen: Seen) -> str:
    found = seen.last.stdout
    good = found.startswith("a\ufffd\0\x1b[31m") and "d800" in found
    return "" if good else f"it printed {found!r}"


def _all_dropped(seen: Seen) -> str:
    """`size` bytes were written; what is not shown is in the count."""
    size = 3_000_000
    found = seen.last
    shown = found.stdout.count("a")
    return "" if shown + found.stdout_dropped == size else f"{shown} + {found.stdout_dropped}"


TEXT: tuple[Case, ...] = (
    Case("output is captured", "", "print('one'); print('two')", prints("one\ntwo\n"), "harmless"),
    Case("a last expression is echoed", "", "x = 2\nx * 21", gives("42"), "harmless"),
    Case("None is not echoed", "", "None", gives(None), "harmless"),
    Case(
        "stderr is kept apart", "", "print('bad', file=sys.stderr)",
        every(prints(""), lambda s: "" if s.last.stderr == "bad\n" else repr(s.last.stderr)),
        "harmless",
    ),
    Case(
        "any Unicode survives", "23", "print('\u00e9\U0001f980\u202e')",
        prints("\u00e9\U0001f980\u202e\n"), "harmless",
    ),
    Case(
        "output before an error is kept", "", "print('kept')\n1 / 0",
        every(prints("kept\n"), ends("error")), "harmless",
    ),
    Case(
        "output without a newline arrives", "23", "print('no end', end='')",
        every(prints("no end"), ends("ok")), "harmless",
    ),
    Case(
        "endless output ends at a limit", "4", "while True: os.write(1, b'spam' * 16384)",
        every(ends("output_limit", "timeout"), _counted, small_here), timeout_s=30,
    ),
    Case(
        "endless output on stderr ends at a limit", "4",
        "while True: os.write(2, b'spam' * 16384)",
        every(
            ends("output_limit", "timeout"), small_here,
            lambda seen: "" if seen.last.stderr_dropped else "nothing is counted",
        ),
        timeout_s=30,
    ),
    Case(
        "a flood of output is cut and every byte counted", "4", "print('a' * 3_000_000, end='')",
        every(_counted, _all_dropped), "harmless",
    ),
    Case(
        "delimiters of a protocol are only text", "14", f"sys.stdout.write({DELIMITERS!r}); None",
        every(prints(DELIMITERS), gives(None)), "harmless",
    ),
    Case(
        "bytes that are no text are delivered, replaced", "23",
        r"os.write(1, b'a\xff\x00\x1b[31m'); print('\ud800')",
        every(_bytes_arrive, ends("ok")), "harmless",
    ),
    Case(
        "binary output does not hurt", "23", "_ = os.write(1, bytes(range(256)) * 64)",
        every(ends("ok"), lambda s: "" if len(s.last.stdout) >= 8000 else "most of it is gone"),
        "harmless",
    ),
    Case(
        "a lone surrogate in the source is an error or survives", "23", "x = '\ud800'",
        every(ends("error", "ok"), in_time(0)), "harmless",
    ),
    Case(
        "NUL in the source is an error", "23", "x = '\0'", fails_with("SyntaxError", "ValueError"),
        "harmless",
    ),
    Case(
        "ten megabytes of source are run or refused", "23",
        "x = '" + "y" * (10 << 20) + "'\nlen(x)",
        lambda seen: (
            ""
            if seen.last.value == str(10 << 20) or seen.last.status == "error"
            else f"{seen.last.status}, {(seen.last.value or '')[:40]!r}"
        ),
        "memory",
    ),
    Case(
        "a long program arrives whole", "", "x = '" + "\u00e9" * 500_000 + "'\nlen(x)",
        gives("500000"), "harmless",
    ),
    Case(
        "replacing sys.stdout swallows that cell's output only", "20",
        (
            Step("import io\nsys.stdout = io.StringIO()\nprint('swallowed')"),
            Step("print('seen')", reset=True),
        ),
        prints("seen\n"), "harmless",
    ),
    Case(
        "closing sys.stdout does not silence the next session", "",
        (Step("sys.stdout.close()"), Step("print('seen')", who="two")),
        prints("seen\n"), "harmless",
    ),
    Case(
        "two streams interleaved are both whole", "",
        "for n in range(2000): print(n); print(n, file=sys.stderr)",
        lambda seen: (
            ""
            if seen.last.stdout == seen.last.stderr == "".join(f"{n}\n" for n in range(2000))
            else "lines are missing"
        ),
        "harmless",
    ),
)  # fmt: skip
