"""A pydantic error as one sentence that names the key, what is wrong and the nearest match."""

from __future__ import annotations

import inspect

from pydantic import BaseModel, ValidationError

from agentrl.suggest import did_you_mean

REFUSED = {
    f"rollout.{name}": "training samples from the whole distribution, since the learner's logprobs "
    f"would not match a cut one; use eval.{name} for evaluations"
    for name in ("top_p", "top_k")
}
"""Keys that people look for and that are left out on purpose, with the reason."""


def explained(
    error: ValidationError, model: type[BaseModel], prefix: str = "", extra: tuple[str, ...] = ()
) -> str:
    """One sentence on the first mistake in a tree that should have been a `model`.

    prefix: where the tree stands in the whole configuration. extra: keys known beside the model's.
    """
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    key = ".".join([prefix, *place] if prefix else place)
    if first["type"] == "extra_forbidden":
        if key in REFUSED:
            return f"{key} is not offered: {REFUSED[key]}"
        known = (*_fields_at(model, place[:-1]), *extra)
        return f"unknown key {key!r}{did_you_mean(place[-1], known)}"
    if first["type"] == "missing":
        return f"{key} is required; give {key}=..."
    return f"{key}: {first['msg'].lower()}, got {first['input']!r}"


def _fields_at(model: type[BaseModel], place: list[str]) -> tuple[str, ...]:
    for part in place:
        field = model.model_fields.get(part)
        annotation = field.annotation if field is not None else None
        if not (inspect.isclass(annotation) and issubclass(annotation, BaseModel)):
            return ()
        model = annotation
    return tuple(model.model_fields)
