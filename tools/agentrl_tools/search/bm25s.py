"""The `bm25s` retriever: BM25 with every score computed beforehand, in numpy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from agentrl.errors import SetupError
from agentrl.retrieval import Hit, Passage
from agentrl_tools.search.corpus import Told, read_corpus
from agentrl_tools.search.folder import MadeWith, source_of, write_note, write_passages
from agentrl_tools.search.local import LocalRetriever, library
from agentrl_tools.search.words import query_words, words_of

Stems = Callable[[list[str]], list[str]]


@final
class Bm25s(LocalRetriever):
    """BM25 by bm25s (arXiv:2407.03618), Lucene's variant: k1 = 1.5, b = 0.75, Snowball stems."""

    def __init__(
        self,
        corpus: str | None = None,
        *,
        passages: Sequence[Passage] | None = None,
        stem: bool = True,
        threads: int = 4,
    ) -> None:
        """`corpus`: a folder made by `agentrl data index retriever=bm25s`, or a .jsonl file, which is
        indexed in memory. `passages`: instead of a corpus. `stem`: "nests" finds "nest" (English).
        `threads`: searches at once.

        Raises UserError on a bad corpus, SetupError when a library is missing.
        """
        super().__init__(threads=threads)
        self._stems = _stems(stem)
        source = source_of("bm25s", {"stem": stem}, corpus, passages)
        self._passages = source.passages
        self._index: Any
        if source.index is not None:
            self._index = library("bm25s", "bm25s").BM25.load(
                str(source.index / "bm25s"), mmap=True, show_progress=False
            )
        else:
            self._index = _indexed(self._passages, self._stems)

        self._known: Mapping[str, int] = {} if self._index is None else self._index.vocab_dict

    @classmethod
    def build_index(cls, corpus: Path, index: Path, told: Told, *, stem: bool = True) -> int:
        """Write a folder; see `agentrl.retrieval.IndexBuilder`."""
        passages = read_corpus(corpus, told)
        made_with: MadeWith = {"stem": stem}
        scores = _indexed(passages, _stems(stem))
        write_passages(index, passages)
        scores.save(str(index / "bm25s"), show_progress=False)
        write_note(index, "bm25s", made_with)
        return len(passages)

    def find(self, query: str, k: int) -> list[Hit]:
        """Passages that hold any of the query's words."""
        stems = dict.fromkeys(self._stems(query_words(query)))
        words = [stem for stem in stems if stem in self._known]
        if not words:
            return []
        scores: NDArray[np.float32] = self._index.get_scores(words)
        return [Hit(self._passages[i], float(scores[i])) for i in best(scores, k)]

    def release(self) -> None:
        """Let go of the mapped files."""
        self._index = None


def best(scores: NDArray[np.float32], k: int) -> list[int]:
    """Places of the `k` largest scores above 0, best first, ties by place.

    Args:
        scores: `[N]`, one per passage, in the order of their ids.
    """
    if k < len(scores):
        bound = max(float(np.partition(scores, len(scores) - k)[len(scores) - k]), 0.0)
        found = np.flatnonzero((scores >= bound) & (scores > 0))
    else:
        found = np.flatnonzero(scores > 0)
    order = np.lexsort((found, -scores[found]))
    return found[order[:k]].tolist()


def _indexed(passages: Sequence[Passage], stems: Stems) -> Any:
    index = library("bm25s", "bm25s").BM25(method="lucene")
    if passages:
        words = [stems(words_of(f"{p.title} {p.text}")) for p in passages]
        index.index(words, show_progress=False)
        return index
    return None


def _stems(stem: bool) -> Stems:
    if not stem:
        return list
    try:
        stemmer = library("Stemmer", "bm25s").Stemmer("english")
    except SetupError as error:
        raise SetupError(
            "bm25s with stems needs PyStemmer: pip install 'agentrl-framework[search]', or set stem=false"
        ) from error
    lock = threading.Lock()  # a stemmer is not safe to share among threads

    def stems(words: list[str]) -> list[str]:
        with lock:
            return stemmer.stemWords(words)

    return stems
