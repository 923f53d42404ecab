"""The parts of the fence on their own, against other implementations and by hand."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from agentrl_sandbox import quota
from agentrl_sandbox.capture import Capture
from agentrl_sandbox.child import peak_mb
from agentrl_sandbox.inside import branch, kernel, landlock, seccomp, syscalls, visible, wire
from agentrl_sandbox.inside.folders import remove_tree
from agentrl_sandbox.inside.plan import Plan

linux = pytest.mark.skipif(sys.platform != "linux", reason="system calls of Linux")
ALLOW, KILL, EPERM, ENOSYS, NOTHING = 0x7FFF0000, 0x80000000, 0x50001, 0x50026, 0x50000
ASK = 0x7FC00000


def simulate(program: bytes, number: int, arguments: tuple[int, ...] = (), arch: int = 0) -> int:
    """Run a filter as the kernel would: `struct seccomp_data` in, the answer out."""
    padded = [a & (1 << 64) - 1 for a in (*arguments, *[0] * (6 - len(arguments)))]
    data = struct.pack("=IIQ6Q", number, arch or syscalls.AUDIT_ARCH["x86_64"], 0, *padded)
    code = [struct.unpack_from("=HBBI", program, i) for i in range(0, len(program), 8)]
    accumulator = place = 0
    while True:
        operation, yes, no, value = code[place]
        place += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x15:
            place += yes if accumulator == value else no
        elif operation == 0x35:
            place += yes if accumulator >= value else no
        elif operation == 0x25:
            place += yes if accumulator > value else no
        elif operation == 0x45:
            place += yes if accumulator & value else no
        elif operation == 0x05:
            place += value
        elif operation == 0x06:
            return value
        else:
            raise AssertionError(f"unknown operation {operation:#x}")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr("agentrl_sandbox.inside.kernel.ARCH", "x86_64")
    return seccomp.build(77, private_files=False)


@pytest.mark.parametrize(
    ("number", "arguments", "answer"),
    [
        (0, (), ALLOW),  # read
        (41, (2, 1, 0), EPERM),  # socket
        (42, (), EPERM),  # connect
        (53, (1, 1), ALLOW),  # socketpair of streams
        (53, (1, 1 | 0o2000000 | 0o4000), ALLOW),  # the same, close-on-exec and non-blocking
        (53, (1, 2), EPERM),  # socketpair of datagrams
        (53, (1, 5), EPERM),  # of packets
        (56, (0x3D0F00,), ALLOW),  # clone as pthread_create calls it
        (56, (17,), EPERM),  # clone as fork calls it
        (56, (0x10000000 | 17,), EPERM),  # clone into a user namespace
        (57, (), EPERM),  # fork
        (59, (), EPERM),  # execve
        (62, (77, 9), ALLOW),  # kill itself
        (62, (0, 9), ALLOW),  # its group, which is itself
        (62, (78, 9), EPERM),
        (62, (-1, 9), EPERM),
        (62, (-77, 9), EPERM),
        (62, ((1 << 32) + 77, 9), ALLOW),  # the kernel reads 32 bits too
        (72, (5, 8, 99), EPERM),  # fcntl F_SETOWN
        (72, (5, 3), ALLOW),  # fcntl F_GETFL
        (16, (5, 0x8901), EPERM),  # ioctl FIOSETOWN
        (16, (5, 0x5401), ALLOW),  # ioctl TCGETS
        (90, (), NOTHING),  # chmod, answered "done"
        (92, (), EPERM),  # chown
        (157, (1, 0), EPERM),  # prctl PR_SET_PDEATHSIG
        (157, (15, 0), ALLOW),  # prctl PR_SET_NAME
        (302, (0, 7), ALLOW),  # prlimit64 of itself
        (302, (78, 7), EPERM),
        (425, (), ENOSYS),  # io_uring_setup
        (435, (), ENOSYS),  # clone3
        (451, (), ALLOW),  # the newest call reviewed
        (452, (), ENOSYS),
        (0x40000000, (), KILL),  # x32
        (0xFFFFFFFF, (), KILL),
    ],
)
def test_filter_by_hand(
    program: bytes, number: int, arguments: tuple[int, ...], answer: int
) -> None:
    assert simulate(program, number, arguments) == answer


@pytest.mark.parametrize(
    ("number", "arguments", "answer"),
    [
        (62, (0, 9), ALLOW),  # kill its own group
        (62, (77, 9), ASK),  # who 77 is depends on who asks
        (234, (77, 77, 6), ASK),  # tgkill
        (302, (0, 7), ALLOW),  # prlimit64 of itself
        (56, (0x3D0F00,), ALLOW),  # clone as pthread_create calls it
        (56, (17,), EPERM),  # clone as fork calls it
        (56, (0x1208011,), ASK),  # a copy: SIGCHLD, PARENT, CHILD_SETTID, CHILD_CLEARTID
        (56, (0x1208011 | 0x10000000,), EPERM),  # with a user namespace of its own
        (56, (0x1208011 | 0x100,), EPERM),  # sharing memory
        (112, (), ASK),  # setsid
        (109, (0, 0), EPERM),  # setpgid
        (157, (1, 9), ASK),  # prctl PR_SET_PDEATHSIG
        (157, (4, 1), EPERM),  # PR_SET_DUMPABLE
        (157, (15, 0), ALLOW),  # PR_SET_NAME
    ],
)
def test_filter_that_asks_by_hand(
    monkeypatch: pytest.MonkeyPatch, number: int, arguments: tuple[int, ...], answer: int
) -> None:
    """On both machines, whose numbers for these calls are written out here."""
    aarch64 = {62: 129, 234: 131, 302: 261, 56: 220, 112: 157, 109: 154, 157: 167}
    for machine, called in (("x86_64", number), ("aarch64", aarch64[number])):
        monkeypatch.setattr("agentrl_sandbox.inside.kernel.ARCH", machine)
        arch = syscalls.AUDIT_ARCH[machine]
        program = seccomp.build(77, private_files=False, judged=True)
        assert simulate(program, called, arguments, arch) == answer


def test_a_copy_with_a_file_tree_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the one way of forking has NEWUSER and NEWNS in it, and the other way is closed."""
    monkeypatch.setattr("agentrl_sandbox.inside.kernel.ARCH", "x86_64")
    program = seccomp.build(77, private_files=True, judged=True)
    assert simulate(program, 56, (0x1208011 | 0x10020000,)) == ASK
    assert simulate(program, 56, (0x1208011,)) == EPERM


@linux
def test_numbers_that_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of `kernel`, which the sandbox calls itself, against libseccomp's for both machines."""
    pyseccomp = pytest.importorskip("pyseccomp")
    for machine, numbers in kernel._SYSCALLS.items():
        arch = getattr(pyseccomp.Arch, machine.upper())
        for name, number in (numbers | kernel._LANDLOCK).items():
            found = pyseccomp.resolve_syscall(arch, name)
            assert found in (number, -1) or found < 0, (machine, name, found)


def test_the_order_of_the_arguments_of_clone() -> None:
    """`clone(2)`: the child's thread id pointer is the fourth on x86_64, the fifth on aarch64."""
    assert branch.clone_arguments("x86_64", 0x1208011, 99) == (0x1208011, 0, 0, 99, 0)
    assert branch.clone_arguments("aarch64", 0x1208011, 99) == (0x1208011, 0, 0, 0, 99)


def test_filter_kills_other_machines(program: bytes) -> None:
    assert simulate(program, 0, arch=0x40000003) == KILL


def test_private_files_may_change_their_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl_sandbox.inside.kernel.ARCH", "x86_64")
    program = seccomp.build(1, private_files=True)
    assert [simulate(program, number) for number in (90, 92, 188)] == [ALLOW] * 3


def test_an_unknown_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl_sandbox.inside.kernel.ARCH", "riscv64")
    with pytest.raises(OSError, match="riscv64"):
        seccomp.build(1, private_files=False)


@linux
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_numbers_against_libseccomp(machine: str) -> None:
    pyseccomp = pytest.importorskip("pyseccomp")
    arch = getattr(pyseccomp.Arch, machine.upper())
    known = {}
    for name in syscalls.NUMBERS[machine]:
        try:
            known[name] = pyseccomp.resolve_syscall(arch, name)
        except ValueError:
            continue
    assert len(known) > 80
    assert {name: syscalls.NUMBERS[machine][name] for name in known} == known


@linux
@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_against_libseccomp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, judged: bool
) -> None:
    """libseccomp's program for the same rules answers alike on every call and many arguments.

    Left out are the calls where the argument decides what is *allowed* or asked about, which
    libseccomp cannot say below an allowing default; they are worked out by hand above.
    """
    monkeypatch.setattr("agentrl_sandbox.inside.kernel.ARCH", machine)
    numbers, arch = syscalls.NUMBERS[machine], syscalls.AUDIT_ARCH[machine]
    theirs = _by_libseccomp(tmp_path / "filter.bpf", machine, judged)
    ours = seccomp.build(77, private_files=False, judged=judged)
    by_hand = {numbers[n] for n in (*seccomp.PINNED.split(), "socketpair")}
    rng = random.Random(5)
    special = [0, 1, 4, 5, 8, 10, 15, 77, 0x8901, 0x5412, 0x10000, 0x3D0F00, -1, 1 << 32 | 8]
    for number in set(range(syscalls.NEWEST + 1)) - by_hand:
        for _ in range(24):
            arguments = tuple(rng.choice(special) for _ in range(3))
            answers = [simulate(p, number, arguments, arch) for p in (ours, theirs)]
            assert answers[0] == answers[1], (number, arguments)


def _by_libseccomp(path: Path, machine: str, judged: bool) -> bytes:
    """Its filter for a machine, from names: it looks the numbers up by itself."""
    pyseccomp = pytest.importorskip("pyseccomp")
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    wanted = getattr(pyseccomp.Arch, machine.upper())
    if not rules.exist_arch(wanted):
        rules.add_arch(wanted)
        rules.remove_arch(pyseccomp.Arch.NATIVE)

    def add(action: object, name: str, *comparisons: object) -> None:
        # What the machine lacks has a negative number there, and no rule is needed.
        if name in syscalls.NUMBERS[machine]:
            rules.add_rule(action, name, *comparisons)

    for names, code in (
        (seccomp.ABSENT, 38),
        (seccomp.REFUSED, 1),
        (seccomp.METADATA_REFUSED, 1),
        (seccomp.METADATA_IGNORED, 0),
    ):
        for name in names.split():
            add(pyseccomp.ERRNO(code), name)
    refused = [("fcntl", 1, 0xFFFFFFFF, value) for value in (8, 10, 15)]
    refused += [("ioctl", 1, 0xFFFFFFFF, value) for value in (0x8901, 0x8902, 0x5412, 0x541C)]
    refused += [("prctl", 0, 0xFFFFFFFF, value) for value in (4, *([] if judged else [1]))]
    refused += [("clone", 0, 0x10000, 0)]
    for name, index, mask, value in refused:
        add(pyseccomp.ERRNO(1), name, pyseccomp.Arg(index, pyseccomp.MASKED_EQ, mask, value))
    if judged:
        add(pyseccomp.NOTIFY, "setsid")
        add(pyseccomp.NOTIFY, "prctl", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, 0xFFFFFFFF, 1))
    with path.open("wb") as file:
        rules.export_bpf(file)
    return path.read_bytes()


# --- Landlock, in a child of our own ---------------------------------------------------------


@linux
@pytest.mark.skipif(sys.platform == "linux" and landlock.abi() == 0, reason="no Landlock here")
def test_landlock_rights(tmp_path: Path) -> None:
    """One readable folder, one of its own, the rest closed; judged by a restricted child."""
    for name in ("read", "own", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    script = """
import os, sys
from agentrl_sandbox.inside import kernel, landlock
base = sys.argv[1]
os.chdir(base)
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
landlock.restrict(("read", "missing"), ("own",), ())
def can(act, *arguments):
    try: act(*arguments)
    except OSError: return False
    return True
def write(path):
    with open(path, "w") as f: f.write("changed")
print([
    can(open, "read/file"), can(os.listdir, "read"), can(write, "read/file"), can(write, "read/new"),
    can(open, "own/file"), can(write, "own/new"), can(os.mkdir, "own/d"), can(os.rmdir, "own/d"),
    can(os.truncate, "own/new", 0), can(os.unlink, "own/file"), can(os.mkfifo, "own/p"),
    can(open, "closed/file"), can(os.listdir, "closed"), can(write, "closed/file"),
    can(os.rename, "own/new", "closed/new"), can(os.symlink, "x", "closed/l")])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == str([True, True, False, False] + [True] * 7 + [False] * 5).split()


ABI_SCRIPT = """
import os, socket, sys
from agentrl_sandbox.inside import kernel, landlock
base = sys.argv[1]
os.chdir(base)
listening = socket.socket(); listening.bind(("127.0.0.1", 0)); listening.listen()
port = listening.getsockname()[1]
hidden = socket.socket(socket.AF_UNIX); hidden.bind("\\0agentrl-test-%d" % os.getpid())
hidden.listen()
name = hidden.getsockname()
def can(act, *arguments):
    try: act(*arguments)
    except OSError: return 0
    return 1
def write(path):
    with open(path, "w") as f: f.write("changed")
def connect(family, address):
    with socket.socket(family) as s: s.connect(address)
def judge(version, parent):
    landlock.abi = lambda: version
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    landlock.restrict(("read",), ("own",), ("/dev/null",))
    return [
        can(open, "closed/file"), can(write, "read/file"), can(open, "read/file"),
        can(write, "own/a/new"), can(os.rename, "own/a/new", "own/b/new"),
        can(os.truncate, "read/file", 1), can(connect, socket.AF_INET, ("127.0.0.1", port)),
        can(connect, socket.AF_UNIX, name), can(os.kill, parent, 0)]
for version in map(int, sys.argv[2:]):
    sys.stdout.flush()
    me = os.getpid()
    if os.fork() == 0:
        print(version, *judge(version, me), flush=True)
        os._exit(0)
    os.wait()
"""


@linux
@pytest.mark.skipif(sys.platform == "linux" and landlock.abi() == 0, reason="no Landlock here")
def test_landlock_of_older_kernels(tmp_path: Path) -> None:
    """What each ABI refuses beyond the last, by `landlock(7)`; the filter stands in for the rest.

    Columns: read what is closed, write what is readable, read it, write one's own, move between
    own folders (from 2), truncate what is readable (refused from 3), connect by TCP (from 4), to
    an abstract socket, signal a parent (both from 6). Never refused in part: what 1 refuses.
    """
    for name in ("read", "own/a", "own/b", "closed"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text(name)
    versions = range(1, landlock.abi() + 1)
    done = subprocess.run(
        [sys.executable, "-c", ABI_SCRIPT, str(tmp_path), *map(str, versions)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = {
        1: "0 0 1 1 0 1 1 1 1",
        2: "0 0 1 1 1 1 1 1 1",
        3: "0 0 1 1 1 0 1 1 1",
        4: "0 0 1 1 1 0 0 1 1",
        5: "0 0 1 1 1 0 0 1 1",
        6: "0 0 1 1 1 0 0 0 0",
        7: "0 0 1 1 1 0 0 0 0",
    }
    assert done.stdout.splitlines() == [f"{v} {expected[min(v, 7)]}" for v in versions]


@pytest.mark.parametrize(
    ("version", "size", "rights"),
    [(1, 8, 0x1FFF), (2, 8, 0x3FFF), (3, 8, 0x7FFF), (4, 16, 0x7FFF), (5, 16, 0xFFFF),
     (6, 24, 0xFFFF), (7, 24, 0xFFFF), (9, 24, 0xFFFF)],
)  # fmt: skip
def test_landlock_asks_for_what_the_kernel_knows(
    monkeypatch: pytest.MonkeyPatch, version: int, size: int, rights: int
) -> None:
    """Sizes and rights of `struct landlock_ruleset_attr` as each ABI has them, by `linux/landlock.h`."""
    asked: list[tuple[object, ...]] = []

    def syscall(name: str, *arguments: object) -> int:
        asked.append((name, bytes(arguments[0]), *arguments[1:]))  # type: ignore[arg-type]
        return 3

    monkeypatch.setattr(kernel, "syscall", syscall)
    assert landlock._ruleset(version) == 3
    expected = struct.pack("=QQQ", rights, 3, 3)[:size]
    assert asked == [("landlock_create_ruleset", expected, size, 0)]


# --- small parts -----------------------------------------------------------------------------


def test_nothing_of_a_home_is_visible() -> None:
    roots = visible.readable()
    home = os.path.expanduser("~")
    assert not any(home == root or home.startswith(root + "/") for root in roots)
    assert not any(root in ("/", "/etc", "/home", "/tmp", sys.prefix) for root in roots)
    assert any(os.__file__.startswith(root) for root in roots)


def test_outermost_paths(tmp_path: Path) -> None:
    for name in ("a/b", "ab", "c"):
        (tmp_path / name).mkdir(parents=True)
    paths = [str(tmp_path / name) for name in ("a/b", "ab", "a", "c/../c", "missing")]
    assert visible.outermost(paths) == tuple(str(tmp_path / name) for name in ("a", "ab", "c"))


@pytest.mark.parametrize("sizes", [[5], [3, 4], [1] * 20, [10, 10], [7, 0, 9], [2, 30, 1]])
def test_capture_keeps_both_ends(sizes: list[int]) -> None:
    """Of a stream cut at 9 bytes the first 5 and the last 4 stay, however it was chopped."""
    stream = bytes(random.Random(1).choices(b"abcdefgh", k=sum(sizes)))
    capture, rest = Capture(9), stream
    for size in sizes:
        capture.add(rest[:size])
        rest = rest[size:]
    dropped = max(len(stream) - 9, 0)
    text = stream.decode()
    cut = f"{text[:5]}\n... [{dropped} bytes left out] ...\n{text[-4:]}"
    assert (capture.text(), capture.dropped) == (cut if dropped else text, dropped)


def test_peak_memory_in_the_units_of_each_system() -> None:
    assert peak_mb(150 * 1024, "linux") == 150
    assert peak_mb(150 << 20, "darwin") == 150


def test_capture_holds_little_of_a_flood() -> None:
    capture = Capture(1000)
    for _ in range(2000):
        capture.add(b"x" * 65_536)
    assert capture.dropped == 2000 * 65_536 - 1000
    assert len(capture._tail) <= 65_536 + 5096
    assert len(capture.text()) < 1100


def test_frames_by_hand() -> None:
    """A reply to nonce 16x"n" with value "4" and no error is 16 + 1 + 4 + 4 + 1 bytes."""
    nonce = b"n" * 16
    frame = wire.reply(nonce, wire.OK, b"4", None)
    assert frame == nonce + b"\x02" + b"\0\0\0\x02" + b"\0\0\0\0" + b"4"
    assert wire.parse_reply(frame, 10) == wire.Reply(nonce, wire.OK, "4", None)
    assert all(wire.parse_reply(frame[:n], 10) is None for n in range(len(frame)))
    empty = wire.parse_reply(wire.reply(nonce, wire.ERROR, None, b""), 10)
    assert empty == wire.Reply(nonce, wire.ERROR, None, "")
    for bad in (nonce + b"\x09" + bytes(8), wire.reply(nonce, wire.OK, b"x" * 20, None)):
        with pytest.raises(ValueError, match="malformed"):
            wire.parse_reply(bad, 10)
    frame = wire.request(nonce, "\ud800x", wire.COPY)
    assert frame.startswith(b"\x01" + nonce + b"\0\0\0\x04")
    assert wire.parse_request(bytearray(frame)) == (wire.COPY, nonce, "\ud800x")
    assert all(wire.parse_request(bytearray(frame[:n])) is None for n in range(len(frame)))


def test_plan_round_trip() -> None:
    plan = Plan("lite", 1, 2, 3, 4, warm=False)
    assert Plan.from_json(plan.to_json()) == plan
    assert [Plan(n, 1, 1, 1, 1).namespaces for n in ("none", "lite", "standard")] == [
        False,
        False,
        True,
    ]


def test_a_spiteful_folder_is_removed(tmp_path: Path) -> None:
    """Deeper than paths can name, closed folders, links out, odd names."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    work = tmp_path / "work"
    work.mkdir()
    here = os.getcwd()
    os.chdir(work)
    try:
        for depth in range(600):
            os.mkdir("d" * 20)
            if depth % 100 == 0:
                Path("file").write_text("x")
                os.symlink(outside, "link")
            os.chdir("d" * 20)
    finally:
        os.chdir(here)
    (work / ".1-0").mkdir()
    (work / "odd\n\udcff").write_text("x")
    (work / "closed").mkdir()
    (work / "closed" / "f").write_text("x")
    (work / "closed").chmod(0)
    os.mkfifo(work / "pipe")
    remove_tree(str(work))
    assert sorted(os.listdir(tmp_path)) == ["outside"]
    assert (outside / "kept").read_text() == "kept"
    remove_tree(str(work))


def test_quota_counts_blocks_and_entries(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_bytes(b"x" * 100_000)
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 30)
    os.symlink("/usr", tmp_path / "link")
    assert not quota.exceeds(str(tmp_path), 150_000)
    assert quota.exceeds(str(tmp_path), 90_000)
    for n in range(quota.ENTRIES):
        (tmp_path / "a" / str(n)).touch()
    assert quota.exceeds(str(tmp_path), 1 << 30)
    assert not quota.exceeds(str(tmp_path / "gone"), 1)
