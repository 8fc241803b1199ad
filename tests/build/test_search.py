"""Builds that search: a gate that int8 breaks, and the recipe that repeats what was found."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.build import Request, Sources, build
from edgekit.recipe import load_recipe
from edgekit.store import Store


@pytest.fixture(scope="module")
def searched(tiny_build: Any, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Built without labels, with an SQNR 6 dB above what int8 gives: only a search holds it."""
    entry = tiny_model_dir / "model.py"
    sources = Sources(model=f"{entry}:net", calib=f"{entry}:calib_unlabelled")
    return _Searched(sources, tiny_build.store, tmp_path_factory.mktemp("searched"))


class _Searched:
    def __init__(self, sources: Sources, store: Store, folder: Path) -> None:
        self.sources, self.store, self.folder = sources, store, folder
        self.plain = self.run("plain", **{"gate.min_sqnr": 5.0})
        self.sqnr = next(g for g in self.plain.report["gates"] if g["name"] == "output_sqnr")["measured"]
        self.wanted = self.sqnr + 6.0
        self.built = self.run("found", **{"gate.min_sqnr": self.wanted})

    def run(self, name: str, *, store: Store | None = None, **settings: Any) -> Any:
        return build(
            self.sources,
            "pi4",
            Request(settings=settings),
            out=self.folder / name,
            store=store or self.store,
        )


def points(built: Any) -> list[dict[str, Any]]:
    return list(built.report["search"]["points"])


def test_an_int8_file_that_holds_is_taken_without_a_search(searched: Any) -> None:
    assert searched.plain.status == "ok" and searched.plain.report["search"] is None


def test_a_broken_gate_is_mended_by_the_cheapest_point_that_holds(searched: Any) -> None:
    report = searched.built.report
    assert searched.built.status == "ok", report["gates"]
    found = points(searched.built)
    assert found[0]["rung"] == "int8" and not found[0]["passed"]
    assert len(found) <= report["search"]["evaluations"] <= 12
    (chosen,) = (p for p in found if p["chosen"])
    assert chosen["passed"] and chosen["sqnr_db"] >= searched.wanted
    assert chosen["cost"] == min(p["cost"] for p in found if p["passed"])
    gate = next(g for g in report["gates"] if g["name"] == "output_sqnr")
    assert gate["measured"] == pytest.approx(chosen["sqnr_db"])


def test_the_report_and_the_file_are_those_of_the_chosen_point(searched: Any) -> None:
    report = searched.built.report
    (chosen,) = (p for p in points(searched.built) if p["chosen"])
    assert report["size"]["final_bytes"] == chosen["bytes"]
    kept = {u["name"] for u in report["units"] if u["precision"] == "float32"}
    assert set(chosen["kept"]) <= kept
    page = (searched.built.folder / "report.html").read_text()
    assert 'id="search"' in page and "scatter" in page and chosen["note"] in page


def test_the_recipe_repeats_the_build_to_the_bit(
    searched: Any, fresh_store: Callable[[], Store], tmp_path: Path
) -> None:
    recipe = load_recipe(searched.built.folder / "recipe.toml")
    assert recipe.settings["search.rungs"] == ()
    again = build(
        searched.sources,
        str(recipe.profile),
        Request(target=str(recipe.target), settings=recipe.settings),
        seed=int(recipe.seed or 0),
        out=tmp_path,
        store=fresh_store(),
    )
    assert again.report["search"] is None and again.status == "ok"
    model = "bundle/model.tflite"
    assert (again.folder / model).read_bytes() == (searched.built.folder / model).read_bytes()


def test_mixed_precision_alone_keeps_some_layers(searched: Any) -> None:
    built = searched.run("mixed", **{"gate.min_sqnr": searched.sqnr + 1.0, "search.rungs": ("mixed",)})
    mixed = [p for p in points(built) if p["rung"] == "mixed"]
    assert mixed and all(p["kept"] and p["sqnr_db"] > searched.sqnr - 3 for p in mixed)
    ranking = built.report["search"]["ranking"]
    assert [r["gain"] for r in ranking] == sorted((r["gain"] for r in ranking), reverse=True)
    if built.status == "ok":
        share = next(g for g in built.report["gates"] if g["name"] == "int8_share")
        assert share["limit"] < 90 and share["passed"]


def test_without_a_search_the_gate_fails_and_the_file_is_kept(searched: Any) -> None:
    built = searched.run("none", **{"gate.min_sqnr": searched.wanted, "search.rungs": ()})
    assert built.status == "gate_failed" and built.report["search"] is None
    assert (built.folder / "bundle" / "model.tflite").is_file()
    assert any("search.rungs=none" in r["reason"] for r in built.report["plan"]["rejected"])


def test_a_precision_that_was_set_stays(searched: Any) -> None:
    settings = {"gate.min_sqnr": 120.0, "quantize.precision": "int8"}
    built = searched.run("fixed", **settings)
    assert built.status == "gate_failed"
    assert {p["precision"] for p in points(built)} == {"int8"} and not any(p["kept"] for p in points(built))
    assert "candidate" in built.report["search"]["reason"]


def test_a_wider_file_with_float_inputs_has_a_recipe_that_can_be_built(searched: Any) -> None:
    settings = {"gate.min_sqnr": searched.wanted, "search.rungs": ("wider",), "quantize.io": "int8"}
    built = searched.run("wider", **settings)
    (chosen,) = (p for p in points(built) if p["chosen"])
    found = load_recipe(built.folder / "recipe.toml").settings
    assert chosen["rung"] == "wider" and found["quantize.precision"] == chosen["precision"]
    assert found["quantize.io"] == "float", "int8 inputs need int8 precision"


def test_equalised_channels_that_were_set_stay_in_the_recipe(searched: Any) -> None:
    settings = {
        "gate.min_sqnr": 120.0,
        "quantize.form": "equalized",
        "quantize.precision": "int8",
        "search.rungs": ("calibration",),
    }
    built = searched.run("equalized", **settings)
    assert {p["form"] for p in points(built)} == {"equalized"}
    assert load_recipe(built.folder / "recipe.toml").settings["quantize.form"] == "equalized"


def test_every_build_writes_a_recipe(tiny_build: Any) -> None:
    data = tomllib.loads((tiny_build.built.folder / "recipe.toml").read_text())
    assert data["profile"] == "pi4" and data["target"] == "tflite/xnnpack" and data["seed"] == 0
    assert data["settings"]["calib.samples"] == 200


def test_each_conversion_is_reported_with_its_own_file() -> None:
    from types import SimpleNamespace

    from edgekit.build.reporting import Made
    from edgekit.build.runner import Outcome

    def file(sha256: str) -> dict[str, Any]:
        return {"sha256": sha256, "format": "tflite", "precision": "float32", "bytes": 8}

    results = {
        "convert": {"artifact": file("aa")},
        "convert compressed": {"artifact": file("bb")},
        "convert equalized": {"artifact": file("cc")},
        "verify": {},
    }
    outcomes = [
        Outcome(name=name, result=result, cached=False, seconds=1.0, peak_rss_bytes=1)
        for name, result in results.items()
    ]
    made = SimpleNamespace(final=file("dd"), final_stage="quantize chosen")
    stages = Made.stages(made, outcomes)  # type: ignore[arg-type]
    assert [s["artifact"] and s["artifact"]["sha256"] for s in stages] == ["aa", "bb", "cc", None]
