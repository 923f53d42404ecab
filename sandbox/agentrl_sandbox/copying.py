"""Copies of a running session, seen from the trusted side; `inside.family` has the rules."""

from __future__ import annotations

import asyncio
import os

from agentrl.errors import SandboxError
from agentrl_sandbox.child import Child
from agentrl_sandbox.conversation import Conversation
from agentrl_sandbox.ends import Ends, make_ends
from agentrl_sandbox.expected import Delivery
from agentrl_sandbox.inside import wire

BATCH = 16
"""Copies in one order: their descriptors travel in one message."""
_CLONE_S = 10.0
_SETTLE_S = 60.0
_REAP_S = 5.0
_KEPT = 4096
_ENDING_TRIES, _ENDING_S = 10, 0.02


async def copies_of(child: Child, count: int) -> list[Child]:
    """That many ready copies of a child between two runs, which goes on as if nothing had been.

    Raises SandboxError; the child may be dead then, copies are not left behind.
    """
    threads = await _settled_threads(child)
    if threads != 1:
        raise SandboxError(
            f"a session with {threads} threads cannot be copied, only its main thread would be: "
            "let the code join its threads first"
        )
    made: list[Child] = []
    try:
        while len(made) < count:
            made += await _batch(child, min(count - len(made), BATCH))
    except BaseException:
        await asyncio.shield(_bury(made))
        raise
    return made


async def _settled_threads(child: Child) -> int:
    """How many threads it has, once those that were already ending have ended.

    A thread that the code has joined may still be on its way out when the child is stopped.
    """
    threads = child.threads()
    for _ in range(_ENDING_TRIES):
        if threads <= 1:
            break
        child.thaw()
        await asyncio.sleep(_ENDING_S)
        child.freeze()
        threads = child.threads()
    return threads


async def _bury(children: list[Child]) -> None:
    async with asyncio.TaskGroup() as group:
        for child in children:
            group.create_task(child.close(_REAP_S))


async def _batch(child: Child, count: int) -> list[Child]:
    link = child.kin.link
    ends = make_ends(count)
    copies: list[Child] = []
    deliveries: list[Delivery] = []
    done = False
    try:
        deliveries = await link.arm(child.session, ends)
        await _make(child, count)
        copies = await _collect(child, ends, deliveries)
        async with asyncio.TaskGroup() as group:
            for copy, delivery in zip(copies, deliveries, strict=True):
                group.create_task(_settle(copy, delivery))
        done = True
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    finally:
        if not done:
            if deliveries:
                link.call_off(child.session)
            await asyncio.shield(_bury(copies))
            for unused in ends[len(copies) :]:
                unused.close_near()
            link.forget(deliveries[len(copies) :])
    return copies


async def _make(child: Child, count: int) -> None:
    """Have the child fork. It answers for itself, so this only says whether to wait for births."""
    nonce = os.urandom(wire.NONCE_BYTES)
    with Conversation(child, nonce=nonce, keep_bytes=_KEPT) as talk:
        child.thaw()
        child.control.send(wire.request(nonce, str(count), wire.COPY))
        await talk.wait(_CLONE_S)
        child.freeze()
    reply = talk.reply
    if talk.ending is None or reply is None:
        raise SandboxError("the session did not copy itself in time")
    if reply.kind != wire.OK:
        raise SandboxError(f"the session could not be copied: {reply.error}")


async def _collect(child: Child, ends: list[Ends], deliveries: list[Delivery]) -> list[Child]:
    """The copies, once all have shown themselves."""
    await asyncio.wait({d.born for d in deliveries}, timeout=_CLONE_S)
    births = [d.born.result() if d.born.done() else None for d in deliveries]
    if not all(births):
        for birth in filter(None, births):
            os.close(birth[1])
        raise SandboxError("a copy of the session did not come to life")
    try:
        child.kin.grow(len(births))
    except OSError as error:
        for birth in filter(None, births):
            os.close(birth[1])
        raise SandboxError(f"the session's cgroup cannot be enlarged: {error}") from error
    link = child.kin.link
    return [
        link.child(end, child.kin, birth[0]["pid"], birth[1], birth[0]["work"], delivery)
        for end, birth, delivery in zip(ends, filter(None, births), deliveries, strict=True)
    ]


async def _settle(copy: Child, delivery: Delivery) -> None:
    """Show a copy its work folder and wait until its fence stands, by the zygote's word."""
    with Conversation(copy, nonce=wire.NO_NONCE, keep_bytes=_KEPT) as talk:
        copy.control.send(wire.request(wire.NO_NONCE, copy.work, wire.SETTLE))
        await talk.wait(_SETTLE_S)
        talk.finish()
    ready = talk.reply is not None and talk.reply.kind == wire.READY
    if ready:
        await asyncio.wait({delivery.fit}, timeout=_CLONE_S)
    if not ready or not delivery.fit.done() or not delivery.fit.result():
        why = talk.reply.error if talk.reply and talk.reply.error else talk.stderr.text()
        raise SandboxError(f"a copy of the session could not be confined: {why or 'it died'}")
