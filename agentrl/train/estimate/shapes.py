"""Shapes of models by name, by folder or shipped, and what follows from a shape alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agentrl.engine.architecture import Architecture, read_architecture
from agentrl.errors import UserError
from agentrl.model_path import model_path
from agentrl.suggest import did_you_mean


def _shape(
    family: str,
    layers: int,
    hidden: int,
    intermediate: int,
    heads: tuple[int, int],
    vocab: int,
    *,
    tied: bool = False,
    head_dim: int | None = None,
    positions: int = 32_768,
) -> Architecture:
    return Architecture(
        family=family,
        n_layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        n_heads=heads[0],
        n_kv_heads=heads[1],
        head_dim=head_dim or hidden // heads[0],
        vocab=vocab,
        eps=1e-6,
        tied=tied,
        qkv_bias=family == "qwen2",
        o_bias=False,
        mlp_bias=False,
        qk_norm=family == "qwen3",
        max_positions=positions,
    )


KNOWN: Mapping[str, Architecture] = {
    "Qwen2.5-0.5B": _shape("qwen2", 24, 896, 4864, (14, 2), 151_936, tied=True),
    "Qwen2.5-1.5B": _shape("qwen2", 28, 1536, 8960, (12, 2), 151_936, tied=True),
    "Qwen2.5-3B": _shape("qwen2", 36, 2048, 11_008, (16, 2), 151_936, tied=True),
    "Qwen2.5-7B": _shape("qwen2", 28, 3584, 18_944, (28, 4), 152_064),
    "Qwen2.5-14B": _shape("qwen2", 48, 5120, 13_824, (40, 8), 152_064),
    "Qwen2.5-32B": _shape("qwen2", 64, 5120, 27_648, (40, 8), 152_064),
    "Qwen2.5-72B": _shape("qwen2", 80, 8192, 29_568, (64, 8), 152_064),
    "Qwen3-0.6B": _shape(
        "qwen3", 28, 1024, 3072, (16, 8), 151_936, tied=True, head_dim=128, positions=40_960
    ),
    "Qwen3-1.7B": _shape(
        "qwen3", 28, 2048, 6144, (16, 8), 151_936, tied=True, head_dim=128, positions=40_960
    ),
    "Qwen3-4B": _shape(
        "qwen3", 36, 2560, 9728, (32, 8), 151_936, tied=True, head_dim=128, positions=40_960
    ),
    "Qwen3-8B": _shape("qwen3", 36, 4096, 12_288, (32, 8), 151_936, head_dim=128, positions=40_960),
    "Qwen3-14B": _shape(
        "qwen3", 40, 5120, 17_408, (40, 8), 151_936, head_dim=128, positions=40_960
    ),
    "Qwen3-32B": _shape(
        "qwen3", 64, 5120, 25_600, (64, 8), 151_936, head_dim=128, positions=40_960
    ),
    "Llama-3.2-1B": _shape("llama", 16, 2048, 8192, (32, 8), 128_256, tied=True, positions=131_072),
    "Llama-3.2-3B": _shape("llama", 28, 3072, 8192, (24, 8), 128_256, tied=True, positions=131_072),
    "Llama-3.1-8B": _shape("llama", 32, 4096, 14_336, (32, 8), 128_256, positions=131_072),
    "Llama-3.1-70B": _shape("llama", 80, 8192, 28_672, (64, 8), 128_256, positions=131_072),
}
"""Name of a public model -> its published config.json; a family's tunings have the same shape."""

_TUNINGS = ("-Instruct", "-Base", "-Math", "-Coder", "-Thinking")


def shape_of(model: str) -> Architecture:
    """The shape of a shipped model, a folder, a run folder, or a name of `KNOWN`.

    A hub id (`Qwen/Qwen2.5-7B-Instruct`) counts by its name; nothing is downloaded. Raises UserError
    for what is neither, and for architectures the formulas do not cover.
    """
    name = model.rpartition("/")[2]
    for tuning in _TUNINGS:
        name = name.replace(tuning, "")
    by_lower = {known.lower(): shape for known, shape in KNOWN.items()}
    found = by_lower.get(name.lower())
    path = Path(model_path(model) if not found else model)
    if path.is_dir():
        return _of_folder(path)
    if found is None:
        raise UserError(
            f"no shape is known for model={model}; give a folder that holds its config.json or a "
            f"name such as Qwen2.5-7B{did_you_mean(name, KNOWN)}"
        )
    return found


def _of_folder(path: Path) -> Architecture:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)  # pyright: ignore[reportUnknownVariableType]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} holds no readable config.json ({error})") from None
    try:
        return read_architecture(config, str(path))
    except UserError:
        raise UserError(
            f"{path} is of an architecture the estimate has no formulas for; it covers dense qwen2, "
            "qwen3 and llama models with full attention"
        ) from None


def embedding_parameters(shape: Architecture) -> int:
    """Of the embedding table; an untied output layer has as many again."""
    return shape.vocab * shape.hidden


def layer_matrices(shape: Architecture) -> int:
    """Numbers in the matrices of one layer: what each token is multiplied by."""
    q, kv = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    return shape.hidden * (2 * q + 2 * kv + 3 * shape.intermediate)


def layer_parameters(shape: Architecture) -> int:
    """Of one layer, norms and biases included."""
    q, kv = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    biases = (q + 2 * kv) * shape.qkv_bias + shape.hidden * shape.o_bias
    biases += (2 * shape.intermediate + shape.hidden) * shape.mlp_bias
    norms = 2 * shape.hidden + 2 * shape.head_dim * shape.qk_norm
    return layer_matrices(shape) + biases + norms


def parameters(shape: Architecture) -> int:
    """Of the whole model; a tied output layer counts once."""
    tables = embedding_parameters(shape) * (1 if shape.tied else 2)
    return tables + shape.n_layers * layer_parameters(shape) + shape.hidden


def kv_bytes_per_token(shape: Architecture, size: int) -> int:
    """Keys and values of one token in all layers, `size` bytes a number."""
    return 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim * size


__all__ = [
    "KNOWN",
    "embedding_parameters",
    "kv_bytes_per_token",
    "layer_matrices",
    "layer_parameters",
    "parameters",
    "shape_of",
]
