"""The words after `serve retriever` and `data index`: a corpus, and the retriever's options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentrl.errors import UserError

if TYPE_CHECKING:
    from agentrl.config import Plugin


def read_retriever(words: Sequence[str], *, name: str = "fts5") -> Plugin:
    """`corpus.jsonl retriever=bm25s stem=false` as a node of the configuration.

    A word without `=` is the corpus; `retriever=` chooses another than `name`. Raises UserError.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from agentrl.config import Plugin

    bare = [word for word in words if "=" not in word]
    if len(bare) > 1:
        raise UserError(
            f"one corpus at a time, not {' and '.join(bare)}; write options as key=value"
        )
    try:
        node: Any = OmegaConf.to_container(
            OmegaConf.from_dotlist([word for word in words if "=" in word])
        )
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"cannot read the options: {' '.join(str(error).split())}") from None
    if "name" in node:
        raise UserError("choose the retriever with retriever=<name>")
    if bare and "corpus" in node:
        raise UserError(f"two corpora: {bare[0]} and corpus={node['corpus']}; give one")
    if bare:
        node["corpus"] = bare[0]
    chosen = node.pop("retriever", name)
    return Plugin.model_validate({"name": str(chosen), **node})
