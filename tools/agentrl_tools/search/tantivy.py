"""The `tantivy` retriever: BM25 by the Rust library of that name; the fastest on large corpora."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, final

from agentrl.errors import WorldFault
from agentrl.retrieval import Hit, Passage
from agentrl_tools.search.corpus import Told, passages_from, read_unique
from agentrl_tools.search.folder import check_note, write_note
from agentrl_tools.search.local import LocalRetriever, library
from agentrl_tools.search.words import query_words

_ANALYZER = "agentrl"
_HEAP_BYTES = 64_000_000
_SPARE = 8
"""Hits asked for beyond `k`, to see whether a tie goes on."""


@final
class Tantivy(LocalRetriever):
    """BM25 by tantivy: k1 = 1.2, b = 0.75, Snowball stems, accents folded."""

    def __init__(
        self,
        corpus: str | None = None,
        *,
        passages: Sequence[Passage] | None = None,
        threads: int = 4,
    ) -> None:
        """`corpus`: a folder made by `agentrl data index retriever=tantivy`, or a .jsonl file, which
        is indexed in memory. `passages`: instead of a corpus. `threads`: searches at once.

        Raises UserError on a bad corpus, SetupError when the library is missing.
        """
        super().__init__(threads=threads)
        self._library = library("tantivy", "tantivy")
        self._analyzer = _analyzer(self._library)
        self._index: Any
        folder = None if corpus is None else Path(corpus).expanduser()
        if folder is not None and passages is None and folder.is_dir():
            check_note(folder, "tantivy", {})
            self._index = self._library.Index.open(str(folder / "tantivy"))
            self._index.register_tokenizer(_ANALYZER, self._analyzer)
        else:
            self._index = _indexed(self._library, passages_from(corpus, passages), None)
        self._schema = self._index.schema
        self._searcher: Any = self._index.searcher()

    @classmethod
    def build_index(cls, corpus: Path, index: Path, told: Told) -> int:
        """Write a folder; see `agentrl.retrieval.IndexBuilder`."""
        module = library("tantivy", "tantivy")
        (index / "tantivy").mkdir(parents=True)
        made = _indexed(module, read_unique(corpus, told), index / "tantivy")
        write_note(index, "tantivy", {})
        return made.searcher().num_docs

    def find(self, query: str, k: int) -> list[Hit]:
        """Passages that hold any of the query's words."""
        stems = dict.fromkeys(self._analyzer.analyze(" ".join(query_words(query))))
        if not stems:
            return []
        made, should = self._library.Query, self._library.Occur.Should
        wanted = made.boolean_query(
            [
                (should, made.term_query(self._schema, field, stem))
                for stem in stems
                for field in ("title", "text")
            ]
        )
        try:
            return self._best(wanted, k)
        except (OSError, ValueError) as error:
            raise WorldFault(f"the tantivy index failed: {error}") from error

    def _best(self, wanted: Any, k: int) -> list[Hit]:
        """Asks for more until the tie at the end is complete: tantivy breaks ties by its own order."""
        limit = k + _SPARE
        while True:
            found: list[tuple[float, Any]] = self._searcher.search(wanted, limit, count=False).hits
            if len(found) < limit or found[-1][0] < found[k - 1][0]:
                break
            limit *= 4
        hits = [Hit(self._passage(place), score) for score, place in found]
        return sorted(hits, key=lambda hit: (-hit.score, hit.passage.id))[:k]

    def _passage(self, place: Any) -> Passage:
        document = self._searcher.doc(place)
        return Passage(*(str(document.get_first(field)) for field in ("id", "title", "text")))

    def release(self) -> None:
        """Let go of the mapped files."""
        self._searcher = self._index = None


def _analyzer(module: Any) -> Any:
    filters = module.Filter
    builder = module.TextAnalyzerBuilder(module.Tokenizer.simple())
    for step in (filters.lowercase(), filters.ascii_fold(), filters.stemmer("english")):
        builder = builder.filter(step)
    return builder.build()


def _indexed(module: Any, passages: Iterable[Passage], folder: Path | None) -> Any:
    builder = module.SchemaBuilder()
    builder.add_text_field("id", stored=True, tokenizer_name="raw", index_option="basic")
    for field in ("title", "text"):
        builder.add_text_field(field, stored=True, tokenizer_name=_ANALYZER, index_option="freq")
    schema = builder.build()
    index = module.Index(schema) if folder is None else module.Index(schema, path=str(folder))
    index.register_tokenizer(_ANALYZER, _analyzer(module))
    writer = index.writer(heap_size=_HEAP_BYTES, num_threads=1)
    for passage in passages:
        writer.add_document(module.Document(id=passage.id, title=passage.title, text=passage.text))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    return index
