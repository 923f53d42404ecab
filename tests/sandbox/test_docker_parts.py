"""The docker sandbox's parts that need no daemon: frames, labels, options, the first program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from agentrl.errors import SandboxUnavailable, UserError
from agentrl_sandbox.docker import bundle, wire
from agentrl_sandbox.docker.channel import Channel
from agentrl_sandbox.docker.daemon import Daemon
from agentrl_sandbox.docker.pool import DockerPool
from agentrl_sandbox.owner import Owner


def test_frames_survive_any_cut() -> None:
    """Lengths 4+2 and 4+16: however the twenty-six bytes are cut, two messages come out."""
    order = b"\0\0\0\x02{}" + b"\0\0\0\x10" + b'{"code": "\\ud8"}'
    for cut in range(len(order)):
        frames = wire.Frames()
        found = [*frames.feed(order[:cut]), *frames.feed(order[cut:])]
        assert found == [b"{}", b'{"code": "\\ud8"}']
    with pytest.raises(ValueError, match="frame of"):
        list(wire.Frames().feed(b"\xff\xff\xff\xff"))


def test_lone_surrogates_survive_a_frame() -> None:
    broken: wire.Broken = {"kind": "broken", "why": "\ud800\0\U0001f980"}
    (body,) = wire.Frames().feed(wire.frame(broken))
    assert json.loads(body) == broken


@pytest.mark.parametrize("cut", range(1, 40))
def test_blocks_of_the_attach_stream(cut: int) -> None:
    """Docker's blocks and our frames overlap in any way: one message, split over two blocks, and
    seven bytes of stderr between them."""
    message = b"\0\0\0\x0d" + b'{"kind": "x"}'
    stream = (
        b"\x01\0\0\0\0\0\0\x06" + message[:6]
        + b"\x02\0\0\0\0\0\0\x07" + b"whisper"
        + b"\x01\0\0\0\0\0\0\x0b" + message[6:]
    )  # fmt: skip
    heard: list[bytes] = []
    channel = Channel(heard.append, lambda: None)
    channel.data_received(stream[:cut])
    channel.data_received(stream[cut:])
    assert heard == [b'{"kind": "x"}']
    assert channel.last_words == "whisper"


def test_owner_is_known_from_later_ones() -> None:
    me = Owner.me()
    assert Owner.from_labels(me.labels()) == me
    assert me.is_gone() is False
    assert replace(me, started="1").is_gone() is True
    assert replace(me, pid=2**22 + 1).is_gone() is True
    assert replace(me, boot="another machine").is_gone() is None
    assert Owner.from_labels({"agentrl.pid": str(os.getpid())}) is None


def test_bad_options() -> None:
    with pytest.raises(UserError, match="sessions_per_container"):
        DockerPool(sessions_per_container=0)
    with pytest.raises(UserError, match="max_sessions=0"):
        DockerPool(max_sessions=0)


def test_python_without_libraries() -> None:
    """The first program, run where site-packages are not looked at."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", bundle.PROGRAM],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "its python3 has no numpy and no sympy\n"


@pytest.mark.parametrize("host", ["ssh://somewhere", "npipe:////./pipe/docker", "https://a:1"])
def test_hosts_that_cannot_be_attached_to(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("docker")
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(UserError, match="DOCKER_HOST"):
        Daemon.connect()


def test_dead_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("docker")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(SandboxUnavailable, match="systemctl start docker"):
        Daemon.connect()
