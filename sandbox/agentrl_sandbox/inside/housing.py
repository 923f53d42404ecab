"""Where and as whom sessions live: the zygote prepares it once and gives each family its part."""

from __future__ import annotations

import contextlib
import os
import sys

from agentrl_sandbox.inside import confine, kernel, namespaces, privileges, seccomp, visible
from agentrl_sandbox.inside.family import Birth, Family
from agentrl_sandbox.inside.folders import remove_tree
from agentrl_sandbox.inside.judge import Judge
from agentrl_sandbox.inside.plan import Plan


class Housing:
    """Users, folders, Landlock rules and filters for the sessions of one zygote.

    `how`: whether the namespaces were made as `root` or in a `user` namespace, None: there are none.
    `base`: folder of this machine for the work folders, empty where each session mounts its own.
    """

    def __init__(self, plan: Plan, how: str | None, base: str) -> None:
        self._plan = plan
        self._how = how
        self._base = base
        self._mount_namespace = -1
        self._program = b""
        self._readable: tuple[str, ...] = ()
        self._rules: int | None = None
        self._first_user: int | None = None
        self.proc = -1
        """Descriptor of the /proc that was there before the private file tree; -1: none."""

    def prepare(self) -> None:
        """Move into the private file tree and make what all sessions share. Raises OSError."""
        plan = self._plan
        can_become = plan.filtered and self._how != "user" and os.geteuid() == 0
        first_user = privileges.spare_users() if can_become else None
        if kernel.LINUX:
            self.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if plan.namespaces:
            self._mount_namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            namespaces.build_root(visible.readable())
        if first_user is not None and self._reaches_python(first_user):
            self._first_user = first_user
        if plan.filtered:
            self._program = seccomp.build(0, private_files=plan.namespaces, judged=True)
            self._readable = visible.readable()
        if plan.namespaces:
            self._rules = confine.landlock_rules(plan, self._readable, namespaces.BOX)
        confine.settle_once(namespaces.WORK)

    def _reaches_python(self, user: int) -> bool:
        """Whether that user can read the interpreter's libraries; asked of a throw-away child."""
        pid = os.fork()
        if pid:
            return os.waitpid(pid, 0)[1] == 0
        try:
            privileges.become(user)
            roots = visible.interpreter()
            for path in (*roots, self._base or "/"):
                os.stat(path)
            for module in list(sys.modules.values()):
                path = getattr(module, "__file__", None) or ""
                if path.startswith(roots):
                    _readable(path)
            os._exit(0)
        finally:
            os._exit(1)

    @property
    def first_user(self) -> int | None:
        """The user that the first session becomes; None: all stay the zygote's own."""
        return self._first_user

    def shift(self, index: int) -> set[int]:
        """Be the housing of another zygote, for users of that number; the descriptors it needs."""
        if self._first_user is not None:
            self._first_user += index
        kept = {self.proc, self._mount_namespace, -1 if self._rules is None else self._rules}
        return kept - {-1}

    def quarters(self, session: int, slot: int) -> tuple[Family, confine.Quarters]:
        """A new family and where its first member lives. Raises OSError."""
        user = None if self._first_user is None else self._first_user + slot
        folder = os.path.join(self._base, str(session)) if self._base else ""
        work, rules = namespaces.WORK, self._rules
        if folder:
            self._make_folder(folder, slot)
            work = os.path.join(folder, str(session))
            self._make_folder(work, slot)
        if self._plan.landlocked:
            rules = confine.landlock_rules(self._plan, self._readable, folder)
        owner = self._owner(slot)
        quarters = confine.Quarters(user, owner, work, rules, self._program, os.getpid())
        return Family(session, slot, folder), quarters

    def release(self, quarters: confine.Quarters) -> None:
        """Close what was opened for one child, once it has been forked."""
        if quarters.rules is not None and quarters.rules != self._rules:
            os.close(quarters.rules)

    def take_in(self, family: Family, birth: Birth, pidfd: int, judge: Judge) -> str:
        """Give a copy its work folder; the folder as it sees it. Raises OSError."""
        if family.folder:
            work = os.path.join(family.folder, str(birth.session))
            self._make_folder(work, family.slot)
            return work
        owner = self._owner(family.slot)
        assert family.order is not None
        judge.map_user(pidfd, family.order.parent, owner)
        namespaces.mount_for(pidfd, self._mount_namespace, *owner, self._plan.disk_mb)
        return namespaces.WORK

    def clear(self, family: Family) -> None:
        """Remove the folder of a family that is dead."""
        if family.folder:
            _sweep(family.folder)

    def _owner(self, slot: int) -> tuple[int, int]:
        if self._first_user is None:
            return os.geteuid(), os.getegid()
        return self._first_user + slot, self._first_user + slot

    def _make_folder(self, path: str, slot: int) -> None:
        os.mkdir(path, 0o700)
        if self._first_user is not None:
            os.chown(path, *self._owner(slot))


def _readable(path: str) -> None:
    with open(path, "rb"):
        return


def _sweep(folder: str) -> None:
    """Remove a family's folders; a child does what may take long, the zygote must answer."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            os.rmdir(os.path.join(folder, name))
        os.rmdir(folder)
        return
    parent = os.getpid()
    if os.fork() == 0:
        try:
            kernel.die_with_parent(parent)
            os.closerange(3, 4096)
            remove_tree(folder)
        finally:
            os._exit(0)
