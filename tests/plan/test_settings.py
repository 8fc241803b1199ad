"""--set key=value: typed, limited, and never guessed."""

from __future__ import annotations

import pytest

from edgekit.errors import UserError
from edgekit.settings import SETTINGS, parse_settings, resolved


def test_values_get_their_types() -> None:
    assert parse_settings(["prune.ratio=0.3", "calib.samples=10", "quantize.per_channel=no"]) == {
        "prune.ratio": 0.3,
        "calib.samples": 10,
        "quantize.per_channel": False,
    }
    assert parse_settings([" quantize.io = int8 "]) == {"quantize.io": "int8"}
    assert parse_settings(["prune.ignore=a, b.c ,"]) == {"prune.ignore": ("a", "b.c")}


@pytest.mark.parametrize("key", ["prune.ratio", "quantize.precision"])
def test_auto_leaves_it_to_the_planner(key: str) -> None:
    assert parse_settings([f"{key}=auto"]) == {key: None}


def test_the_last_value_of_a_key_counts() -> None:
    assert parse_settings(["calib.samples=10", "calib.samples=20"]) == {"calib.samples": 20}


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("prune.ration", "prune.ratio"),
        ("quantise.precision", "quantize.precision"),
        ("epochs", "finetune.epochs"),
    ],
)
def test_an_unknown_key_names_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UserError, match=f"there is no setting '{wrong}'") as caught:
        parse_settings([f"{wrong}=1"])
    assert near in (caught.value.hint or "")


def test_a_hopeless_key_lists_all() -> None:
    with pytest.raises(UserError, match="there is no setting 'zzz'") as caught:
        parse_settings(["zzz=1"])
    assert all(key in (caught.value.hint or "") for key in SETTINGS)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("prune.ratio=1.5", "must be between 0 and 0.95"),
        ("prune.ratio=-0.1", "must be between 0 and 0.95"),
        ("prune.ratio=nan", "must be between 0 and 0.95"),
        ("prune.ratio=half", "must be a number"),
        ("prune.ratio=", "must be a number"),
        ("finetune.epochs=0", "must be between 1 and 10000"),
        ("finetune.epochs=2.5", "must be an integer"),
        ("finetune.lr=inf", "must be between 1e-08 and 10"),
        ("quantize.precision=int4", "must be one of int8, int16x8, dynamic, fp16, float32"),
        ("quantize.precision=INT8", "must be one of int8, int16x8, dynamic, fp16, float32"),
        ("quantize.per_channel=maybe", "must be true or false"),
        ("gate.min_agreement=101", "must be between 0 and 100"),
    ],
)
def test_a_value_outside_of_the_limits_is_refused(pair: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_settings([pair])
    assert f"--set {pair}: {message}" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["prune.ratio", "", "0.3"])
def test_what_is_not_a_pair_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not key=value"):
        parse_settings([text])


def test_defaults_are_values_that_a_user_could_give() -> None:
    for key, setting in SETTINGS.items():
        if setting.default is not None and not isinstance(setting.default, tuple):
            assert setting.parse(str(setting.default)) == setting.default, key
        assert setting.help
    assert resolved({}) == {key: s.default for key, s in SETTINGS.items()}
    assert resolved({"calib.samples": 3})["calib.samples"] == 3


def test_ratios_kinds_and_rules_are_parsed() -> None:
    found = parse_settings(
        [
            "prune.ratios=a.b=0.5, c=0",
            "distill.kinds=response, hint",
            "prune.protect=none",
            "lowrank.energy=0.9",
        ]
    )
    assert found == {
        "prune.ratios": (("a.b", 0.5), ("c", 0.0)),
        "distill.kinds": ("response", "hint"),
        "prune.protect": (),
        "lowrank.energy": 0.9,
    }
    for wrong in (
        "prune.ratios=a",
        "prune.ratios=a=2",
        "distill.kinds=soul",
        "distill.kinds=",
        "prune.protect=last",
    ):
        with pytest.raises(UserError, match=wrong.partition("=")[0]):
            parse_settings([wrong])
