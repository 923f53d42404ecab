"""Checkpoints: written whole or not at all, found again by pointer.

    checkpoints/
      latest  best            pointers: one line, the name of a folder beside them
      step-000020/
        model/                a Hugging Face folder, tokenizer included: `model=` loads it
        learner.*             optimiser, schedule, generator
        trainer.json          schema_version, step, configuration, the trainer's own state

A checkpoint is built under a hidden name, flushed to disk and renamed; the pointer moves after
that. A kill at any moment leaves the old checkpoint or the new one.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

from safetensors import SafetensorError

from agentrl.errors import RunFailed, UserError
from agentrl.train.learner import Learner
from agentrl.types import JsonValue

SCHEMA_VERSION = 1
TRAINER = "trainer.json"
_NAME = re.compile(r"step-(\d{6,})(?:-(\d+))?$")
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Restored(NamedTuple):
    """What `load` found beside the learner's own state."""

    step: int
    trainer_state: Mapping[str, JsonValue]


def save(
    folder: Path,
    step: int,
    learner: Learner,
    trainer_state: Mapping[str, JsonValue],
    *,
    config_hash: str,
    keep: int = 2,
    best: bool = False,
) -> Path:
    """Write the checkpoint of `step` and make it the latest, and the best where `best`.

    The `keep` newest stay, and the best one. Raises RunFailed when it cannot be written: nothing
    half-written is left and the older checkpoints are untouched.
    """
    name = _free_name(folder, step)
    building = folder / f".building-{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear_hidden(folder)
        (building / "model").mkdir(parents=True)
        learner.save(building)
        trainer: Mapping[str, JsonValue] = {
            "schema_version": SCHEMA_VERSION,
            "step": step,
            "config_hash": config_hash,
            "state": trainer_state,
        }
        (building / TRAINER).write_text(json.dumps(trainer, indent=1) + "\n")
        _flush(building)
        building.rename(folder / name)
        _flush_folder(folder)
        for pointer in ("latest", "best") if best else ("latest",):
            _point(folder, pointer, name)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(building, ignore_errors=True)
        raise RunFailed(_told(error, folder)) from error
    _prune(folder, keep)
    return folder / name


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    whole = _whole(folder)
    return _pointed(folder, "latest") or (whole[-1] if whole else None)


def best(folder: Path) -> Path | None:
    """The checkpoint saved as best, or None."""
    return _pointed(folder, "best")


def load(path: Path, learner: Learner, *, config_hash: str) -> Restored:
    """Put the learner where the checkpoint at `path` left it.

    Raises UserError when the checkpoint is damaged, of another schema, or of another configuration.
    """
    try:
        stored = json.loads((path / TRAINER).read_text())
        schema = stored["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a whole checkpoint; resume from another one ({error})"
        ) from error
    if schema != SCHEMA_VERSION:
        raise UserError(
            f"{path} has checkpoint schema {schema} and this version reads {SCHEMA_VERSION}; resume "
            "it with the version that wrote it, or start a new run with model="
            + str(path / "model")
        )
    if stored["config_hash"] != config_hash:
        raise UserError(
            f"{path} was written under another configuration; resume with the run's own config.yaml, "
            f"or start a new run with model={path / 'model'}"
        )
    learner.load(path)
    return Restored(int(stored["step"]), cast(Mapping[str, JsonValue], stored["state"]))


def _free_name(folder: Path, step: int) -> str:
    """A name no checkpoint has: the same step may be saved again, and the old one stays until then."""
    name, n = f"step-{step:06d}", 1
    while (folder / name).exists():
        n += 1
        name = f"step-{step:06d}-{n}"
    return name


def _whole(folder: Path) -> list[Path]:
    """Checkpoints by (step, attempt)."""
    found: list[tuple[int, int, Path]] = []
    for path in folder.glob("step-*"):
        match = _NAME.match(path.name)
        if match and (path / TRAINER).is_file():
            found.append((int(match[1]), int(match[2] or 1), path))
    return [path for _, _, path in sorted(found)]


def _pointed(folder: Path, pointer: str) -> Path | None:
    file = folder / pointer
    if not file.is_file():
        return None
    path = folder / file.read_text().strip()
    return path if (path / TRAINER).is_file() else None


def _point(folder: Path, pointer: str, name: str) -> None:
    building = folder / f".building-{pointer}"
    building.write_text(name + "\n")
    _flush_file(building)
    building.replace(folder / pointer)
    _flush_folder(folder)


def _prune(folder: Path, keep: int) -> None:
    kept = {latest(folder), best(folder), *_whole(folder)[-keep:]}
    for path in _whole(folder):
        if path not in kept:
            # Renamed first, so that a kill while deleting leaves no checkpoint that looks whole.
            hidden = path.with_name(f".building-{path.name}-old")
            path.rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)


def _clear_hidden(folder: Path) -> None:
    for path in folder.glob(".building-*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _flush(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            _flush_file(path)
        else:
            _flush_folder(path)
    _flush_folder(folder)


def _flush_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _told(error: OSError | SafetensorError, folder: Path) -> str:
    number = error.errno if isinstance(error, OSError) else None
    # The safetensors writer reports the number in its text only.
    full = number in _FULL or any(f"os error {code})" in str(error) for code in _FULL)
    reason = "the disk is full" if full else str(error)
    last = latest(folder)
    left = "there is no older checkpoint" if last is None else f"the newest whole one is {last}"
    remedy = "free some space and resume" if full else "mend that and resume"
    return f"no checkpoint could be written to {folder}: {reason}; {remedy} ({left})"


__all__ = ["SCHEMA_VERSION", "Restored", "best", "latest", "load", "save"]
