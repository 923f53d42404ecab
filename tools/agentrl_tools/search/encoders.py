"""Sentence encoders by name: any callable or `encode` method from texts to vectors."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agentrl.errors import SetupError, UserError, WorldFault

Vectors: TypeAlias = NDArray[np.float32]
"""`[n, width]`."""
Encode: TypeAlias = Callable[[Sequence[str]], Any]


def load_encoder(name: str, options: Mapping[str, object]) -> Encode:
    """What `module:Attr` makes of `options`: itself callable, or with a method `encode`.

    `sentence_transformers:SentenceTransformer` is one. Raises UserError on a name that is none,
    SetupError when its module cannot be imported.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UserError(f"encoder={name!r} must read module:Attr")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SetupError(f"the encoder {name} cannot be imported: {error}") from error
    factory: Any = getattr(module, attribute, None)
    if not callable(factory):
        raise UserError(f"encoder={name!r}: {module_name} has nothing callable named {attribute}")
    try:
        made: Any = factory(**options)
    except TypeError as error:
        raise UserError(f"encoder_options do not fit {name}: {error}") from error
    encode: Any = getattr(made, "encode", made)
    if not callable(encode):
        raise UserError(f"encoder={name!r} makes neither a callable nor one with `encode`")
    return encode


def vectors(encode: Encode, texts: Sequence[str]) -> Vectors:
    """Unit vectors of texts, so that an inner product is a cosine.

    Raises WorldFault when the encoder gives anything but one finite vector a text.
    """
    found: Vectors = np.ascontiguousarray(encode(list(texts)), dtype=np.float32)
    if found.ndim != 2 or len(found) != len(texts) or not np.isfinite(found).all():
        raise WorldFault(f"the encoder gave {found.shape} for {len(texts)} texts, or no numbers")
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.maximum(lengths, np.finfo(np.float32).tiny)


__all__ = ["Encode", "Vectors", "load_encoder", "vectors"]
