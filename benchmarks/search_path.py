"""Is the path right on real questions? A scripted searcher plays published question files.

    python benchmarks/search_path.py [--data ../shared/data]

Each file's questions are searched in one corpus that holds a page for every question of all files;
four pages in five tell the answer (`agentrl_envs.search_qa.script.twin_passages`). The searcher looks
the question up, reads the three best passages, and knows the gold when it sees it. So the
questions must be right whose page holds their answer; the rest only where another page names it.
Writes benchmarks/results/search_path.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from machine import about_this_machine

from agentrl.compose import compose
from agentrl.data.tasks import load_tasks
from agentrl.retrieval import Passage
from agentrl.train.run import evaluate
from agentrl.trajectory import Trajectory
from agentrl.trajectory_json import from_line
from agentrl_envs.search_qa.script import twin_passages

RESULTS = Path(__file__).parent / "results" / "search_path.json"
FILES = ("hotpotqa", "2wiki", "musique", "bamboogle")
LIMITS = (
    "env.style=plain", "env.max_tokens=8192", "env.turn_tokens=2048", "env.max_turns=4",
    "env.observation_tokens=4096",
)  # fmt: skip


def write_corpus(path: Path, passages: Sequence[Passage]) -> None:
    """Search-R1's corpus format, without titles where there are none."""
    rows = ({"id": p.id, "title": p.title, "text": p.text} for p in passages)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def played(path: Path, n_tasks: int, corpus: Path, folder: Path) -> dict[str, Trajectory]:
    """Task id -> its trajectory under the scripted searcher."""
    words = ["env=search_qa", "model=nano", *LIMITS, f"data.path={path}", f"eval.tasks={n_tasks}"]
    words += ["env.retriever.name=fts5", f"env.retriever.corpus={corpus}"]
    words += ["engine=scripted", "engine.script=question_search", f"dir={folder}"]
    evaluate(compose(words), sinks=(), command="benchmark")
    lines = (folder / "trajectories.jsonl").read_text().rstrip("\n").split("\n")
    return {t.task.id: t for t in map(from_line, lines)}


def one_file(path: Path, told: set[str], corpus: Path, work: Path) -> dict[str, object]:
    """Scores of one file against what the corpus tells."""
    n_tasks = len(load_tasks(str(path)))
    right = played(path, n_tasks, corpus, work / path.stem)
    scored = {i for i, t in right.items() if t.correct}
    known = told & set(right)
    found: dict[str, object] = {
        "items": n_tasks,
        "told": len(known),
        "right": len(scored),
        "right_among_told": len(scored & known),
        "right_among_the_rest": sorted(scored - known),
        "missed": sorted(known - scored),
        "searches": sum(t.n_calls for t in right.values()),
        "errors": sum(t.error is not None for t in right.values()),
    }
    print(path.name, found, flush=True)
    return found


def main() -> int:
    """All files; exit 1 when a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    paths = [options.data / f"{name}.jsonl" for name in FILES]
    with TemporaryDirectory() as work:
        passages, told = twin_passages([t for path in paths for t in load_tasks(str(path))])
        corpus = Path(work) / "corpus.jsonl"
        write_corpus(corpus, passages)
        files = {path.stem: one_file(path, told, corpus, Path(work)) for path in paths}
    RESULTS.write_text(json.dumps({"files": files, "machine": about_this_machine()}, indent=1))
    holds = all(holds_for(found) for found in files.values())
    print("ok" if holds else "FAIL", f"wrote {RESULTS.name}")
    return 0 if holds else 1


def holds_for(found: Mapping[str, object]) -> bool:
    """All that were told are right after one search each, and nothing failed."""
    return (
        found["right_among_told"] == found["told"]
        and found["searches"] == found["items"]
        and found["errors"] == 0
    )


if __name__ == "__main__":
    sys.exit(main())
