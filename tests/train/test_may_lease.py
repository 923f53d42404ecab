"""A sandbox is opened only for environments whose episodes may need one."""

from __future__ import annotations

import pytest

from agentrl.compose import compose
from agentrl.train.setup import env_factory, make_pool


@pytest.mark.parametrize(
    ("words", "opened"),
    [
        (("env=retool_math",), True),
        (("env=retool_math", "env.tools=none"), False),
        (("env=search_qa",), False),
        (("env=memory_qa",), False),
        (("env=sql_qa",), True),
        (("env=code_tests", "env.tools=none"), True),
        (("env=toolbox", "env.tools=[calculator]"), False),
        (("env=toolbox", "env.tools=[calculator, shell]"), True),
    ],
)
def test_by_what_its_tools_say(words: tuple[str, ...], opened: bool):
    config = compose(words)
    assert (make_pool(config, env_factory(config.env)()) is not None) == opened
