"""The system-call filter: a small BPF assembler and the list of what model code may not call.

Everything not named is allowed, except calls newer than the ones reviewed here, which do not exist
as far as the code can tell. The filter is made after the fork, because it pins every call that
takes a process id to the session's own. Sizes and offsets are those of `linux/seccomp.h` and
`linux/filter.h`; both supported machines are little-endian.
"""

from __future__ import annotations

import ctypes
import errno
import signal
import struct

from agentrl_sandbox.inside import kernel
from agentrl_sandbox.inside.syscalls import AUDIT_ARCH, NEWEST, NUMBERS

_LOAD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_AND = 0x54
ALLOW, KILL, ERRNO, ASK = 0x7FFF0000, 0x80000000, 0x00050000, 0x7FC00000
_NR, _ARCH, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_CLONE_THREAD = 0x00010000
_SOCK_STREAM = 1
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15
_FIOSETOWN, _SIOCSPGRP, _TIOCSTI, _TIOCLINUX = 0x8901, 0x8902, 0x5412, 0x541C

ABSENT = "clone3 io_uring_setup io_uring_enter io_uring_register"
"""Answered ENOSYS, so that the C library falls back to calls whose arguments can be checked."""

REFUSED = (
    "fork vfork execve execveat "
    "socket connect bind listen accept accept4 "
    "setpgid ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp "
    "tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_send_signal pidfd_getfd "
    "setpriority ioprio_set migrate_pages move_pages mbind set_mempolicy set_mempolicy_home_node "
    "unshare setns mount umount2 pivot_root chroot move_mount open_tree mount_setattr "
    "fsopen fsconfig fsmount fspick "
    "name_to_handle_at open_by_handle_at fanotify_init inotify_init inotify_init1 "
    "bpf perf_event_open userfaultfd add_key request_key keyctl "
    "memfd_create memfd_secret shmget shmat shmctl msgget msgsnd msgrcv msgctl "
    "semget semop semctl semtimedop mq_open mq_unlink "
    "init_module finit_module delete_module kexec_load kexec_file_load reboot "
    "swapon swapoff acct quotactl quotactl_fd syslog lookup_dcookie "
    "iopl ioperm modify_ldt personality vhangup uselib _sysctl nfsservctl "
    "settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname "
    "mknod mknodat"
)
"""Answered EPERM always."""

METADATA_REFUSED = (
    "chown lchown fchown fchownat setxattr lsetxattr fsetxattr "
    "removexattr lremovexattr fremovexattr truncate"
)
METADATA_IGNORED = "chmod fchmod fchmodat utime utimes futimesat utimensat"
"""Without a private file tree Landlock leaves these open on every file of the same user: they then
do nothing and answer success, so that `shutil.copy` goes on working in the work folder."""

PINNED = "kill tgkill sched_setaffinity sched_setscheduler sched_setparam sched_setattr prlimit64"
"""Allowed on the session's own process only."""

COPY_FLAGS = (
    signal.SIGCHLD | kernel.CLONE_PARENT | kernel.CLONE_CHILD_SETTID | kernel.CLONE_CHILD_CLEARTID
)
"""The one way of forking that a zygote can be asked for: the copy is a child of the zygote."""


class _Program:
    """BPF instructions under construction; every rule ends in a return, so order is priority."""

    def __init__(self) -> None:
        self.code: list[tuple[int, int, int, int]] = []

    def emit(self, operation: int, value: int, yes: int = 0, no: int = 0) -> None:
        """Append one instruction; `yes` and `no` are how many to skip after a comparison."""
        self.code.append((operation, yes, no, value & 0xFFFFFFFF))

    def always(self, name: str, answer: int) -> None:
        """Answer every call of that name; one that this machine lacks needs no rule."""
        number = NUMBERS[kernel.ARCH].get(name)
        if number is not None:
            self.emit(_JEQ, number, 0, 1)
            self.emit(_RET, answer)

    def by_argument(
        self, name: str, index: int, values: list[int], *, match: int, other: int, mask: int = -1
    ) -> None:
        """Answer `match` when the low half of argument `index` under `mask` is in `values`."""
        number = NUMBERS[kernel.ARCH].get(name)
        if number is None:
            return
        masked = [(_AND, mask)] if mask != -1 else []
        self.emit(_JEQ, number, 0, 1 + len(masked) + 2 * len(values) + 1)
        self.emit(_LOAD, _ARGUMENTS + 8 * index)
        for operation, value in masked:
            self.emit(operation, value)
        for value in values:
            self.emit(_JEQ, value, 0, 1)
            self.emit(_RET, match)
        self.emit(_RET, other)

    def ask_for(self, name: str, index: int, value: int) -> None:
        """Ask when the low half of argument `index` is `value`; else go on to the next rules."""
        number = NUMBERS[kernel.ARCH][name]
        self.emit(_JEQ, number, 0, 4)
        self.emit(_LOAD, _ARGUMENTS + 8 * index)
        self.emit(_JEQ, value, 0, 1)
        self.emit(_RET, ASK)
        self.emit(_LOAD, _NR)

    def packed(self) -> bytes:
        """The instructions as an array of `struct sock_filter`."""
        return b"".join(struct.pack("=HBBI", *instruction) for instruction in self.code)


def copy_flags(private_files: bool) -> int:
    """Flags of `clone` that make a copy of a session; with a file tree of its own if it has one."""
    return COPY_FLAGS | (kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS if private_files else 0)


def build(pid: int, *, private_files: bool, judged: bool = False) -> bytes:
    """The filter for the process `pid`, as an array of `struct sock_filter`.

    `private_files`: the process lives in a mount namespace of its own, so that changing the mode
    or times of a file can only touch its work folder. `judged`: a zygote listens, see `family`; it
    decides on calls that name a process, which keeps the filter right for copies of the process,
    and on forking. Raises OSError on an unknown machine.
    """
    if kernel.ARCH not in AUDIT_ARCH:
        raise OSError(f"no system call table for {kernel.ARCH}")
    refuse = ERRNO | errno.EPERM
    program = _Program()
    program.emit(_LOAD, _ARCH)
    program.emit(_JEQ, AUDIT_ARCH[kernel.ARCH], 1, 0)
    program.emit(_RET, KILL)
    program.emit(_LOAD, _NR)
    program.emit(_JGE, _X32, 0, 1)
    program.emit(_RET, KILL)
    program.emit(_JGE, NEWEST + 1, 0, 1)
    program.emit(_RET, ERRNO | errno.ENOSYS)
    for name in ABSENT.split():
        program.always(name, ERRNO | errno.ENOSYS)
    for name in REFUSED.split():
        program.always(name, refuse)
    if not private_files:
        for name in METADATA_REFUSED.split():
            program.always(name, refuse)
        for name in METADATA_IGNORED.split():
            program.always(name, ERRNO)
    _arguments(program, refuse)
    _processes(program, None if judged else pid, copy_flags(private_files), refuse)
    program.emit(_RET, ALLOW)
    return program.packed()


def _processes(program: _Program, pid: int | None, flags: int, refuse: int) -> None:
    """Calls that name or make a process. `pid` None: what is not plain is asked about."""
    for name in PINNED.split():
        if pid is None:
            program.by_argument(name, 0, [0], match=ALLOW, other=ASK)
        else:
            program.by_argument(name, 0, [0, pid], match=ALLOW, other=refuse)
    if pid is None:
        program.ask_for("clone", 0, flags)
        program.ask_for("prctl", 0, _PR_SET_PDEATHSIG)
        program.always("setsid", ASK)
    program.by_argument("clone", 0, [_CLONE_THREAD], match=ALLOW, other=refuse, mask=_CLONE_THREAD)
    program.by_argument(
        "prctl", 0, [_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE], match=refuse, other=ALLOW
    )


def _arguments(program: _Program, refuse: int) -> None:
    # A datagram pair could still be sent to any socket file by address.
    program.by_argument("socketpair", 1, [_SOCK_STREAM], match=ALLOW, other=refuse, mask=0xF)
    program.by_argument("fcntl", 1, [_F_SETOWN, _F_SETSIG, _F_SETOWN_EX], match=refuse, other=ALLOW)
    program.by_argument(
        "ioctl", 1, [_FIOSETOWN, _SIOCSPGRP, _TIOCSTI, _TIOCLINUX], match=refuse, other=ALLOW
    )


class _SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def load(program: bytes) -> None:
    """Install a filter on this process for good. Needs no_new_privs. Raises OSError."""
    fprog = _SockFprog(len(program) // 8, program)
    kernel.prctl(kernel.PR_SET_SECCOMP, 2, ctypes.byref(fprog))


def load_asking(program: bytes) -> int:
    """Install a filter as `load` does; the descriptor on which its questions arrive.

    Raises OSError: EBUSY when an outer filter asks already, ENOSYS before Linux 5.0.
    """
    fprog = _SockFprog(len(program) // 8, program)
    return kernel.syscall("seccomp", _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(fprog))
