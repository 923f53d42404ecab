"""Where a model's weights are: what `model=` and every other setting that names a model may say."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from agentrl.errors import UserError

ASSETS = Path(__file__).parent / "_assets"


@cache
def shipped_models() -> tuple[str, ...]:
    """Names of the models inside the package."""
    return tuple(sorted(config.parent.name for config in ASSETS.glob("*/config.json")))


def model_path(path: str) -> str:
    """Where the weights are: a shipped model, a run folder's best checkpoint, a folder, a hub id.

    Every folder of `_assets` is a shipped model, called by its name (`nano`).

    Raises UserError when a path that looks local does not exist.
    """
    if path in shipped_models():
        return str(ASSETS / path)
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


__all__ = ["model_path", "run_folder_model", "shipped_models"]
