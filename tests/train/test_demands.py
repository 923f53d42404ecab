"""Plug-ins that cannot work together are refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agentrl.cli.main import run
from agentrl.config import RunConfig
from agentrl.errors import UserError
from agentrl.points import Need
from agentrl.train.demands import REMEDY, check_demands
from agentrl.train.dry_run import dry_run
from agentrl.train.setup import env_factory


@dataclass(frozen=True)
class Asking:
    needs: ClassVar[frozenset[Need]] = frozenset()


def asking(need: Need) -> Asking:
    return type("Asking", (Asking,), {"needs": frozenset({need})})()


PROVIDING: dict[Need, dict[str, Any]] = {
    "reference": {"learner": {"reference": True}},
    "teacher": {"learner": {"teacher": "nano"}},
    "critic": {"learner": {"critic": {"trunk": "separate"}}},
    "judge": {"algo": {"judge": {"name": "openai"}}},
    "sandbox": {"env": {"box": True}},
    "demonstrations": {"algo": {"demos": {"queue": 4}}},
    "replay": {"algo": {"replay": {"capacity": 4}}},
}


@pytest.mark.parametrize("need", PROVIDING)
def test_a_need_is_refused_until_the_named_setting_provides_it(
    dice: Callable[..., RunConfig], need: Need
) -> None:
    plain = dice()
    with pytest.raises(UserError, match=f"the aux term 'x' needs (a )?{need}: set ") as told:
        check_demands(plain, env_factory(plain.env)(), {"the aux term 'x'": asking(need)})
    assert str(told.value).endswith(REMEDY[need])
    given = dice(**PROVIDING[need])
    check_demands(given, env_factory(given.env)(), {"the aux term 'x'": asking(need)})


def test_every_need_has_a_remedy() -> None:
    assert set(PROVIDING) | {"scorer", "expert"} == set(REMEDY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algo": {"advantage": {"name": "gae"}}}, "algo.advantage needs a critic"),
        ({"learner": {"critic": {"trunk": "shared"}}}, "teaches no critic"),
        ({"algo": {"aux": [{"name": "kl", "coef": 0.1}]}}, "'kl' needs a reference"),
        ({"algo": {"reward_kl": {"coef": 0.1}}}, "algo.reward_kl needs a reference"),
        ({"algo": {"reward_kl": {"target": 0.1}}}, "give algo.reward_kl.coef"),
        ({"algo": {"demos": {"lr": 0.1}}}, "algo.demos.queue"),
    ],
)
def test_a_dry_run_says_why(
    dice: Callable[..., RunConfig], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        dry_run(dice(**changes))


def test_an_endpoint_is_refused_before_a_run_folder_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["env=retool_math", "engine=api", "engine.base_url=http://127.0.0.1:1/v1"]
    assert run(["train", *words, f"dir={tmp_path / 'made'}"]) == 2
    assert "engine=api cannot be trained" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
