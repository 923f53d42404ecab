"""Rewards that ask a judge, and the judge itself against a real server on the loopback."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest

from agentrl.episode import EpisodeRunner
from agentrl.errors import DeadlineExceeded, SetupError, UserError, WorldFault
from agentrl.points import Judge, Services, needs_of
from agentrl.rewards import judge as judge_module
from agentrl.rewards.asking import read_score, read_verdict
from agentrl.rewards.capo import CapoJudge
from agentrl.rewards.judge import OpenAIJudge
from agentrl.rewards.judged import Judged
from agentrl.rewards.repetition import Repetition
from agentrl.rewards.rpr import RprPhrases
from agentrl.rewards.rubric import Rubric, rubric_of, rubric_score
from agentrl.trajectory import Trajectory
from agentrl.types import Task

Member = Callable[..., Trajectory]


class ScriptedJudge:
    """Answers from a function of the prompt; None fails as the world does."""

    def __init__(self, answer: Callable[[str], str | None], wait_s: float = 0.0) -> None:
        self.answer, self.wait_s = answer, wait_s
        self.prompts: list[str] = []

    async def grade(self, prompt: str) -> str:
        await asyncio.sleep(self.wait_s)
        self.prompts.append(prompt)
        reply = self.answer(prompt)
        if reply is None:
            raise WorldFault("no judge")
        return reply


def services(judge: Judge | None = None) -> Services:
    return Services(episodes=cast(EpisodeRunner, None), judge=judge)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("<score>7</score>", 7),
        ("2 of 10: <score> 8.5 </score>", 8.5),
        ("I say 6", 6),
        ("well", None),
    ],
)
def test_scores_are_read(reply: str, score: float | None):
    assert read_score(reply) == score


def test_verdicts_are_read():
    assert [read_verdict(r) for r in ("Yes.", "yes and no", "maybe")] == [True, False, None]


async def test_a_grade_becomes_a_measurement(member: Member):
    judge = ScriptedJudge(lambda _: "<score>6</score>")
    trajectory = member(turns=("<think>because</think>42",))
    assert await Judged()(trajectory, services(judge)) == {
        "judge/thinking": 0.6,
        "judge/thinking/failed": 0.0,
    }
    assert "because" in judge.prompts[0]
    assert "Text:\nbecause" in judge.prompts[0]
    raw = await Judged(aspect="answer", top=2, scaled=False)(
        trajectory, services(ScriptedJudge(lambda _: "2"))
    )
    assert raw == {"judge/answer": 2.0, "judge/answer/failed": 0.0}


async def test_the_answer_is_graded_without_its_thinking(member: Member):
    """RLMT: the thinking is stripped; one that never ends leaves nothing to grade."""
    judge = ScriptedJudge(lambda _: "10")
    await Judged(aspect="answer", reference=True)(
        member(turns=("<think>secret</think>said",)), services(judge)
    )
    assert "secret" not in judge.prompts[0]
    assert "said" in judge.prompts[0]
    assert "Reference answer:\n42" in judge.prompts[0]
    open_ended = member(turns=("<think>secret",))
    scores = await Judged(aspect="answer")(open_ended, services(judge))
    assert scores["judge/answer"] == 0.0
    assert len(judge.prompts) == 1


async def test_unreadable_grades_are_asked_for_again_and_then_counted(member: Member):
    trajectory = member(turns=("text",))
    second = ScriptedJudge(lambda p: "4" if "Request 2" in p else "hmm")
    assert (await Judged()(trajectory, services(second)))["judge/thinking"] == 0.4
    never = ScriptedJudge(lambda _: "<score>11</score>")
    assert await Judged(tries=3)(trajectory, services(never)) == {
        "judge/thinking": 0.5,
        "judge/thinking/failed": 1.0,
    }
    assert len(set(never.prompts)) == 3


async def test_a_lost_judge_is_a_counted_fallback_or_a_fault(member: Member):
    trajectory = member(turns=("text",))
    lost = services(ScriptedJudge(lambda _: None))
    assert (await Judged(fallback=0.1)(trajectory, lost))["judge/thinking"] == 0.1
    with pytest.raises(WorldFault):
        await Judged(fallback=None)(trajectory, lost)
    slow = services(ScriptedJudge(lambda _: "1", wait_s=5))
    with pytest.raises(DeadlineExceeded):
        await Judged(fallback=None, deadline_s=0.05)(trajectory, slow)


async def test_no_judge_is_the_users_error(member: Member):
    task = Task("t", "?", "42", {"rubric": [{"criterion": "a", "points": 1}]})
    for reward in (Judged(), Rubric(), CapoJudge(tokenizer=cast(Any, None))):
        assert needs_of(reward) == {"judge"}
        with pytest.raises(UserError, match=r"algo\.judge"):
            await reward(member(turns=("a",), task=task), services())


def test_rubric_score():
    """Points 5 3 -2, the first and the last met: 3 / 8."""
    assert rubric_score([5, 3, -2], [True, False, True]) == 0.375
    assert rubric_score([5, 3, -2], [False, False, True]) == -0.25
    with pytest.raises(UserError, match="positive"):
        rubric_score([-1], [True])


RUBRIC = [
    {"criterion": "is right", "points": 5},
    {"criterion": "is kind", "points": 3},
    {"criterion": "is rude", "points": -2},
]


async def test_rubric_asks_one_question_per_criterion(member: Member):
    task = Task("t", "?", "42", {"rubric": RUBRIC})
    judge = ScriptedJudge(lambda p: "no" if "is kind" in p else "yes")
    scores = await Rubric()(member(turns=("a",), task=task), services(judge))
    assert scores == {"rubric": 0.375, "rubric/met": pytest.approx(2 / 3), "rubric/failed": 0.0}
    assert len(judge.prompts) == 3


async def test_a_criterion_without_a_verdict_is_not_met_and_counted(member: Member):
    task = Task("t", "?", "42", {"rubric": RUBRIC})
    judge = ScriptedJudge(lambda p: None if "is right" in p else "yes")
    trajectory = member(turns=("a",), task=task)
    scores = await Rubric()(trajectory, services(judge))
    assert (scores["rubric"], scores["rubric/failed"]) == (0.125, 1.0)
    with pytest.raises(WorldFault):
        await Rubric(fallback=False)(trajectory, services(judge))


@pytest.mark.parametrize("rubric", [None, [], "text", [{"criterion": "a"}], ["a"]])
def test_a_task_without_a_rubric_is_told(rubric: object):
    metadata = {} if rubric is None else {"rubric": rubric}
    with pytest.raises(UserError, match="rubric"):
        rubric_of(Task("t", "?", "42", cast(Mapping[str, Any], metadata)))


async def test_capo_asks_for_independent_critiques(member: Member, tokenizer: Any):
    """Three of four say step 1: intersection clears it, majority does not."""
    text = "one\n\ntwo"
    trajectory = member(turns=(text,), turn_ids=[tokenizer.encode(text)])
    judge = ScriptedJudge(lambda p: "[]" if "Critique 4" in p else "[1]")
    strict = await CapoJudge(tokenizer=tokenizer)(trajectory, services(judge))
    assert strict == {"capo/steps": 2.0}
    assert len(set(judge.prompts)) == 4
    most = await CapoJudge(tokenizer=tokenizer, vote="majority")(trajectory, services(judge))
    assert most == {"capo/steps": 2.0, "capo/wrong/1": 1.0}
    lost = ScriptedJudge(lambda p: None if "Critique 4" in p else "[1]")
    with pytest.raises(WorldFault, match="1 of 4"):
        await CapoJudge(tokenizer=tokenizer)(trajectory, services(lost))


async def test_text_rewards_without_a_judge(member: Member):
    """Ten times the same ten words is RLPR's loop; nine times is not."""
    ten = " ".join(f"w{i}" for i in range(10))
    looping, fine = (member(turns=(" | ".join([ten] * n),)) for n in (10, 9))
    assert await Repetition()(looping, services()) == {"repetition": -1.0}
    assert await Repetition()(fine, services()) == {"repetition": 0.0}
    tokens = member(turn_ids=[[1, 2, 3, 4, 1, 2, 3, 5]])
    assert await Repetition(measure="tokens", n=3)(tokens, services()) == {"repetition": -0.75}
    loop = member(turn_ids=[[1, 2, 3, 4, 3, 4, 3, 4]])
    assert await Repetition(measure="loop", penalty=2)(loop, services()) == {"repetition": -1.5}
    words = member(turns=("a b a b a",))
    assert await Repetition(measure="words", n=2)(words, services()) == {"repetition": -0.5}
    first = member(turns=("First, we need to check.",))
    assert await RprPhrases()(first, services()) == {"rpr/score": pytest.approx(3 / 20)}


class Server:
    """A chat-completions endpoint whose replies are scripted per request, in order."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, bytes]] = []
        self.requests: list[tuple[str, dict[str, Any], str | None]] = []
        self.wait_s = 0.0
        self.running = self.most = 0
        self._lock = threading.Lock()

    def answer(self, path: str, body: dict[str, Any], key: str | None) -> tuple[int, bytes]:
        with self._lock:
            self.requests.append((path, body, key))
            self.running += 1
            self.most = max(self.most, self.running)
            scripted = self.replies.pop(0) if self.replies else None
        time.sleep(self.wait_s)
        with self._lock:
            self.running -= 1
        return scripted or (200, said(f"graded {body['messages'][-1]['content']}"))


def said(text: str | None) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    script = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, reply = script.answer(self.path, body, self.headers.get("authorization"))
            self.send_response(status)
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            with suppress(ConnectionError):  # the judge may have hung up at its deadline
                self.wfile.write(reply)

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
    thread.start()
    yield script, f"http://127.0.0.1:{listening.server_port}/v1"
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "PAUSE_S", 0.01)


async def test_one_completion_per_prompt_and_equal_prompts_once(server: tuple[Server, str]):
    script, url = server
    judge = OpenAIJudge(base_url=url + "/", model_id="m", system="be strict")
    assert await judge.grade("a") == "graded a"
    assert await judge.grade("a") == "graded a"
    assert await judge.grade("b") == "graded b"
    assert (judge.requests, judge.cached) == (2, 1)
    path, body, key = script.requests[0]
    assert (path, key) == ("/v1/chat/completions", None)
    assert body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be strict"},
            {"role": "user", "content": "a"},
        ],
        "temperature": 0.0,
        "max_tokens": 1024,
    }


async def test_busy_servers_are_asked_again(server: tuple[Server, str]):
    script, url = server
    script.replies = [(429, b"slow down"), (503, b""), (500, b""), (200, said("fine"))]
    judge = OpenAIJudge(base_url=url, model_id="m")
    assert await judge.grade("a") == "fine"
    assert judge.requests == 4


async def test_what_cannot_be_had_is_the_worlds_fault(server: tuple[Server, str]):
    script, url = server
    judge = OpenAIJudge(base_url=url, model_id="m", retries=1)
    script.replies = [(500, b"")] * 2
    with pytest.raises(WorldFault, match="failed 2 times: status 500"):
        await judge.grade("a")
    script.replies = [(401, b"")]
    with pytest.raises(WorldFault, match="refused a request: status 401"):
        await judge.grade("a")
    for reply in (b"not json", b"{}", b'{"choices": []}', said(None)):
        script.replies = [(200, reply)]
        with pytest.raises(WorldFault):
            await judge.grade("a")
    assert await judge.grade("a") == "graded a"
    assert judge.requests == 8


async def test_nobody_listening_is_the_worlds_fault(server: tuple[Server, str]):
    judge = OpenAIJudge(base_url="http://127.0.0.1:9/v1", model_id="m", retries=1)
    with pytest.raises(WorldFault, match="failed 2 times: Connect"):
        await judge.grade("a")
    assert judge.requests == 2


async def test_a_deadline_ends_the_wait(server: tuple[Server, str]):
    script, url = server
    script.wait_s = 2.0
    judge = OpenAIJudge(base_url=url, model_id="m", deadline_s=0.1)
    with pytest.raises(DeadlineExceeded, match=r"0\.1 s"):
        await judge.grade("a")


async def test_requests_at_once_are_bounded(server: tuple[Server, str]):
    script, url = server
    script.wait_s = 0.02
    judge = OpenAIJudge(base_url=url, model_id="m", concurrency=3)
    async with asyncio.TaskGroup() as asking:
        tasks = [asking.create_task(judge.grade(f"p{i}")) for i in range(12)]
    assert [t.result() for t in tasks] == [f"graded p{i}" for i in range(12)]
    assert 1 < script.most <= 3


async def test_the_cache_is_bounded(server: tuple[Server, str]):
    _, url = server
    judge = OpenAIJudge(base_url=url, model_id="m", cache=2)
    for prompt in ("a", "b", "c", "b", "a"):
        await judge.grade(prompt)
    assert (judge.requests, judge.cached) == (4, 1)


async def test_the_key_is_sent_and_never_shown(
    server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    script, url = server
    caplog.set_level("DEBUG")
    monkeypatch.setenv("JUDGE_KEY", "k-very-hidden")
    judge = OpenAIJudge(base_url=url, model_id="m", key_env="JUDGE_KEY", retries=0)
    script.replies = [(401, b"bad key k-very-hidden")]
    with pytest.raises(WorldFault) as refused:
        await judge.grade("a")
    await judge.grade("a")
    assert script.requests[0][2] == "Bearer k-very-hidden"
    assert "hidden" not in f"{refused.value!r} {judge!r} {caplog.text}"
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(SetupError, match="JUDGE_KEY"):
        OpenAIJudge(base_url=url, model_id="m", key_env="JUDGE_KEY")


@pytest.mark.parametrize(
    "options", [{"base_url": "localhost"}, {"concurrency": 0}, {"deadline_s": 0}]
)
def test_bad_settings_are_told(options: dict[str, Any]):
    with pytest.raises(UserError):
        OpenAIJudge(**({"base_url": "http://x", "model_id": "m"} | options))
