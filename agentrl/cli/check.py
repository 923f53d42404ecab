"""`agentrl check`: the conformance kits, run on one plug-in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from pydantic import TypeAdapter

from agentrl.cli.exits import sole_cause
from agentrl.cli.words import json_option, words_argument
from agentrl.errors import SetupError, UserError

if TYPE_CHECKING:
    from agentrl.config import Plugin, RunConfig
    from agentrl.sandbox import SandboxPool
    from agentrl.testing import CheckResult
    from agentrl.tool import Tool

KINDS = ("tool", "env", "plan", "retriever", "sandbox", "engine")


@click.command("check")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name")
@words_argument
@click.option("--no-sandbox", is_flag=True, help="Give tools a fake sandbox that runs nothing.")
@json_option
def command(kind: str, name: str, words: tuple[str, ...], no_sandbox: bool, as_json: bool) -> None:
    """Run the conformance kit on a tool, env, plan, retriever, sandbox or engine.

    NAME is a registered name, `package.module:Attr` or `file.py:Attr`. Exit code 4 when a check
    fails.

    \b
    agentrl check tool my_package.tools:search
    agentrl check env retool_math env.tools=none
    agentrl check retriever fts5
    agentrl check retriever remote retriever.url=http://127.0.0.1:8000/retrieve
    agentrl check sandbox local
    """
    from agentrl.compose import GROUPS, compose

    chosen = [f"{kind}={name}"] if kind in GROUPS else []
    own = [word for word in words if kind not in GROUPS and word.startswith(f"{kind}.")]
    config = compose([*chosen, *(word for word in words if word not in own)])
    if kind == "sandbox":
        results = asyncio.run(_sandbox(config, as_json=as_json))
    else:
        node = _node(kind, name, own)
        results = asyncio.run(_results(kind, node, config, real=not no_sandbox))
        for result in results:
            _show(result, as_json)
    failed = sum(not result.ok for result in results)
    if not as_json:
        click.echo(_sum(results))
    if failed:
        raise click.exceptions.Exit(4)


def _show(result: CheckResult, as_json: bool) -> None:
    click.echo(json.dumps(asdict(result)) if as_json else _line(result))


def _line(result: CheckResult) -> str:
    mark = click.style("ok  ", fg="green") if result.ok else click.style("FAIL", fg="red")
    if result.kind == "known leak":
        mark = click.style("leak", fg="yellow")
    elif result.kind == "skipped":
        mark = click.style("skip", fg="cyan")
    return f"{mark}  {result.name}" + (f"  ({result.detail})" if result.detail else "")


def _sum(results: Sequence[CheckResult]) -> str:
    held = sum(result.ok and result.kind == "check" for result in results)
    parts = [f"{held} of {len(results)} checks hold"]
    for kind, plural in (("known leak", "known leaks"), ("skipped", "skipped")):
        count = sum(result.kind == kind for result in results)
        if count:
            parts.append(f"{count} {kind if count == 1 else plural}")
    return ", ".join(parts)


def _node(kind: str, name: str, words: Sequence[str]) -> Plugin:
    """The plug-in with the options that `kind.option=value` words give it."""
    from omegaconf import OmegaConf

    from agentrl.config import Plugin

    given = OmegaConf.from_dotlist([word.removeprefix(f"{kind}.") for word in words])
    return Plugin.model_validate({"name": name, **dict(given)})


async def _results(
    kind: str, node: Plugin, config: RunConfig, *, real: bool
) -> Sequence[CheckResult]:
    if kind == "engine":
        return await _engine(config)
    if kind in ("plan", "retriever"):
        return await (_plan(node) if kind == "plan" else _retriever(node))
    async with AsyncExitStack() as stack:
        pool = await _pool(config, stack) if real else None
        if kind == "tool":
            return await _tool(node, pool)
        return await _env(config, pool)


async def _pool(config: RunConfig, stack: AsyncExitStack) -> SandboxPool | None:
    """The configured sandbox, opened; None, with a warning, where this machine has none."""
    from agentrl.plugins import build

    try:
        pool = build("sandbox", config.sandbox)
        await pool.open()
    except SetupError as error:
        click.echo(f"warning: tools get a fake sandbox here: {error}", err=True)
        return None
    stack.push_async_callback(pool.close)
    return pool


async def _tool(node: Plugin, pool: SandboxPool | None) -> Sequence[CheckResult]:
    from agentrl.plugins import build_tool
    from agentrl.testing import check_tool
    from agentrl.toolset import Toolset

    def make() -> Tool:
        made = build_tool(node)
        if isinstance(made, Toolset):
            raise UserError(
                f"{node.name} is a set of tools, known only once it is asked; check a tool of it by "
                "`package.module:Attr`"
            )
        return made

    make()
    return await check_tool(make, pool=pool)


async def _plan(node: Plugin) -> Sequence[CheckResult]:
    from agentrl.plugins import build
    from agentrl.testing import check_plan

    return await check_plan(lambda renderer: build("plan", node, group_size=4, renderer=renderer))


async def _retriever(node: Plugin) -> Sequence[CheckResult]:
    from agentrl.plugins import accepts, build, maker
    from agentrl.testing import check_retriever

    if "corpus" not in node.given and accepts("retriever", node.name, "passages"):
        return await check_retriever(over=lambda found: build("retriever", node, passages=found))
    make = maker("retriever", node)
    await make().close()  # what is wrong with its options is said once
    return await check_retriever(make)


async def _env(config: RunConfig, pool: SandboxPool | None) -> Sequence[CheckResult]:
    from agentrl.testing import check_env
    from agentrl.train.setup import env_factory, eval_tasks

    make_env = env_factory(config.env)
    from_file = config.data.path is not None or config.eval.path is not None
    tasks = eval_tasks(config, make_env())[:20] if from_file else ()
    return await check_env(make_env, tasks=tasks, pool=pool, max_turns=config.env.max_turns)


async def _sandbox(config: RunConfig, *, as_json: bool) -> Sequence[CheckResult]:
    """Shows each result when it is known, in whatever order the cases end."""
    from agentrl.plugins import maker
    from agentrl.sandbox import SandboxLimits
    from agentrl.testing import check_sandbox

    given = config.sandbox.given.get("limits")
    limits = TypeAdapter(SandboxLimits).validate_python({} if given is None else given)
    try:
        return await check_sandbox(
            maker("sandbox", config.sandbox),
            name=config.sandbox.name,
            limits=limits,
            told=lambda result: _show(result, as_json),
        )
    except ExceptionGroup as group:
        raise sole_cause(group) from None  # such as a closed pipe while results are shown


async def _engine(config: RunConfig) -> Sequence[CheckResult]:
    from agentrl.model_path import model_path
    from agentrl.testing import check_engine
    from agentrl.train.setup import env_factory, make_engine, open_chat
    from agentrl.transcript import ids_array

    env = env_factory(config.env)()
    chat = open_chat(config, env)
    prompt = ids_array(chat.tokenizer.encode("What is 2 + 3?"))
    if not len(prompt):
        raise UserError(f"the tokenizer of {config.model.path} encodes a question as nothing")

    def make() -> Any:
        return make_engine(config, chat, model_path(config.model.path))

    tolerance = 1e-3 if config.model.dtype == "float32" else 0.1
    return await check_engine(
        make,
        prompt,
        tolerance=tolerance,
        deterministic=config.train.deterministic is not False,
    )
