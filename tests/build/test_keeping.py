"""quantize.keep names what is not there: told before anything is trained or quantised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekit.build import Request, Sources, build
from edgekit.build.keeping import check_kept
from edgekit.errors import UserError
from edgekit.store import Store
from edgekit.types import Scheme

UNITS = ["stem.0/conv2d", "stem.2/relu", "head/linear"]


@pytest.mark.parametrize("name", ["stem.0/conv2d", "conv2d", "stem", "head"])
def test_units_modules_and_nodes_are_names(name: str) -> None:
    check_kept(Scheme(precision="int8", overrides={name: "float32"}), UNITS, "executorch/xnnpack")


def test_another_name_is_refused_with_its_like() -> None:
    scheme = Scheme(precision="int8", overrides={"head/linaer": "float32"})
    with pytest.raises(UserError, match=r"names 'head/linaer', which the tflite/xnnpack file") as caught:
        check_kept(scheme, UNITS, "tflite/xnnpack")
    assert "head/linear" in str(caught.value.hint)


@pytest.fixture
def empty_store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.root.mkdir()
    return store


class Steps(list[str]):
    """Names of the steps that ran."""

    def __call__(self, event: Any) -> None:
        if event.kind == "step_finished":
            self.append(event.step)


def test_a_build_refuses_it_before_it_trains(
    empty_store: Store, tiny_model_dir: Path, tmp_path: Path
) -> None:
    entry = tiny_model_dir / "model.py"
    sources = Sources(
        model=f"{entry}:net", calib=f"{entry}:calib", eval=f"{entry}:eval", train=f"{entry}:train"
    )
    request = Request(
        target="onnx/cpu", settings={"quantize.keep": ("nounit",), "quantize.precision": "int8"}
    )
    ran = Steps()
    with pytest.raises(UserError, match="'nounit'"):
        build(sources, "generic_x86_64", request, out=tmp_path, store=empty_store, emit=ran)
    assert "prune" in ran, "widths first: names of units may depend on them"
    assert not {"finetune", "quantize", "convert"} & set(ran)
    assert not (tmp_path / "net").exists()


def test_and_without_training_before_it_quantises(
    empty_store: Store, tiny_model_dir: Path, tmp_path: Path
) -> None:
    entry = tiny_model_dir / "model.py"
    sources = Sources(model=f"{entry}:net", calib=f"{entry}:calib", eval=f"{entry}:eval")
    request = Request(target="onnx/cpu", settings={"quantize.keep": ("nounit",)})
    ran = Steps()
    with pytest.raises(UserError, match="'nounit'"):
        build(sources, "generic_x86_64", request, out=tmp_path, store=empty_store, emit=ran)
    assert "convert" in ran and "quantize" not in ran
