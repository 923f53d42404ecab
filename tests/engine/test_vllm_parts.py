"""The pieces around vLLM that need no vLLM: wire format, counters, refusals, command line."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from agentrl.engine.base import Sampling
from agentrl.engine.vllm.command import ServerSettings, command, variables
from agentrl.engine.vllm.files import Parameters, parameters_of, write_tensors
from agentrl.engine.vllm.metrics import Counters, parse
from agentrl.engine.vllm.neighbours import make_llvmlite_plain
from agentrl.engine.vllm.start import check_parallel
from agentrl.engine.vllm.wire import Received, first_runs, generation_body, scores
from agentrl.engine.vllm.worker import (
    WANTS_ENTROPIES,
    WorkerExtension,
    entropy_of_rank,
    ranks_of_entropies,
)
from agentrl.errors import EngineError, UserError


@given(st.lists(st.floats(0, 40, width=32), min_size=1, max_size=5))
def test_a_rank_carries_an_entropy_bit_for_bit(entropies):
    ranks = ranks_of_entropies(torch.tensor(entropies), torch.zeros(1, dtype=torch.int64))
    assert ranks.dtype == torch.int64
    assert [entropy_of_rank(rank) for rank in ranks.tolist()] == entropies


class Tensors(NamedTuple):
    logprobs: torch.Tensor
    selected_token_ranks: torch.Tensor


def worker(wants: dict[str, bool]):
    """A worker around a sampler whose logprobs are a plain log-softmax."""

    def request(wanted: bool, temperature: float = 1.0):
        extra = {WANTS_ENTROPIES: True} if wanted else None
        return SimpleNamespace(
            sampling_params=SimpleNamespace(extra_args=extra, temperature=temperature)
        )

    def prompt(hidden, scheduled):
        """Scores whatever is wanted of it now, as vLLM's own method does."""
        found = {}
        for name in list(runner.num_prompt_logprobs):
            scores = runner.sampler.compute_logprobs(hidden)
            found[name] = runner.sampler.gather_logprobs(scores, 0, torch.zeros(1)).logprobs
            del runner.num_prompt_logprobs[name]
        return found

    sampler = SimpleNamespace(
        gather_logprobs=lambda logprobs, k, ids: Tensors(logprobs, torch.tensor([7, 7])),
        compute_logprobs=lambda logits: logits.log_softmax(-1),
    )
    runner = SimpleNamespace(
        sampler=sampler,
        input_batch=SimpleNamespace(req_ids=list(wants)),
        requests={name: request(wanted) for name, wanted in wants.items()},
        num_prompt_logprobs={},
        _get_prompt_logprobs_dict=prompt,
    )
    made = WorkerExtension()
    made.model_runner = runner
    assert made.agentrl_install() == {"installed": True}
    made.agentrl_install()  # once per worker, so nothing is wrapped twice
    runner.request = request
    return runner


def test_entropies_are_gathered_when_one_request_wants_them_and_only_then():
    """A fair coin, ln 2, and a filtered distribution of one token, 0."""
    logprobs = torch.tensor([[math.log(0.5), math.log(0.5)], [0.0, -math.inf]])
    asked = worker({"a": False, "b": True}).sampler.gather_logprobs(logprobs, 0, None)
    found = [entropy_of_rank(rank) for rank in asked.selected_token_ranks.tolist()]
    assert found == pytest.approx([math.log(2), 0.0])
    plain = worker({"a": False}).sampler.gather_logprobs(logprobs, 0, None)
    assert plain.selected_token_ranks.tolist() == [7, 7]


def test_each_prompt_is_scored_under_its_own_temperature_and_unscheduled_ones_wait():
    """Logits (0, 1): at temperature 0.5 they are (0, 2), at 0 (greedy) those of temperature 1."""
    runner = worker({"hot": False})
    for name, temperature in (("cold", 0.5), ("greedy", 0.0), ("later", 1.0)):
        runner.requests[name] = runner.request(False, temperature)
    runner.num_prompt_logprobs = {"cold": 0, "greedy": 0, "later": 0}
    found = runner._get_prompt_logprobs_dict(torch.tensor([[0.0, 1.0]]), {"cold": 1, "greedy": 1})
    assert found["cold"][0, 1].item() == pytest.approx(-math.log1p(math.exp(-2)))
    assert found["greedy"][0, 1].item() == pytest.approx(-math.log1p(math.exp(-1)))
    assert runner.num_prompt_logprobs == {"later": 0}
    untouched = runner.sampler.compute_logprobs(torch.tensor([[0.0, 1.0]]))
    assert untouched[0, 1].item() == pytest.approx(-math.log1p(math.exp(-1)))


def test_a_model_runner_of_another_make_is_named():
    made = WorkerExtension()
    sampler = SimpleNamespace(gather_logprobs=print)
    made.model_runner = SimpleNamespace(sampler=sampler)
    with pytest.raises(RuntimeError, match="VLLM_USE_V2_MODEL_RUNNER=0"):
        made.agentrl_install()


@pytest.mark.parametrize(
    ("runs", "n", "expected"),
    [
        ([(3, 0), (4, 1)], 7, ((3, 0), (4, 1))),
        ([(3, 0), (4, 1)], 5, ((3, 0), (2, 1))),
        ([(3, 0), (4, 1)], 3, ((3, 0),)),
        ([(2, 1), (0, 2), (2, 1)], 4, ((4, 1),)),
        ([], 0, ()),
    ],
)
def test_runs_of_versions_are_cut_where_the_text_is(runs, n, expected):
    assert first_runs(runs, n) == expected


def event(ids, finish=None, spans=None):
    """One event of the server's stream; logprobs -0.5, ranks carry entropy 1.5 (0x3fc00000)."""
    content = [{"token_id": i, "logprob": -0.5, "rank": 0x3FC00000} for i in ids]
    choice = {"token_ids": ids, "logprobs": {"content": content}, "finish_reason": finish}
    return {"choices": [choice | {"weight_versions": spans}]}


def test_events_add_up_to_a_generation():
    received = Received(Sampling(9, entropies=True))
    received.take(event([4, 5]))
    spans = [{"version": "3", "start": 0, "end": 1}, {"version": "4", "start": 1, "end": 3}]
    received.take(event([6], "length", spans))
    whole = received.generation(3, 99, None)
    assert (whole.token_ids.tolist(), whole.stop) == ([4, 5, 6], "length")
    assert whole.versions == ((1, 3), (2, 4))
    assert whole.entropies.tolist() == [1.5, 1.5, 1.5]
    cut = received.generation(2, 99, "x")
    assert (cut.stop, cut.stop_text, cut.versions) == ("stop_text", "x", ((1, 3), (1, 4)))
    early = Received(Sampling(9))
    early.take(event([4]))
    assert early.generation(1, 8, "x").versions == ((1, 8),)
    with pytest.raises(EngineError, match="ended a request with None"):
        early.generation(1, 8, None)
    with pytest.raises(EngineError, match="1 ids and 0 logprobs"):
        early.take({"choices": [{"token_ids": [1], "logprobs": None}]})


def test_scores_come_by_the_rows_own_ids_or_not_at_all():
    row = np.array([5, 6, 5], np.int32)
    entries = [None, {"6": {"logprob": -1.0}}, {"5": {"logprob": -2.0}, "1": {"logprob": 0.0}}]
    assert scores(row, {"prompt_logprobs": entries}).tolist() == [0.0, -1.0, -2.0]
    with pytest.raises(EngineError, match="scored 0 of 3"):
        scores(row, {})
    with pytest.raises(EngineError, match="no logprob of token 5"):
        scores(row, {"prompt_logprobs": [*entries[:2], {"7": {"logprob": 0.0}}]})


def test_a_request_carries_seed_salt_and_what_is_asked_for():
    sampling = Sampling(50, temperature=0.3, seed=(1 << 64) - 1, stop_ids=(2,), entropies=True)
    row = np.array([1, 2], np.int32)
    body = generation_body(row, sampling, max_tokens=6, request_id="r", version=4, stream=True)
    parameters = body["sampling_params"]
    assert (body["token_ids"], body["cache_salt"], body["stream"]) == ([1, 2], "v4", True)
    assert parameters["seed"] == (1 << 63) - 1
    assert (parameters["max_tokens"], parameters["stop_token_ids"]) == (6, [2])
    assert parameters["extra_args"] == {WANTS_ENTROPIES: True}


def test_counters_are_read_from_prometheus_text():
    text = """# HELP vllm:kv_cache_usage_perc usage
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
vllm:num_preemptions_total{engine="0"} 3.0
vllm:prefix_cache_hits_total{engine="0"} 1.2e+03
other_total 9
"""
    assert parse(text) == Counters(0.5, 3, 1200)
    assert parse("") == Counters(None, 0, 0)


def test_tensor_parallel_is_refused_where_it_cannot_work(folders):
    """The model has 4 heads in 2 groups."""
    check_parallel(folders["qwen2"], 1, 0)
    check_parallel(folders["qwen2"], 2, 2)
    check_parallel(folders["qwen2"], 4, 8)  # each group is held twice
    with pytest.raises(UserError, match=r"tensor_parallel=2 needs as many GPUs.* has 1"):
        check_parallel(folders["qwen2"], 2, 1)
    with pytest.raises(UserError, match="4 attention heads and 2 key-value heads"):
        check_parallel(folders["qwen2"], 3, 8)
    with pytest.raises(UserError, match="at least 1"):
        check_parallel(folders["qwen2"], 0, 8)


def settings(**changes) -> ServerSettings:
    given = {
        "model": "m", "tokenizer": None, "dtype": "float32", "max_batch": 7, "max_context": 300,
        "kv_cache_mb": 5, "gpu_share": 0.8, "tensor_parallel": 1, "devices": None, "sleep": False,
        "url": None, "weights_dir": None, "start_timeout_s": 1.0, "request_timeout_s": 1.0,
    }  # fmt: skip
    return ServerSettings(**given | changes)


def test_the_server_listens_on_a_file_and_takes_what_was_set():
    found = command(settings(), Path("/m"), Path("/s"))
    options = dict(itertools.pairwise(found))
    assert (options["--uds"], options["--max-num-seqs"], options["--max-model-len"]) == (
        "/s",
        "7",
        "300",
    )
    assert options["--kv-cache-memory-bytes"] == str(5 << 20)
    assert options["--logprobs-mode"] == "processed_logprobs"
    assert "--port" not in found
    assert variables(settings(devices=(2, 3)))["CUDA_VISIBLE_DEVICES"] == "2,3"


def test_a_tied_head_is_written_with_its_embedding_and_files_hold_copies(folders, tmp_path):
    tied = parameters_of(folders["qwen2"])
    assert tied.tied
    assert tied.missing(set()) == sorted(tied.expected)
    assert not tied.known("model.layers.0.self_attn.q_proj.scale")
    embedding = torch.arange(6.0).view(2, 3)
    write_tensors(tied.with_head({"model.embed_tokens.weight": embedding}), tmp_path, 0)
    embedding.zero_()
    found = load_file(tmp_path / "model-00000.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert found[name].tolist() == [[0, 1, 2], [3, 4, 5]]
    untied = Parameters(frozenset({"a"}), tied=False)
    assert untied.with_head({"model.embed_tokens.weight": embedding}).keys() == {
        "model.embed_tokens.weight"
    }


def test_llvmlite_answers_for_itself_and_still_finds_its_functions():
    ffi = pytest.importorskip("llvmlite.binding.ffi")
    make_llvmlite_plain()
    make_llvmlite_plain()
    assert not hasattr(ffi.lib, "__dict__")
    assert ffi.lib.LLVMPY_GetVersionInfo() > 0
