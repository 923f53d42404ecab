"""Code that starts processes and threads, and leaves them behind."""

from __future__ import annotations

from agentrl.testing.sandbox_cases.case import Case, Seen, Step
from agentrl.testing.sandbox_cases.verdicts import (
    closed_in_time,
    every,
    fewer_than,
    gives,
    in_time,
    nothing_left,
    prints,
)

MAX_PROCESSES = 256
"""More than this from one session is a bomb."""

FORK_BOMB = """
made = 0
for _ in range(400):
    pid = fork()
    if pid == 0:
        named(MARK); time.sleep(30); os._exit(0)
    if pid < 0: break
    made += 1
print(made)
"""

RAW_CLONES = """
made = 0
def child():
    named(MARK); time.sleep(30); os._exit(0)
for _ in range(400):
    try: pid = call(56, 220, 17, 0, 0, 0, 0)
    except OSError: break
    if pid == 0: child()
    made += 1
try: pid = call(57, None)
except OSError: pass
else:
    if pid == 0: child()
    made += 1
print(made)
"""

PROGRAMS = """
import subprocess, multiprocessing
def detached():
    subprocess.Popen(["/bin/sh", "-c", "sleep 60 & sleep 60 &"], env={"M": MARK},
                     start_new_session=True).wait(5)
def worker():
    process = multiprocessing.get_context("fork").Process(target=lambda: (named(MARK), time.sleep(60)))
    process.daemon = True
    process.start()
attempt("shell", detached)
attempt("system", lambda: os.system(f"M={MARK} sleep 60 &"))
attempt("spawn", lambda: os.posix_spawn("/bin/sleep", ["sleep", "60"], {"M": MARK}))
attempt("worker", worker)
print("done")
"""

DAEMON = """
import signal
if fork() == 0:
    os.setsid()
    if fork() == 0:
        named(MARK)
        for n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)
        time.sleep(60)
    os._exit(0)
try: os.wait()
except OSError: pass
print("left")
"""

STUBBORN = """
import signal, threading
def spin(stop=time.time() + 60):
    while time.time() < stop: pass
libc.prctl(1, 0, 0, 0, 0)
for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(s, signal.SIG_IGN)
named(MARK)
for _ in range(3): threading.Thread(target=spin, daemon=True).start()
print("started")
"""

THREAD_BOMB = """
import threading
made = 0
try:
    while made < 5_000:
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start(); made += 1
except (RuntimeError, MemoryError): pass
print(made)
"""

TICK = """
import threading
ticks = []
def tick():
    while True:
        ticks.append(time.monotonic()); time.sleep(0.01)
threading.Thread(target=tick, daemon=True).start()
time.sleep(0.05)
"""

SPOIL_OUTPUT = """
import threading
def later():
    time.sleep(0.3); print("from the past")
threading.Thread(target=later, daemon=True).start()
"""

MANY_EATERS = """
pids, done = [], 0
for _ in range(4):
    pid = fork()
    if pid == 0:
        named(MARK)
        kept = bytearray(b"x") * (MEMORY_MB * 3 // 4 << 20)
        time.sleep(1.5); os._exit(0 if kept else 1)
    if pid > 0: pids.append(pid)
for pid in pids: done += os.waitpid(pid, 0)[1] == 0
print(done)
"""


def _quiet(seen: Seen) -> str:
    gap = float(seen.last.value or 0)
    return "" if gap > 0.3 else "threads ran on between two runs"


STARTING: tuple[Case, ...] = (
    Case(
        "a fork bomb is stopped and swept", "1", FORK_BOMB,
        every(fewer_than(MAX_PROCESSES), nothing_left), "processes", ("linux",),
    ),
    Case(
        "processes made by system calls are stopped and swept", "1", RAW_CLONES,
        every(fewer_than(MAX_PROCESSES), nothing_left), "processes", ("linux",),
    ),
    Case(
        "programs started are swept", "26", PROGRAMS, every(prints("done\n"), nothing_left),
        "processes", ("linux",),
    ),
    Case(
        "a daemon that holds the pipes is swept", "26", DAEMON,
        every(prints("left\n"), in_time(0), closed_in_time, nothing_left), "processes", ("linux",),
    ),
    Case(
        "threads that spin and ignore signals end with the session", "26", STUBBORN,
        every(prints("started\n"), closed_in_time, nothing_left), needs=("linux",),
    ),
    Case(
        "a thread bomb is stopped", "", THREAD_BOMB, fewer_than(5_000), "processes",
        ("linux",),
    ),
    Case(
        "threads do not run on between two runs", "",
        (Step(TICK), Step("time.sleep(0.05); max(b - a for a, b in zip(ticks, ticks[1:]))",
                          pause_s=0.5)),
        _quiet, "harmless",
    ),
    Case(
        "a thread cannot speak in the next session", "",
        (Step(SPOIL_OUTPUT), Step("time.sleep(0.5)\nprint('mine')", reset=True)),
        prints("mine\n"), "harmless",
    ),
    Case(
        "many processes together keep to the memory of one session", "2", MANY_EATERS,
        every(fewer_than(2), nothing_left), "memory", ("linux",),
    ),
    Case(
        "what was forked does not answer in its parent's place", "",
        (
            Step("x = 1\nif fork() == 0:\n    named(MARK)\n    x = 2\nx"),
            Step("time.sleep(0.1)\nx"),
        ),
        every(gives("1", step=0), gives("1"), nothing_left), "processes", ("linux",),
    ),
)  # fmt: skip
