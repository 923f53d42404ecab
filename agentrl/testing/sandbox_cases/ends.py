"""Code that never ends, ends too early, or ends the interpreter."""

from __future__ import annotations

from agentrl.testing.sandbox_cases.case import SHORT_S, Case, Step
from agentrl.testing.sandbox_cases.verdicts import (
    closed_in_time,
    ends,
    every,
    fails_with,
    gives,
    in_time,
    lost,
    not_ok,
    prints,
    prints_not,
)

_CUT = every(ends("timeout", "cpu_limit"), in_time(SHORT_S))

IGNORE_ALL = """
import signal
for n in range(1, 65):
    try: signal.signal(n, signal.SIG_IGN)
    except Exception: pass
stop = time.time() + 60
while time.time() < stop:
    try:
        while time.time() < stop: pass
    except BaseException: pass
"""

SLEEPERS = """
import threading
for _ in range(8): threading.Thread(target=time.sleep, args=(1000,)).start()
print("kept")
"""

DOOMED = """
def last(stop=time.time() + 60):
    while time.time() < stop:
        try: time.sleep(1)
        except BaseException: pass
"""

ENDS: tuple[Case, ...] = (
    Case(
        "an endless loop is cut off", "3", "while True: pass", _CUT,
        danger="harmless", timeout_s=SHORT_S,
    ),
    Case(
        "a loop in C that holds the interpreter lock is cut off", "3", "sum(range(10 ** 13))",
        _CUT, danger="harmless", timeout_s=SHORT_S,
    ),
    Case(
        "a power of powers is cut off", "3", "x = 10 ** 10 ** 9",
        every(not_ok, in_time(SHORT_S)), danger="harmless", timeout_s=SHORT_S,
    ),
    Case(
        "a call into C that never returns is cut off", "3",
        "pause = ctypes.PyDLL(None).pause\nwhile True: pause()",
        _CUT, danger="harmless", timeout_s=SHORT_S,
    ),
    Case(
        "ignoring every signal and exception does not help", "12", IGNORE_ALL,
        every(_CUT, lost), danger="harmless", timeout_s=SHORT_S,
    ),
    Case(
        "endless recursion is an error", "15", "def f(): f()\nf()",
        fails_with("RecursionError", "MemoryError"), danger="harmless",
    ),
    Case(
        "endless recursion in C ends the code only", "15",
        "x = []\nfor _ in range(10 ** 5): x = [x]\nlen(repr(x))",
        ends("error", "signal", "timeout"), danger="harmless",
    ),
    Case(
        "a crash in C is noticed", "16", "ctypes.string_at(0)",
        every(ends("signal", "exited"), lost), danger="harmless",
    ),
    Case(
        "an abort is noticed", "16", "os.abort()",
        every(ends("signal", "exited"), lost), danger="harmless",
    ),
    Case(
        "output before a crash is kept", "16", "print('kept', flush=True)\nctypes.string_at(0)",
        every(ends("signal", "exited"), prints("kept\n")), danger="harmless",
    ),
    Case(
        "os._exit(0) is no success", "17", "print('all passed', flush=True)\nos._exit(0)",
        every(ends("exited", "signal"), lost), danger="harmless",
    ),
    Case("sys.exit(0) is no success", "17", "sys.exit(0)\n", not_ok, danger="harmless"),
    Case("raise SystemExit is no success", "17", "raise SystemExit", not_ok, danger="harmless"),
    Case("exit(5) is no success", "17", "exit(5)", not_ok, danger="harmless"),
    Case(
        "threads left sleeping hold up neither answer nor close", "18", SLEEPERS,
        every(ends("ok"), prints("kept\n"), in_time(0), closed_in_time), danger="harmless",
    ),
    Case(
        "an exit handler that never returns holds up nothing", "19",
        "import atexit" + DOOMED + "atexit.register(last)\nraise SystemExit",
        every(not_ok, in_time(0), closed_in_time), danger="harmless",
    ),
    Case(
        "an exit handler that never returns does not hold up closing", "19",
        "import atexit" + DOOMED + "atexit.register(last)\nprint('set')",
        every(prints("set\n"), closed_in_time), danger="harmless",
    ),
    Case(
        "sleep is cut off and costs no processor time", "25", "time.sleep(60)",
        every(_CUT, lambda seen: "" if seen.last.cpu_s < 0.5 else f"{seen.last.cpu_s} s of CPU"),
        danger="harmless", timeout_s=SHORT_S,
    ),
    Case(
        "stopping itself is cut off", "32", "os.kill(os.getpid(), 19)\ntime.sleep(30)",
        every(_CUT), danger="harmless", timeout_s=SHORT_S,
    ),
    Case(
        "stopping its process group and waking it later is cut off", "",
        "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\nos.kill(0, 20)\n"
        "os.kill(0, 18)\nos.kill(0, 19)\ntime.sleep(30)",
        every(ends("timeout", "cpu_limit", "signal"), in_time(SHORT_S)), timeout_s=SHORT_S,
    ),
    Case(
        "nobody waits for input", "33", "input()", fails_with("EOFError", "StdinNotImplemented"),
        danger="harmless",
    ),
    Case(
        "closing every descriptor and spinning is cut off", "34",
        "os.closerange(0, 256)\nwhile True: pass",
        every(not_ok, in_time(SHORT_S), prints("")), danger="harmless", timeout_s=SHORT_S,
    ),
    Case(
        "state lives on after an interrupt, or its loss is told", "",
        (
            Step("x = 7"),
            Step("while True: pass", timeout_s=SHORT_S),
            Step("'x' in globals()"),
        ),
        lambda seen: (
            ""
            if seen.last.value == str(not seen.results[1].state_lost)
            else f"state_lost is {seen.results[1].state_lost}, x is there: {seen.last.value}"
        ),
        danger="harmless",
    ),
    Case(
        "a `repr` that never ends is cut off", "",
        "class Bomb:\n    def __repr__(self):\n        while True: pass\nBomb()",
        _CUT, danger="harmless", timeout_s=SHORT_S,
    ),
    Case(
        "a `repr` that raises is an error of the code", "",
        "class Bomb:\n    def __repr__(self): raise ValueError('no')\nBomb()",
        every(lambda seen: "" if seen.last.value is None else f"value {seen.last.value!r}",
              ends("error", "ok")),
        danger="harmless",
    ),
    Case(
        "a `repr` of a hundred megabytes is cut", "",
        "class Bomb:\n    def __repr__(self): return 'x' * (100 << 20)\nBomb()",
        lambda seen: (
            f"{len(seen.last.value or '')} letters" if len(seen.last.value or "") > 1 << 20 else ""
        ),
        danger="memory",
    ),
    Case(
        "an exception that cannot be shown is an error", "",
        "class E(Exception):\n    def __str__(self): raise self\nraise E",
        ends("error"), danger="harmless",
    ),
    Case(
        "an exception whose text never ends is cut off", "",
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
        every(not_ok, in_time(SHORT_S)), danger="harmless", timeout_s=SHORT_S,
    ),
    Case(
        "exceptions that cause each other end in an answer", "",
        "a, b = ValueError('a'), ValueError('b')\na.__cause__ = b\nb.__cause__ = a\nraise a",
        every(ends("error"), in_time(0)), danger="harmless",
    ),
    Case(
        "a chain of twenty thousand exceptions ends in an answer", "",
        "e = ValueError(0)\nfor n in range(20_000):\n    f = ValueError(n)\n"
        "    f.__cause__ = e\n    e = f\nraise e",
        every(not_ok, in_time(10)), danger="harmless", timeout_s=10,
    ),
    Case(
        "a finaliser that never returns does not hold up closing", "",
        DOOMED + "class Bomb:\n    def __del__(self): last()\nbomb = Bomb()\nprint('set')",
        every(prints("set\n"), closed_in_time), danger="harmless",
    ),
    Case(
        "a finaliser that never returns does not hold up a reset", "",
        (
            Step(DOOMED + "class Bomb:\n    def __del__(self): last()\nbomb = Bomb()"),
            Step("'bomb' in globals()", reset=True),
        ),
        every(gives("False"), closed_in_time), danger="harmless",
    ),
    Case(
        "callbacks of the collector that never return are cut off", "",
        "import gc\ndef spin(*_):\n    while True: pass\ngc.callbacks.append(spin)\ngc.collect()",
        _CUT, danger="harmless", timeout_s=SHORT_S,
    ),
    Case(
        "an alarm left running does not end a later session", "",
        (
            Step("import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.2)"),
            Step("'fresh'", reset=True, pause_s=0.3),
            Step("1 + 1", who="two"),
        ),
        every(gives("'fresh'", step=1), gives("2")), danger="harmless",
    ),
    Case(
        "the clocks are this side's, whatever the code makes of its own", "",
        "time.time = time.monotonic = time.perf_counter = lambda: 0.0\n"
        "t = time.process_time()\nwhile time.process_time() < t + 0.2: pass",
        lambda seen: (
            "" if 0.15 <= seen.last.wall_s <= seen.took_s[-1] + 0.1 else f"wall {seen.last.wall_s}"
        ),
        danger="harmless",
    ),
    Case(
        "a syntax error is an error", "", "def", fails_with("SyntaxError"), danger="harmless",
    ),
    Case(
        "brackets nested a hundred thousand deep end in an answer", "",
        "[" * 100_000 + "]" * 100_000,
        every(not_ok, in_time(10)), danger="harmless",
    ),
    Case(
        "a sum of fifty thousand terms does not bring the compiler down unnoticed", "",
        "+".join(["1"] * 50_000),
        every(ends("ok", "error", "signal"), in_time(10)), danger="harmless",
    ),
    Case(
        "an exception is named", "", "1 / 0",
        every(
            fails_with("ZeroDivisionError: division by zero"), prints_not("never printed")
        ),
        danger="harmless",
    ),
)  # fmt: skip
