"""What one session leaves behind must not be there in the next."""

from __future__ import annotations

import ast

from agentrl.testing.sandbox_cases.case import SHORT_S, Case, Seen, Step
from agentrl.testing.sandbox_cases.leaks import NOTEBOOK_HOOK, OWN_FILES_READABLE
from agentrl.testing.sandbox_cases.verdicts import (
    closed_in_time,
    ends,
    every,
    fails_with,
    gives,
    in_time,
    prints_not,
    secret_kept,
)

REPLACE = """
import builtins, json, math
builtins.len = lambda *_: 3
builtins.print = lambda *a, **k: None
builtins.isinstance = lambda *_: True
json.dumps = lambda *a, **k: '"passed"'
math.isclose = lambda *a, **k: True
try:
    import numpy
    numpy.allclose = lambda *a, **k: True
except ImportError: pass
"""
IS_CLEAN = """
import json, math
try:
    import numpy
    close = bool(numpy.allclose(1, 2))
except ImportError: close = False
[len("four"), isinstance(1, str), json.dumps(1), math.isclose(1, 2), close]
"""
CLEAN = "[4, False, '1', False, False]"

SABOTAGE = """
import builtins, ast, traceback, linecache
for name in ("compile", "exec", "eval", "repr", "getattr", "print", "open", "BaseException"):
    setattr(builtins, name, None)
ast.parse = None
traceback.format_exception_only = None
linecache.cache = None
sys.stdout = sys.stderr = None
"""

HOOKS = """
import importlib.abc, importlib.machinery
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "colorsys": raise ImportError("hooked")
sys.meta_path.insert(0, Finder())
sys.path_hooks.insert(0, lambda p: (_ for _ in ()).throw(RuntimeError("hooked")))
sys.path.insert(0, os.getcwd())
sys.modules["statistics"] = None
sys.modules["fractions"] = type(sys)("fractions")
sys.setrecursionlimit(100_000)
"""
HOOKS_GONE = """
import colorsys, statistics
from fractions import Fraction
[statistics.mean([1, 3]), str(Fraction(1, 2)), sys.getrecursionlimit() < 50_000]
"""

TRACING = """
import threading
def spin(*_):
    raise RuntimeError("traced")
threading.settrace(spin)
threading.setprofile(spin)
sys.setprofile(lambda *a: None)
sys.settrace(lambda *a: None)
"""

EXIT_HOOKS = """
import atexit, signal
sys.excepthook = sys.unraisablehook = sys.displayhook = lambda *a: os._exit(7)
for n in (signal.SIGUSR1, signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM):
    signal.signal(n, lambda *_: os._exit(7))
"""
HOOKS_AT_REST = """
import signal
[signal.getsignal(n) in (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler)
 for n in (signal.SIGUSR1, signal.SIGALRM)] + [sys.excepthook is sys.__excepthook__]
"""

HABITS = """
for name in ("sitecustomize.py", "usercustomize.py", "json.py", "random.py", "numpy.py", "ast.py", "x.pth"):
    write(name, "raise SystemExit('planted')")
home = os.path.expanduser("~")
try:
    os.makedirs(home + "/.local/lib/python3.11/site-packages", exist_ok=True)
    write(home + "/.local/lib/python3.11/site-packages/usercustomize.py", "raise SystemExit")
    write(home + "/.pythonrc", "raise SystemExit")
except OSError: pass
os.environ.update(PYTHONSTARTUP="sitecustomize.py", PYTHONPATH=os.getcwd(), LD_PRELOAD="/x.so",
                  PYTHONHASHSEED="0", LC_ALL="xx_XX", PYTHONHOME="/nowhere", TZ="Mars/Base", MARKED="1")
time.tzset()
import locale
try: locale.setlocale(locale.LC_ALL, "")
except locale.Error: pass
"""
HABITS_GONE = """
import json, random
[name in os.environ for name in ("PYTHONSTARTUP", "LD_PRELOAD", "MARKED")] + [os.listdir()]
"""

LOCALE = """
import decimal, locale
decimal.getcontext().prec = 2
os.umask(0o777)
os.chdir("/")
sys.set_int_max_str_digits(0)
"""
LOCALE_GONE = """
import decimal
write("made"); read("made")
[decimal.getcontext().prec, os.path.isfile("made"), sys.get_int_max_str_digits()]
"""

RANDOM = """
import random, secrets, uuid, tempfile
draws = [random.random(), secrets.token_hex(8), str(uuid.uuid4()), os.path.basename(tempfile.mktemp())]
try:
    import numpy
    draws += [float(numpy.random.rand()), float(numpy.random.default_rng().random())]
except ImportError: pass
try:
    import sympy.core.random
    draws.append(sympy.core.random.random())
except ImportError: pass
draws
"""

TOKEN = "token = 'neigh' + 'bour-' + MARK\nkept = [token] * 10"
SNOOP = """
import gc, re
pattern = re.compile("neigh" + "bour-m[0-9a-f]{12}")
found = set()
def look(item):
    if type(item) is str: found.update(pattern.findall(item))
    if type(item) is bytes: found.update(pattern.findall(item.decode("latin-1")))
for thing in gc.get_objects():
    if type(thing) is dict: thing = thing.values()
    elif type(thing) not in (list, tuple, set): thing = (thing,)
    for item in list(thing): look(item)
for name in ("/proc/self/mem", "/dev/shm", "/tmp", os.getcwd()):
    try:
        for entry in os.listdir(name): look(entry); look(read(os.path.join(name, entry)))
    except OSError: pass
sorted(found)
"""

SEEK = """
import ast
folder = ast.literal_eval(EARLIER[0])
attempt("read", lambda: read(os.path.join(folder, "mine-" + MARK)))
attempt("list", lambda: " ".join(os.listdir(folder)))
attempt("write", write, os.path.join(folder, "mine-" + MARK), "from the second")
print(tried["read"], tried["list"])
"""


def _differ(seen: Seen) -> str:
    """No draw of one session turns up in another."""
    draws: list[object] = []
    for result in seen.results:
        draws += ast.literal_eval(result.value or "[]")
    if not draws:
        return "nothing was drawn"
    same = len(draws) - len(set(map(str, draws)))
    return f"{same} draws are alike" if same else ""


LINGERING: tuple[Case, ...] = (
    Case(
        "replaced builtins are whole again after a reset", "20",
        (Step(REPLACE), Step(IS_CLEAN, reset=True)), gives(CLEAN), "harmless",
    ),
    Case(
        "replaced builtins are whole in the next session", "20",
        (Step(REPLACE, timeout_s=1), Step(IS_CLEAN, who="two")), gives(CLEAN), "harmless",
    ),
    Case(
        "sabotage of the interpreter ends in an answer and a reset mends it", "20",
        (Step(SABOTAGE), Step("1 + 1", timeout_s=5), Step("1 + 1", reset=True)),
        every(in_time(5, step=1), gives("2"), closed_in_time), "harmless",
    ),
    Case(
        "import hooks do not survive a reset", "",
        (Step(HOOKS), Step(HOOKS_GONE, reset=True)), gives("[2, '1/2', True]"), "harmless",
    ),
    Case(
        "trace functions left behind do not break the next cell", "",
        (Step(TRACING), Step("1 + 1"), Step("1 + 1", reset=True)),
        every(gives("2", step=1), gives("2")), "harmless",
    ),
    Case(
        "signal handlers and exit hooks do not survive a reset", "",
        (Step(EXIT_HOOKS), Step(HOOKS_AT_REST, reset=True)), gives("[True, True, True]"),
        "harmless", known=(NOTEBOOK_HOOK,),
    ),
    Case(
        "a replaced handler of the interrupt does not stop the next deadline", "",
        (
            Step("import signal\nsignal.signal(signal.SIGINT, lambda *_: None)"),
            Step("while True: pass", timeout_s=SHORT_S),
        ),
        every(ends("timeout", "cpu_limit"), in_time(SHORT_S)), "harmless",
    ),
    Case(
        "files named like modules and variables do not bend the next session", "",
        (Step(HABITS), Step(HABITS_GONE, reset=True)), gives("[False, False, False, []]"),
        "harmless",
    ),
    Case(
        "mask, folder and precision are as new after a reset", "",
        (Step(LOCALE), Step(LOCALE_GONE, reset=True)), gives("[28, True, 4300]"), "harmless",
    ),
    Case(
        "reset forgets names and files", "",
        (
            Step("x = 41\nwrite('note')"),
            Step("('x' in globals(), os.listdir())", reset=True),
        ),
        gives("(False, [])"), "harmless",
    ),
    Case(
        "state lives on from cell to cell", "",
        (Step("x = 41\ndef f(n): return n + x"), Step("f(1)")), gives("42"), "harmless",
    ),
    Case(
        "sessions do not see each other's names", "",
        (Step("x = 41"), Step("x", who="two")), fails_with("NameError"), "harmless",
    ),
    Case(
        "sessions do not see each other's files", "",
        (
            Step("write('mine-' + MARK, 'of the first')\nos.getcwd()"),
            Step(SEEK, who="two"),
            Step("read('mine-' + MARK)"),
        ),
        every(prints_not("first", step=1), prints_not("mine-", step=1), gives("'of the first'")),
        known=(OWN_FILES_READABLE,),
    ),
    Case(
        "sessions do not find each other's text in memory", "28",
        (Step(TOKEN), Step(SNOOP, who="two")), every(gives("[]"), secret_kept), "harmless",
    ),
    Case(
        "a fresh interpreter holds no text of the one before", "28",
        (Step(TOKEN), Step(SNOOP, reset=True)), gives("[]"), "harmless",
    ),
    Case(
        "random numbers differ between sessions and after a reset", "36",
        (Step(RANDOM), Step(RANDOM, who="two"), Step(RANDOM, reset=True)), _differ, "harmless",
    ),
    Case(
        "a seed gives the same numbers in every session", "36",
        (
            Step("import random; random.seed(5); random.random()"),
            Step("import random; random.seed(5); random.random()", who="two"),
        ),
        lambda seen: "" if len({r.value for r in seen.results}) == 1 else "they differ",
        "harmless",
    ),
    Case(
        "classes and pickles belong to the session's own module", "",
        (
            Step("import pickle\nclass Point:\n    def __init__(self): self.x = 4"),
            Step("pickle.loads(pickle.dumps(Point())).x, __name__"),
        ),
        gives("(4, '__main__')"), "harmless",
    ),
)  # fmt: skip
