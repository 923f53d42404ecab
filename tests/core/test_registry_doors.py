"""Three doors, one order, and help for whoever knocks at the wrong one."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from agentrl import registry
from agentrl.errors import SetupError, UserError


@pytest.fixture(autouse=True)
def _own_registrations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def fake_entries(monkeypatch: pytest.MonkeyPatch, **entries: str) -> None:
    made = {name: EntryPoint(name, value, "agentrl.tools") for name, value in entries.items()}
    monkeypatch.setattr(registry, "_group", lambda group: made)


def test_register_comes_before_entry_points(monkeypatch: pytest.MonkeyPatch):
    fake_entries(monkeypatch, both="json:loads", entry="json:dumps")
    registry.register("tool", "both", dict)
    assert registry.resolve("tool", "both") is dict
    import json

    assert registry.resolve("tool", "entry") is json.dumps
    assert registry.names("tool") == ("both", "entry")


def test_a_literal_needs_no_registration(tmp_path: Path):
    from json import loads

    assert registry.resolve("tool", "json:loads") is loads
    plugin = tmp_path / "my_plugin.py"
    plugin.write_text("def made():\n    return 7\n")
    assert registry.resolve("reward", f"{plugin}:made")() == 7


def test_an_unknown_name_gets_the_nearest_match(monkeypatch: pytest.MonkeyPatch):
    fake_entries(monkeypatch, search="json:loads", python="json:loads")
    with pytest.raises(UserError, match="no tool named 'serch'; did you mean 'search'"):
        registry.resolve("tool", "serch")
    with pytest.raises(UserError, match=r"known: python, search\. Looked in .* agentrl\.tools"):
        registry.resolve("tool", "zzzzz")


@pytest.mark.parametrize(
    ("literal", "told"),
    [
        ("json:nothing", "json has no attribute 'nothing'"),
        ("no_such_file.py:made", "there is no file no_such_file.py"),
    ],
)
def test_a_wrong_literal_is_the_user_s_mistake(literal: str, told: str):
    with pytest.raises(UserError, match=told):
        registry.resolve("tool", literal)


def test_a_broken_plugin_is_listed_with_its_error(monkeypatch: pytest.MonkeyPatch):
    fake_entries(monkeypatch, broken="no_such_package:thing", fine="json:loads")
    broken, fine = registry.listing("tool")
    assert (broken.name, broken.summary) == ("broken", "")
    assert broken.error is not None
    assert "ModuleNotFoundError: No module named 'no_such_package'" in broken.error
    assert fine.error is None
    assert fine.summary.startswith("Deserialize")
    with pytest.raises(SetupError, match="tool 'broken' cannot be loaded"):
        registry.resolve("tool", "broken")


def test_an_unknown_kind_names_the_kinds():
    with pytest.raises(UserError, match="no kind 'tols' of plug-in; kinds: tool, env"):
        registry.names("tols")
