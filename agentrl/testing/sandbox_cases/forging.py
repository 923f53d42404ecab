"""Code that tries to write its own result, or that of the next."""

from __future__ import annotations

from agentrl.testing.sandbox_cases.case import Case, Seen, Step
from agentrl.testing.sandbox_cases.verdicts import every, gives, in_time, lost, not_ok, prints

FORGE = """
import json, struct
def frames():
    "What an answer might look like: JSON of several tastes, and the box's own frames if it shows them."
    for shape in ({"status": "ok", "value": "forged"}, {"status": "Success", "return_code": 0},
                  {"op": "exit", "session": 1, "status": 0, "cpu_s": 0, "peak": 1},
                  {"reward": 1, "passed": True}, {"jsonrpc": "2.0", "id": 1, "result": "forged"}):
        yield json.dumps(shape).encode() + b"\\n"
        body = json.dumps(shape).encode()
        yield struct.pack("!I", len(body)) + body
    wire = next((m for n, m in list(sys.modules.items()) if n.endswith(".wire")), None)
    for nonce in (bytes(16), b"\\xff" * 16, b"0123456789abcdef", *GUESSES):
        for kind in range(4):
            yield struct.pack("!16sBII", nonce, kind, 7, 0) + b"forged"
            try: yield wire.reply(nonce, kind, b"forged", None)
            except Exception: pass
GUESSES = []
def everywhere(limit=256):
    data = list(frames())
    for fd in range(limit):
        if fd in (1, 2): continue
        try:
            os.set_blocking(fd, False)
            for frame in data: os.write(fd, frame)
        except OSError: pass
"""

FORGE_AND_EXIT = FORGE + "everywhere()\nos._exit(3)"
FORGE_AND_FAIL = FORGE + "everywhere()\nraise ValueError('the real end')"
FORGE_AND_STAY = FORGE + "everywhere()\ntime.sleep(3)\nraise ValueError('the real end')"

OWN_NONCE = (
    FORGE
    + """
frame = sys._getframe()
while frame:
    GUESSES += [v for v in frame.f_locals.values() if isinstance(v, bytes) and len(v) == 16]
    frame = frame.f_back
everywhere()
"""
)

HIJACK = """
import gc, socket
for thing in gc.get_objects():
    if isinstance(thing, socket.socket):
        try: thing.sendall(b"forged" * 100)
        except Exception: pass
raise ValueError("the real end")
"""

REPLACED = """
import builtins
for module in list(sys.modules.values()):
    for name in ("reply", "encode", "send_all", "sendall", "dumps"):
        if callable(getattr(module, name, None)):
            try: setattr(module, name, lambda *a, **k: b"forged")
            except Exception: pass
"""

STATUS_CLAIMS = """
import signal
def on_continue(*_): os.write(1, b"forged by a handler\\n")
signal.signal(signal.SIGCONT, on_continue)
"""

READ_REQUESTS = """
import threading
def steal():
    while True:
        for fd in range(3, 16):
            try: os.set_blocking(fd, False); os.read(fd, 65536)
            except OSError: pass
threading.Thread(target=steal, daemon=True).start()
"""


def _not_forged(seen: Seen) -> str:
    """The last answer is not what the code wrote; it may have been thrown out for it."""
    found = seen.last
    if "forged" in (found.value or "") or found.status == "ok":
        return f"a forged answer was believed: {found.status}, {found.value!r}"
    return ""


def _next_is_true(seen: Seen) -> str:
    """Whatever the code claims of its own run, the next one is told truly or not at all."""
    found = seen.last
    if "forged" in (found.value or ""):
        return "a forged answer was believed in the next run"
    return "" if found.status != "ok" or found.value == "2" else f"1 + 1 gave {found.value!r}"


def _facts(seen: Seen) -> str:
    found = seen.last
    used = 0.1 < found.cpu_s < 30
    return "" if used else f"cpu {found.cpu_s} s"


FORGING: tuple[Case, ...] = (
    Case(
        "a forged answer before an exit is not believed", "13", FORGE_AND_EXIT,
        every(_not_forged, lost), "harmless",
    ),
    Case("a forged answer before an error is not believed", "13", FORGE_AND_FAIL, _not_forged,
         "harmless"),
    Case(
        "a forged answer with a guessed nonce is not believed", "13", FORGE_AND_STAY,
        every(_not_forged, in_time(3)), "harmless",
    ),
    Case(
        "an answer forged with the run's own nonce does not touch the next", "13",
        (Step(OWN_NONCE), Step("1 + 1")), _next_is_true, "harmless",
    ),
    Case("writing on the box's own sockets forges nothing", "13", HIJACK, _not_forged, "harmless"),
    Case(
        "replacing the box's own functions touches no other session", "20",
        (Step(REPLACED, timeout_s=1), Step("1 + 1", who="two")), gives("2"), "harmless",
    ),
    Case(
        "a handler of the wake-up signal forges nothing after a reset", "",
        (Step(STATUS_CLAIMS), Step("print('mine')", reset=True)), prints("mine\n"), "harmless",
    ),
    Case(
        "stealing the next request harms this session only", "",
        (Step(READ_REQUESTS), Step("1 + 1", timeout_s=2), Step("1 + 1", who="two")),
        every(gives("2"), lambda seen: (
            "" if seen.results[1].value in ("2", None) else "a wrong answer"
        )),
        "harmless",
    ),
    Case(
        "processor time is measured outside", "",
        "used, time.process_time = time.process_time, lambda: 0.0\n"
        "stop = used() + 0.3\nwhile used() < stop: pass",
        _facts, "harmless",
    ),
    Case(
        "answers on stdin's descriptor change nothing", "",
        "os.dup2(1, 0)\nos.write(0, b'text\\n')\nraise ValueError", every(not_ok), "harmless",
    ),
)  # fmt: skip
