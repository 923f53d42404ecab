"""Ordinary work goes on: a fence that breaks numpy is no use."""

from __future__ import annotations

from agentrl.testing.sandbox_cases.case import Case, Step
from agentrl.testing.sandbox_cases.leaks import NOTEBOOK_LOOP
from agentrl.testing.sandbox_cases.verdicts import ends, every, gives

SYMBOLS = """
import numpy as np, sympy as sp
x = sp.Symbol("x")
assert sp.solve(x**2 - 4, x) == [-2, 2]
assert sp.integrate(x**2, (x, 0, 3)) == 9
assert np.linalg.det(np.eye(3)) == 1.0
np.save("array.npy", np.arange(5)); assert np.load("array.npy").sum() == 10
int(np.random.default_rng(0).integers(0, 2, 10).sum()) <= 10
"""

LIBRARY = """
import asyncio, bz2, concurrent.futures, csv, decimal, difflib, hashlib, html, json, lzma, re
import shutil, sqlite3, statistics, tempfile, threading, urllib.parse, uuid, zlib
assert asyncio.run(asyncio.sleep(0, "done")) == "done"
with concurrent.futures.ThreadPoolExecutor(4) as threads:
    assert sum(threads.map(abs, range(-5, 5))) == 25
db = sqlite3.connect("data.sqlite")
db.execute("create table t (a)"); db.execute("insert into t values (42)"); db.commit()
assert db.execute("select a from t").fetchone() == (42,)
with tempfile.TemporaryDirectory() as folder, open(folder + "/f", "w+") as f:
    f.write("x" * 1000)
    f.flush()
    shutil.copy(folder + "/f", "copy")
os.rename("copy", "moved"); os.remove("moved")
json.loads(json.dumps({"a": decimal.Decimal("1.5") == 1.5}))["a"]
"""

TIME_ZONES = """
import datetime, zoneinfo
try: zone = zoneinfo.ZoneInfo("Europe/Paris")
except zoneinfo.ZoneInfoNotFoundError: zone = datetime.timezone.utc
datetime.datetime(2024, 7, 1, 12, tzinfo=zone).year
"""

SOCKET_PAIR = """
import socket
a, b = socket.socketpair()
a.sendall(b"through"); b.recv(10)
"""

WORKING: tuple[Case, ...] = (
    Case("numpy and sympy work", "37", SYMBOLS, every(ends("ok"), gives("True")), "harmless",
         timeout_s=60),
    Case(
        "the standard library works", "37", LIBRARY, gives("True"), "harmless",
        known=(NOTEBOOK_LOOP,),
    ),
    Case("time zones work", "37", TIME_ZONES, gives("2024"), "harmless"),
    Case("a pair of sockets works", "7", SOCKET_PAIR, gives("b'through'"), "harmless"),
    Case(
        "threads compute while the cell waits", "37",
        "import threading\nfound = []\nt = threading.Thread(target=lambda: found.append(6 * 7))\n"
        "t.start(); t.join()\nfound",
        gives("[42]"), "harmless",
    ),
    Case(
        "the source of a function can be read back", "",
        (Step("import inspect\ndef f():\n    return 7"), Step("inspect.getsource(f).strip()")),
        gives(repr("def f():\n    return 7")), "harmless",
    ),
    Case(
        "a traceback shows the line that failed", "",
        (Step("def half(n):\n    return n / 0"), Step("half(1)")),
        lambda seen: "" if "return n / 0" in seen.last.stderr else "the line is not shown",
        "harmless",
    ),
)  # fmt: skip
