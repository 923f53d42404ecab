"""Optional vectors: an encoder found by name, float32 blobs, and cosines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from agentrl.errors import SetupError, UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Encoder: TypeAlias = "Callable[[Sequence[str]], Sequence[Sequence[float]]]"
"""Texts -> vectors of one length. Must be deterministic where rollouts are."""


def load_encoder(name: str) -> Encoder:
    """The encoder at `module:Attr`: a function of texts, a class of such, or anything with `encode`.

    Raises UserError on a name of another form or an attribute that is none of these, SetupError when
    the module cannot be imported.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise UserError(f"an encoder is named module:Attr, not {name!r}")
    try:
        found: Any = getattr(import_module(module), attribute, None)
    except ImportError as error:
        raise SetupError(f"the encoder {name} cannot be imported: {error}") from error
    made = found() if isinstance(found, type) else found
    encode: Any = getattr(made, "encode", made)
    if not callable(encode):
        raise UserError(f"{name} is no encoder; give a function of a list of texts")
    return cast(Encoder, encode)


def packed(vector: Sequence[float]) -> bytes:
    """A vector as little-endian float32."""
    return _array(vector).tobytes()


def cosines(query: Sequence[float], vectors: Sequence[bytes]) -> list[float]:
    """Cosine of `query` with each packed vector; 0 for a zero vector or one of another length."""
    return [_cosine(_array(query), _unpacked(vector)) for vector in vectors]


def _cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    if a.shape != b.shape:
        return 0.0
    scale = float((a @ a) * (b @ b)) ** 0.5
    return float(a @ b) / scale if scale else 0.0


def _array(vector: Sequence[float]) -> npt.NDArray[np.float32]:
    import numpy as np  # only banks with an encoder pay for it

    return np.asarray(vector, dtype="<f4").ravel()


def _unpacked(blob: bytes) -> npt.NDArray[np.float32]:
    import numpy as np

    return np.frombuffer(blob, dtype="<f4")


__all__ = ["Encoder", "cosines", "load_encoder", "packed"]
