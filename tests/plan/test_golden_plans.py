"""The plan of every concrete profile in every data situation, as files that a person can read and review.

After an intended change of the planner: ``EDGEKIT_UPDATE_GOLDEN=1 pytest tests/plan``, then read the
difference. The run that renews them fails, so that it cannot pass as a test.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import Unsupported
from edgekit.plan import DataFacts, Request, make_plan
from edgekit.profiles.loader import list_profiles, load_profile
from edgekit.types import ModelSpec, to_json

GOLDEN = Path(__file__).parent / "golden"
PROFILES = sorted(p.id for p in list_profiles() if not p.abstract)


def outcome(profile: str, model: ModelSpec, data: DataFacts) -> dict[str, Any]:
    try:
        plan = make_plan(load_profile(profile), model, data, Request())
    except Unsupported as error:
        return {"unsupported": str(error), "hint": error.hint}
    return {"plan": json.loads(json.dumps(to_json(plan)))}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_plan_is_the_golden_one(profile: str, model: ModelSpec, situations: dict[str, DataFacts]) -> None:
    file = GOLDEN / f"{profile}.json"
    made = {name: outcome(profile, model, data) for name, data in situations.items()}
    if os.environ.get("EDGEKIT_UPDATE_GOLDEN") == "1":
        file.write_text(json.dumps(made, indent=1) + "\n")
        pytest.fail(f"{file.name} was renewed: read the difference, then run again without the switch")
    assert file.is_file(), "a new profile needs a golden plan: EDGEKIT_UPDATE_GOLDEN=1 pytest tests/plan"
    assert made == json.loads(file.read_text())


def test_there_is_no_golden_plan_without_a_profile() -> None:
    assert sorted(p.stem for p in GOLDEN.glob("*.json")) == PROFILES
