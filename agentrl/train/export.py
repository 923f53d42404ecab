"""A checkpoint as a plain Hugging Face folder, for transformers, vLLM and the hub.

The folder is built beside its target under a hidden name, flushed, and renamed: the target appears
whole or not at all. Weights are read and written one file at a time.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import (
    load_file,  # pyright: ignore[reportUnknownVariableType] (a bare PathLike in its stub)
    save_file,  # pyright: ignore[reportUnknownVariableType] (a bare PathLike in its stub)
)
from torch import Tensor

from agentrl.errors import RunFailed, UserError
from agentrl.train import checkpoint
from agentrl.train.card import about, card
from agentrl.train.causal_lm import TOKENIZER_FILES
from agentrl.train.folder import RunFolder

Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
INDEX = "model.safetensors.index.json"
_NOT_COPIED = (".safetensors", ".bin", ".pt")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DTYPE_KEYS = ("dtype", "torch_dtype")


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    target: Path
    checkpoint: Path
    step: int
    is_best: bool
    """False where it is the latest checkpoint."""
    dtype: str
    n_parameters: int
    n_bytes: int
    """Of all its files."""


def export(run: Path, target: Path, *, latest: bool = False, dtype: Dtype = "float32") -> Exported:
    """Write the run's best checkpoint, or the latest where asked or where none was evaluated.

    Raises UserError when `run` is no run folder or has no checkpoint, when the checkpoint is damaged
    or does not fit `dtype`, and when `target` is not free; RunFailed on a full disk.
    """
    folder = RunFolder(run)
    config = folder.config()
    chosen, is_best = _chosen(folder, latest=latest)
    step = _step(chosen)
    _refuse_taken(target)
    with _published(target) as building:
        n_parameters = _write_weights(chosen / "model", building, dtype)
        _write_config(chosen / "model", building, dtype)
        _copy_rest(chosen / "model", building)
        told = about(
            folder, config, step=step, is_best=is_best, dtype=dtype, n_parameters=n_parameters
        )
        (building / "README.md").write_text(card(told), encoding="utf-8")
        n_bytes = sum(file.stat().st_size for file in building.iterdir())
    return Exported(target, chosen, step, is_best, dtype, n_parameters, n_bytes)


def _chosen(folder: RunFolder, *, latest: bool) -> tuple[Path, bool]:
    """The checkpoint to write, and whether it is the best one."""
    best = None if latest else checkpoint.best(folder.checkpoints)
    found = best or checkpoint.latest(folder.checkpoints)
    if found is None:
        raise UserError(
            f"{folder.path} holds no whole checkpoint yet; export it after the run has saved one "
            "(train.checkpoint_every says when)"
        )
    return found, best is not None


def _step(path: Path) -> int:
    try:
        return int(json.loads((path / checkpoint.TRAINER).read_text())["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"{checkpoint.TRAINER}: {error}") from None


def _damaged(path: Path, why: object) -> UserError:
    return UserError(
        f"the checkpoint {path} is damaged ({' '.join(str(why).split())}); export another one, with "
        "or without --latest, or resume the run so that it saves again"
    )


def _refuse_taken(target: Path) -> None:
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f"{target} is not empty; give a folder that does not exist yet")
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file; give a folder that does not exist yet")


@contextmanager
def _published(target: Path) -> Generator[Path]:
    """A hidden folder that becomes `target` at the end; gone when anything fails."""
    target = target.absolute()
    building = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        building.mkdir(parents=True)
        yield building
        for path in (*building.iterdir(), building):
            _flush(path)
        os.replace(building, target)  # onto an empty folder too
        _flush(target.parent)
    except (OSError, SafetensorError) as error:
        raise _unwritten(target, error) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritten(target: Path, error: OSError | SafetensorError) -> UserError | RunFailed:
    number = error.errno if isinstance(error, OSError) else None
    # The safetensors writer reports the number in its text only.
    if number in _FULL or any(f"os error {code})" in str(error) for code in _FULL):
        return RunFailed(
            f"the disk is full: {target} was not written and nothing is left of it; free some space, "
            "or choose a target on another disk"
        )
    why = error.strerror if isinstance(error, OSError) else error
    return UserError(f"cannot write {target}: {why or error}; choose another target")


def _write_weights(source: Path, building: Path, dtype: Dtype) -> int:
    """Cast every file of weights; returns the number of parameters. Nothing may be missing."""
    files = sorted(source.glob("*.safetensors"))
    if not files:
        raise _damaged(source.parent, "it holds no model/*.safetensors")
    shapes: dict[str, torch.Size] = {}
    where: dict[str, str] = {}
    n_bytes = 0
    for file in files:
        tensors = {name: _cast(name, t, dtype) for name, t in _read(file, source.parent).items()}
        save_file(tensors, building / file.name, metadata={"format": "pt"})
        n_bytes += sum(t.nbytes for t in tensors.values())
        shapes |= {name: t.shape for name, t in tensors.items()}
        where |= dict.fromkeys(tensors, file.name)
    _refuse_incomplete(source, shapes)
    if (source / INDEX).is_file() or len(files) > 1:
        index = {"metadata": {"total_size": n_bytes}, "weight_map": dict(sorted(where.items()))}
        (building / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return sum(shape.numel() for shape in shapes.values())


def _read(file: Path, of: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise _damaged(of, f"{file.name}: {error}") from None


def _cast(name: str, tensor: Tensor, dtype: Dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    if not bool(tensor.isfinite().all()):
        raise UserError(f"{name} holds numbers that are not finite; export an earlier checkpoint")
    made = tensor.to(DTYPES[dtype]).contiguous()
    if not bool(made.isfinite().all()):
        raise UserError(f"{name} holds numbers beyond the range of {dtype}; use --dtype bfloat16")
    return made


def _refuse_incomplete(source: Path, shapes: Mapping[str, torch.Size]) -> None:
    """Hold the weights against the model that config.json describes, made without memory."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = cast(Any, AutoConfig.from_pretrained(source, local_files_only=True))
        with torch.device("meta"):
            model = cast(torch.nn.Module, AutoModelForCausalLM.from_config(config))
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(source.parent, f"its config.json makes no model: {error}") from None
    by_tensor: dict[int, list[str]] = {}
    wanted = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in wanted.items():
        by_tensor.setdefault(id(parameter), []).append(name)
    for names in by_tensor.values():
        stored = [name for name in names if name in shapes]
        if not stored:
            raise _damaged(source.parent, f"the weights lack {names[0]}")
        if shapes[stored[0]] != wanted[stored[0]].shape:
            raise _damaged(source.parent, f"{stored[0]} is {tuple(shapes[stored[0]])}")


def _write_config(source: Path, building: Path, dtype: Dtype) -> None:
    """config.json with the new type, and a generation config where the checkpoint has none."""
    config = _json(source / "config.json", source.parent)
    config.setdefault("dtype", dtype)
    _set_dtype(config, dtype)
    _dump(config, building / "config.json")
    if not (source / "generation_config.json").is_file():
        ids = ("bos_token_id", "eos_token_id", "pad_token_id")
        made = {key: config[key] for key in ids if config.get(key) is not None}
        _dump({"_from_model_config": True, **made}, building / "generation_config.json")


def _set_dtype(node: dict[str, Any], dtype: Dtype) -> None:
    """In place, in parts of a composed config too; where the model was loaded from goes."""
    node.pop("_name_or_path", None)
    for key, value in node.items():
        if key in _DTYPE_KEYS:
            node[key] = dtype
        elif isinstance(value, dict):
            _set_dtype(cast(dict[str, Any], value), dtype)


def _copy_rest(source: Path, building: Path) -> None:
    """Tokenizer, chat template and whatever else the model came with, byte for byte."""
    if not any(file for pattern in TOKENIZER_FILES for file in source.glob(pattern)):
        raise _damaged(source.parent, "it holds no tokenizer")
    for file in sorted(source.iterdir()):
        name = file.name
        done = (building / name).exists() or name.startswith("README") or name == INDEX
        if done or not file.is_file() or file.suffix in _NOT_COPIED:
            continue
        shutil.copyfile(file, building / name)
    settings = building / "tokenizer_config.json"
    if settings.is_file() and "name_or_path" in settings.read_text():
        _dump(_without_origin(_json(settings, source.parent)), settings)


def _without_origin(settings: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if k not in ("name_or_path", "_name_or_path")}


def _json(file: Path, of: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(of, f"{file.name}: {error}") from None
    if not isinstance(found, dict):
        raise _damaged(of, f"{file.name} is not an object")
    return cast(dict[str, Any], found)


def _dump(value: Mapping[str, Any], file: Path) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


__all__ = ["DTYPES", "Dtype", "Exported", "export"]
