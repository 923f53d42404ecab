"""A judge of nano's maths behind an OpenAI-compatible endpoint; it goes by rules, not by a model.

    python benchmarks/judge_server.py [--port 8321] [--seed 0]

For recipes whose reward asks a judge (`capo`, `rlmt`), so that they run with no account and no second
model. It knows the training tasks of `retool_math` in the terse style for one seed: which steps of a
solution are wrong (a wrong answer, or code that is not the task's), and how near an answer is to the
right one. What it does not know it refuses with 404.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import SequenceMatcher
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from threading import Event, Thread
from urllib.parse import urlsplit

from agentrl.config import RunConfig
from agentrl.types import Task
from agentrl_envs.families import FAMILIES
from agentrl_envs.families.base import operands_of
from agentrl_envs.retool_math import RetoolMath

PORT = 8321
KNOWN = 4000
"""Tasks of the stream that it knows."""

_STEP = re.compile(r"Step (\d+):\n(.*?)(?=\n\nStep \d+:\n|\n\n\(Critique|\Z)", re.DOTALL)
_QUESTION = re.compile(r"Question:\n(.*?)\n\n", re.DOTALL)
_TEXT = re.compile(r"\n\nText:\n(.*)\Z", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_CODE = re.compile(r"<code>(.*?)</code>", re.DOTALL)


class RuleJudge:
    """Grades by comparing with what the task's own family says."""

    def __init__(self, seed: int) -> None:
        stream = RetoolMath(style="terse").tasks("train", seed=seed)
        self._tasks = {task.question: task for task in islice(stream, KNOWN)}

    def reply(self, prompt: str) -> str:
        """A list of wrong steps, or a grade from 0 to 10. Raises KeyError on an unknown question."""
        asked = _QUESTION.search(prompt)
        task = self._tasks[asked[1] if asked is not None else ""]
        steps = _STEP.findall(prompt)
        if steps:
            return str([int(number) for number, text in steps if wrong(task, text)])
        text = _TEXT.search(prompt)
        return f"<score>{grade(task, text[1] if text is not None else ''):.2f}</score>"


def wrong(task: Task, step: str) -> bool:
    """Whether a step answers wrongly, runs what is not the task's code, or does neither."""
    family = FAMILIES[str(task.metadata["family"])]
    answer, code = _ANSWER.search(step), _CODE.search(step)
    if answer is not None:
        return not family.matches(str(task.answer), answer[1])
    if code is None:
        return True
    cells = {"".join(cell.split()) for cell in family.cells(operands_of(task))}
    return "".join(code[1].split()) not in cells


def grade(task: Task, text: str) -> float:
    """10 for the right answer, less the less of it is there; 0 without one."""
    answer = _ANSWER.search(text)
    if answer is None:
        return 0.0
    return 10 * SequenceMatcher(None, str(task.answer), answer[1].strip()).ratio()


@contextmanager
def serving(port: int, seed: int) -> Iterator[None]:
    """The judge on a port of this machine, as long as the block runs."""
    judge = RuleJudge(seed)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                said = judge.reply(body["messages"][-1]["content"])
            except KeyError as error:
                self.send_error(404, f"unknown question {error}")
                return
            message = {"role": "assistant", "content": said}
            data = json.dumps({"choices": [{"index": 0, "message": message}]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def judging(config: RunConfig) -> Iterator[None]:
    """The judge that a run asks, when it asks one on this machine."""
    judge = config.algo.judge
    port = None if judge is None else urlsplit(str(judge.given.get("base_url"))).port
    if port is None:
        yield
        return
    with serving(port, config.seed):
        yield


def main() -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--seed", type=int, default=0, help="of the run whose tasks it judges")
    options = parser.parse_args()
    with serving(options.port, options.seed):
        print(f"judging on http://127.0.0.1:{options.port}/v1", flush=True)
        with suppress(KeyboardInterrupt):
            Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
