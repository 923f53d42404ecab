"""The `dense` retriever: nearest vectors of a sentence encoder, found by faiss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from agentrl.errors import UserError, WorldFault
from agentrl.retrieval import Hit, Passage
from agentrl_tools.search.corpus import Told, read_corpus
from agentrl_tools.search.encoders import Encode, load_encoder, vectors
from agentrl_tools.search.folder import source_of, write_note, write_passages
from agentrl_tools.search.local import LocalRetriever, library
from agentrl_tools.search.words import query_words, utf8

DEFAULT_ENCODER = "agentrl_tools.search.bert:NumpyBert"
_BATCH = 256
_SPARE = 16
"""Hits asked for beyond `k`, for ties."""
_DIGITS = 5
"""Scores closer than this many decimals are ties: equal texts get them in different batches."""


@final
class Dense(LocalRetriever):
    """Cosine of a sentence encoder's vectors, by faiss; the encoder is any `module:Attr`."""

    def __init__(
        self,
        corpus: str | None = None,
        *,
        passages: Sequence[Passage] | None = None,
        encoder: str = DEFAULT_ENCODER,
        encoder_options: Mapping[str, object] | None = None,
        query_prefix: str = "",
        passage_prefix: str = "",
        factory: str = "Flat",
    ) -> None:
        """Open or make an index.

        Args:
            corpus: a folder made by `agentrl data index retriever=dense`, or a .jsonl file, which is
                encoded and indexed in memory.
            passages: instead of a corpus.
            encoder: `module:Attr`, called with `encoder_options`; gives a callable from texts to
                vectors or an object whose `encode` is one, such as
                `sentence_transformers:SentenceTransformer`.
            encoder_options: its own.
            query_prefix: before every query, such as `query: ` for the E5 family.
            passage_prefix: before every passage, such as `passage: `.
            factory: faiss's name of the index: `Flat` compares with everything, `HNSW32` is faster on
                many passages and may miss some.

        Raises UserError on a bad corpus or option, SetupError when a library is missing.
        """
        super().__init__(threads=1)
        self._faiss = library("faiss", "dense")
        self._encode = load_encoder(encoder, encoder_options or {})
        self._query_prefix = query_prefix
        made_with = _made_with(encoder, encoder_options, passage_prefix)
        source = source_of("dense", made_with, corpus, passages)
        self._passages = source.passages
        self._index: Any
        if source.index is not None:
            self._index = self._faiss.read_index(str(source.index / "faiss"))
        else:
            self._index = _indexed(
                self._faiss, self._encode, self._passages, passage_prefix, factory
            )

    @classmethod
    def build_index(
        cls,
        corpus: Path,
        index: Path,
        told: Told,
        *,
        encoder: str = DEFAULT_ENCODER,
        encoder_options: Mapping[str, object] | None = None,
        query_prefix: str = "",
        passage_prefix: str = "",
        factory: str = "Flat",
    ) -> int:
        """Write a folder; see `agentrl.retrieval.IndexBuilder`."""
        faiss = library("faiss", "dense")
        encode = load_encoder(encoder, encoder_options or {})
        passages, size = read_corpus(corpus), corpus.stat().st_size
        made = _indexed(
            faiss,
            encode,
            passages,
            passage_prefix,
            factory,
            # Reading takes no time beside encoding, so the bar is the encoder's.
            done=lambda count: told(size * count // len(passages)),
        )
        write_passages(index, passages)
        faiss.write_index(made, str(index / "faiss"))
        write_note(index, "dense", _made_with(encoder, encoder_options, passage_prefix))
        return len(passages)

    def find(self, query: str, k: int) -> list[Hit]:
        """The passages nearest to a query that holds a word."""
        if not query_words(query) or self._index is None:
            return []
        text = utf8(f"{self._query_prefix}{query}")
        limit = min(k + _SPARE, len(self._passages))
        scores, places = self._index.search(vectors(self._encode, [text]), limit)
        found = [
            (round(float(score), _DIGITS), int(place))
            for score, place in zip(scores[0], places[0], strict=True)
            if place >= 0
        ]
        found.sort(key=lambda pair: (-pair[0], pair[1]))
        return [Hit(self._passages[place], score) for score, place in found[:k]]

    def release(self) -> None:
        """Let go of the vectors."""
        self._index = None


def _made_with(
    encoder: str, options: Mapping[str, object] | None, prefix: str
) -> Mapping[str, object]:
    return {"encoder": encoder, "encoder_options": dict(options or {}), "passage_prefix": prefix}


def _indexed(
    faiss: Any,
    encode: Encode,
    passages: Sequence[Passage],
    prefix: str,
    factory: str,
    *,
    done: Callable[[int], None] | None = None,
) -> Any:
    """An index of the passages' vectors, in their order; None without any."""
    made: Any = None
    for start in range(0, len(passages), _BATCH):
        texts = [f"{prefix}{p.title} {p.text}" for p in passages[start : start + _BATCH]]
        rows = vectors(encode, texts)
        made = _empty(faiss, rows.shape[1], factory) if made is None else made
        if not made.is_trained:
            raise UserError(f"factory={factory} needs training; use Flat or HNSW32")
        if rows.shape[1] != made.d:
            raise WorldFault(f"the encoder gave {rows.shape[1]} numbers, after {made.d}")
        made.add(rows)
        if done is not None:
            done(start + len(rows))
    return made


def _empty(faiss: Any, width: int, factory: str) -> Any:
    try:
        return faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UserError(f"faiss knows no index factory={factory!r}") from error
