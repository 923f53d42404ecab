"""Where a model's weights are: what `model=` and every other setting that names a model may say."""

from __future__ import annotations

from pathlib import Path

from agentrl.errors import UserError


def model_path(path: str) -> str:
    """Where the weights are: the shipped nano, a run folder's best checkpoint, a folder, a hub id.

    Raises UserError when a path that looks local does not exist.
    """
    if path == "nano":
        return str(Path(__file__).parent / "_assets" / "nano")
    inside = run_folder_model(path)
    if inside is not None:
        return str(inside)
    local = path.startswith((".", "/", "~")) or path.count("/") > 1
    if local and not Path(path).expanduser().is_dir():
        raise UserError(f"there is no model folder {path}; give a folder, a run folder or a hub id")
    return str(Path(path).expanduser()) if local else path


def run_folder_model(path: str) -> Path | None:
    """The newest checkpoint's model folder when `path` is a run folder, else None."""
    folder = Path(path) / "checkpoints"
    for name in ("best", "latest"):
        pointer = folder / name
        if pointer.is_file():
            return folder / pointer.read_text().strip() / "model"
    return None


__all__ = ["model_path", "run_folder_model"]
