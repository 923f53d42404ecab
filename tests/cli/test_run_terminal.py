"""`agentrl run` in a real terminal: streaming, prompts, Ctrl-C, and leaving."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux"),
    pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux"),
]
SLEEP = '<tool_call>{"name": "python", "arguments": {"code": "import time; time.sleep(60)"}}</tool_call>'


class Terminal:
    """One tmux window of its own server."""

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket)

    def tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, *words], capture_output=True, text=True, timeout=30
        )
        return done.stdout

    def start(self, *words: str) -> None:
        program = f"{sys.executable} -m agentrl.cli run {' '.join(words)}; echo left with $?"
        environment = f"OMP_NUM_THREADS=1 PATH={os.environ['PATH']}"
        shell = f"{environment} sh -c 'trap : INT; {program}; sleep 100'"
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "50", shell)

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-l", text)
        self.tmux("send-keys", "Enter")

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def wait(self, text: str, seconds: float = 60) -> str:
        """The screen once it shows `text`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if text in (shown := self.screen()):
                return shown
            time.sleep(0.1)
        raise AssertionError(f"no {text!r} on the screen:\n{self.screen()}")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path / "tmux")
    yield made
    made.tmux("kill-server")


def test_a_call_is_interrupted_and_the_conversation_goes_on(terminal: Terminal):
    terminal.start("tools=python", "player=me")
    terminal.wait("you>")
    terminal.type("hello")
    terminal.wait("act>")
    terminal.type(SLEEP)
    time.sleep(1)
    terminal.tmux("send-keys", "C-c")
    terminal.wait("The user interrupted this call.")
    terminal.type("stopped")
    terminal.wait("you>")
    terminal.tmux("send-keys", "C-c")
    terminal.wait("(/quit leaves)")
    terminal.type("/quit")
    shown = terminal.wait("left with 0")
    assert "2 turns, 1 calls" in shown


def test_the_policy_plays(terminal: Terminal):
    terminal.start("env=retool_math", "-n", "1")
    shown = terminal.wait("left with 0")
    assert "ended: terminated" in shown
    assert "tokens, " in shown


def test_help_at_the_prompt(terminal: Terminal):
    terminal.start("env=retool_math", "player=me")
    terminal.wait("act>")
    terminal.type("/nonsense")
    shown = terminal.wait("/undo")
    assert "take the last turn back" in shown
    terminal.tmux("send-keys", "C-d")
    terminal.wait("left with 0")
