"""An agent program that knows nothing of agentrl: OpenAI's client and a Python of its own.

It reads the task that its environment names, lets the model call `python` until it answers, and ends.
With the argument `plain` it speaks HTTP by hand, which starts sooner.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import sys
import urllib.request
from typing import Any


def run(code: str, variables: dict[str, Any]) -> str:
    """What the code prints and the value of a last bare expression."""
    said = io.StringIO()
    try:
        tree = ast.parse(code)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(said):
            exec(compile(tree, "cell", "exec"), variables)
            value = None if last is None else eval(code_of(last), variables)  # noqa: S307
            if value is not None:
                print(repr(value))
    except Exception as error:  # noqa: BLE001  whatever the model's code does
        return f"FAILED {error}"
    return said.getvalue().rstrip("\n") or "(no output)"


def code_of(last: ast.Expr) -> Any:
    return compile(ast.Expression(last.value), "cell", "eval")


def with_openai(messages: list[Any], tools: list[Any]) -> Any:
    from openai import OpenAI

    with OpenAI(max_retries=0) as client:
        create = client.chat.completions.create
        found = create(model=os.environ["MODEL"], messages=messages, tools=tools)
        return found.choices[0].message.model_dump(exclude_none=True)


def by_hand(messages: list[Any], tools: list[Any]) -> Any:
    request = urllib.request.Request(
        os.environ["BASE_URL"] + "/chat/completions",
        json.dumps({"messages": messages, "tools": tools}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['API_KEY']}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["choices"][0]["message"]


def main() -> None:
    task = json.loads(os.environ["TASK"])
    ask = by_hand if sys.argv[1:] == ["plain"] else with_openai
    messages, variables = task["messages"], {}
    while True:
        message = ask(messages, task["tools"])
        messages.append(message)
        if not message.get("tool_calls"):
            return
        for call in message["tool_calls"]:
            output = run(json.loads(call["function"]["arguments"])["code"], variables)
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": output})


main()
