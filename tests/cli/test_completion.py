"""Completion of `key=value` words, as bash cuts them and as zsh and fish hand them over."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from agentrl.cli.main import COMMANDS, cli
from agentrl.cli.words import keys, values_of


def completions(args: list[str], incomplete: str) -> list[str]:
    shell = ShellComplete(cli, {}, "agentrl", "_AGENTRL_COMPLETE")
    return [item.value for item in shell.get_completions(args, incomplete)]


def test_commands_complete():
    assert completions([], "tr") == ["train"]
    assert set(completions([], "")) >= set(COMMANDS)


@pytest.mark.parametrize("command", ["train", "eval", "sft", "config"])
def test_zsh_and_fish_hand_over_the_whole_word(command: str):
    assert completions([command], "env=ret") == ["env=retool_math"]


def test_bash_cuts_words_at_the_equals_sign():
    assert completions(["train", "env", "="], "ret") == ["retool_math"]
    assert "retool_math" in completions(["train", "env"], "=")
    assert completions(["train", "seed", "=", "3", "env", "="], "ret") == ["retool_math"]


def test_keys_complete_with_an_equals_sign():
    assert completions(["train"], "train.ste") == ["train.steps="]
    assert {"env=", "engine=", "eval.every="} <= set(completions(["train"], "e"))
    assert completions(["train"], "reci") == ["recipe="]


def test_values_come_from_types_and_plugins():
    assert values_of("train.deterministic") == ["false", "true"]
    assert values_of("model.dtype") == ["float32", "bfloat16"]
    assert {"none", "local"} <= set(values_of("sandbox"))
    assert values_of("train.steps") == []
    assert len(keys()) == len(set(keys()))


def test_files_are_left_to_the_shell():
    shell = ShellComplete(cli, {}, "agentrl", "_AGENTRL_COMPLETE")
    (item,) = shell.get_completions(["train"], "@ru")
    assert item.type == "file"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_real_bash_asks_and_is_answered():
    """The variables that bash's programmable completion sets for `agentrl train env=ret<TAB>`."""
    words = {"COMP_WORDS": "agentrl train env = ret", "COMP_CWORD": "4"}
    asked = {**os.environ, **words, "_AGENTRL_COMPLETE": "bash_complete"}
    code = "import sys; sys.argv[0] = 'agentrl'; from agentrl.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=asked, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["plain,retool_math"]
    assert done.stderr == ""
