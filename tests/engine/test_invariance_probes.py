"""The probes that let `deterministic` promise anything must notice kernels that break it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from agentrl.engine import attention
from agentrl.engine import transformers as engine_module
from agentrl.engine.architecture import Architecture
from agentrl.engine.linear import Linear, invariant_rows, prove_rows
from agentrl.engine.transformers import TransformersEngine
from agentrl.errors import SetupError

SHAPE = Architecture("qwen2", 1, 32, 32, 4, 2, 16, 9, 1e-6, True, True, False, False, False, 1200)
CPU = torch.device("cpu")


def linear(*, packed: bool) -> Linear:
    weight = torch.randn(24, 40, generator=torch.Generator().manual_seed(1))
    made = Linear(weight, torch.arange(24.0), packed=packed)
    made.pack()
    return made


@pytest.mark.parametrize("packed", [True, False])
def test_the_kernels_of_this_machine_pass_and_equal_torch(packed):
    made = linear(packed=packed)
    assert invariant_rows(made)
    x = torch.randn(11, 40)
    torch.testing.assert_close(made(x), x @ made.weight.T + torch.arange(24.0))
    made.weight.mul_(2.0)
    made.pack()
    torch.testing.assert_close(made(x), x @ made.weight.T + torch.arange(24.0))


def test_a_product_that_depends_on_the_number_of_rows_is_noticed():
    made = linear(packed=False)
    made._forward = lambda x: x @ made.weight.T + 1e-6 * (len(x) == 9)
    assert not invariant_rows(made)


def test_a_packed_product_that_fails_is_given_up_for_torchs_own():
    made = linear(packed=True)
    made._forward = lambda x: x @ made.weight.T * (1 + 1e-6 * (len(x) > 50))
    assert prove_rows(made)
    assert not made.packed
    x = torch.randn(3, 40)
    assert torch.equal(made(x), F.linear(x, made.weight, made.bias))


@pytest.mark.parametrize("on", ["keys", "neighbours", "heads"])
def test_attention_that_depends_on_its_call_is_noticed(monkeypatch, on):
    whole = F.scaled_dot_product_attention

    def careless(q, k, v, *, attn_mask):
        mixed = whole(q, k, v, attn_mask=attn_mask)
        wrong = {"keys": k.shape[2] > 700, "neighbours": len(q) > 1, "heads": q.shape[2] > 1}[on]
        return mixed * (1 + 1e-6 * wrong * (len(q) > 1))

    assert attention.invariant_heads(SHAPE, torch.float32, CPU, 1200) == 2
    monkeypatch.setattr(F, "scaled_dot_product_attention", careless)
    assert attention.invariant_heads(SHAPE, torch.float32, CPU, 1200) == (
        1 if on == "heads" else None
    )


async def test_an_engine_that_cannot_keep_the_promise_says_so(monkeypatch, folders):
    monkeypatch.setattr(engine_module, "invariant_heads", lambda *_: None)
    with pytest.raises(SetupError, match=r"attention.*engine\.deterministic=false"):
        await TransformersEngine(folders["qwen2"]).open()
    engine = TransformersEngine(folders["qwen2"], deterministic=False)
    await engine.open()
    await engine.close()
