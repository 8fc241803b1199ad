"""check_data and the disjointness of roles: what is refused, what is warned of, what passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekit.errors import DataError
from edgekit.sources.arrays import Data, Role, make_data
from edgekit.sources.checks import check_data
from edgekit.sources.splits import check_disjoint, check_sources, hold_back, split_calibration
from edgekit.types import ModelSpec, TensorSpec

RNG = np.random.default_rng(0)


def _spec(dtype: str = "float32", task: Any = "classification") -> ModelSpec:
    return ModelSpec(
        name="net",
        source="net.py:net",
        sha256="0" * 64,
        inputs=(TensorSpec(name="image", shape=(1, 3, 8, 6), dtype=dtype, layout="NCHW"),),
        outputs=(TensorSpec(name="output", shape=(1, 5), dtype="float32"),),
        task=task,
    )


def _data(x: Any = None, y: Any = None, role: Role = "calib", source: str = "d") -> Data:
    x = RNG.normal(size=(10, 3, 8, 6)) if x is None else x
    return make_data(role, [np.asarray(x)], y, source=source)


def test_fitting_data_passes_without_a_word() -> None:
    assert check_data(_data(y=np.arange(10) % 5), _spec(), reference=_data(role="eval")) == []


SHAPES = {
    "channels last": (
        (10, 8, 6, 3),
        r"\(8, 6, 3\) but the model takes \(3, 8, 6\): that is channels-last",
        "(2, 0, 1)",
    ),
    "batch axis": ((10, 1, 3, 8, 6), "batch axis", "single samples"),
    "axes turned": ((10, 3, 6, 8), "another order", "(0, 2, 1)"),
    "other size": ((10, 3, 9, 6), r"\(3, 9, 6\) but the model takes \(3, 8, 6\)", "--input-shape"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes(case: str) -> None:
    shape, message, hint = SHAPES[case]
    with pytest.raises(DataError, match=message) as caught:
        check_data(_data(RNG.normal(size=shape)), _spec())
    assert hint in str(caught.value.hint)


def test_dtypes() -> None:
    with pytest.raises(DataError, match="are uint8 but input 'image' takes float32"):
        check_data(_data(np.ones((2, 3, 8, 6), np.uint8)), _spec())
    with pytest.raises(DataError, match="are float32 but input 'image' takes int64"):
        check_data(_data(), _spec("int64"))


def test_nan_names_the_first_bad_sample() -> None:
    x = RNG.normal(size=(10, 3, 8, 6))
    x[4, 0, 0, 0], x[7, 1, 1, 1] = np.nan, np.inf
    with pytest.raises(DataError, match=r"2 of 10 samples of d hold NaN.*the first is sample 4"):
        check_data(_data(x), _spec())


def test_labels() -> None:
    y = np.arange(10) % 5
    y[6] = 5
    with pytest.raises(DataError, match=r"label 5 of sample 6 of d is outside 0..4.*\(1 such"):
        check_data(_data(y=y), _spec())
    with pytest.raises(DataError, match="has no labels, and accuracy needs them"):
        check_data(_data(role="eval"), _spec())
    assert check_data(_data(role="eval"), _spec(task="generic")) == []


def test_raw_pixels_are_warned_of_and_a_declared_range_silences_it() -> None:
    raw = _data(RNG.integers(0, 256, size=(10, 3, 8, 6)).astype(np.float32))
    (warning,) = check_data(raw, _spec())
    assert "raw 0..255 pixels" in warning and "--input-range 0,255" in warning
    assert check_data(raw, _spec(), input_range=(0, 255)) == []
    with pytest.raises(DataError, match=r"outside the declared input range -1\.\.1"):
        check_data(raw, _spec(), input_range=(-1, 1))


def test_ranges_of_two_roles_are_compared() -> None:
    normal = _data(RNG.uniform(-1, 1, size=(10, 3, 8, 6)), role="eval", source="e")
    raw = _data(RNG.uniform(0, 255, size=(10, 3, 8, 6)))
    with pytest.raises(DataError, match=r"d \(calib\) span .* those of e \(eval\) .* not preprocessed alike"):
        check_data(raw, _spec(), reference=normal)
    half = _data(RNG.uniform(0, 1, size=(10, 3, 8, 6)))
    (warning,) = check_data(half, _spec(), reference=normal)
    assert "one has negative values and the other has none" in warning


def test_constant_data_is_warned_of() -> None:
    (warning,) = check_data(_data(np.zeros((10, 3, 8, 6))), _spec())
    assert "cannot be real data" in warning


def test_a_wrong_number_of_inputs() -> None:
    two = make_data("calib", [np.zeros((2, 3)), np.zeros((2, 3))], None, source="d")
    with pytest.raises(DataError, match="have 2 inputs, but net takes 1"):
        check_data(two, _spec())


def test_one_source_for_two_roles_is_refused_however_it_is_written(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "d.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="given for both calibration and evaluation"):
        check_sources({"calib": "d.py:a", "eval": f"{tmp_path}/d.py:a"})
    check_sources({"calib": "d.py:a", "eval": "d.py:b"})
    check_sources({"calib": "d.py:a", "eval": "d.py:a"}, allow_overlap=True)
    check_sources({"calib": "digits", "eval": "digits", "train": "digits"})


def test_shared_samples_are_dropped_or_refused() -> None:
    x = RNG.normal(size=(400, 4))
    evaluation = make_data("eval", [x[:200]], None, source="e")
    few = make_data("train", [x[198:]], None, source="t")
    result, warnings = check_disjoint({"eval": evaluation, "train": few})
    assert len(result["train"]) == 200 and len(result["eval"]) == 200
    assert not set(result["train"].ids) & set(result["eval"].ids)
    assert "2 samples" in warnings[0]
    many = make_data("calib", [x[190:250]], None, source="c")
    with pytest.raises(DataError, match="10 samples stand in both calibration data c and evaluation data e"):
        check_disjoint({"eval": evaluation, "calib": many})
    result, warnings = check_disjoint({"eval": evaluation, "calib": many}, allow_overlap=True)
    assert len(result["calib"]) == 60 and "reads too high" in warnings[0]


def test_calibration_samples_leave_the_training_data() -> None:
    x = RNG.normal(size=(50, 4))
    calib = make_data("calib", [x[:10]], None, source="c")
    rest, warnings = check_disjoint({"calib": calib, "train": make_data("train", [x], None, source="t")})
    assert len(rest["train"]) == 40 and not set(rest["train"].ids) & set(calib.ids)
    assert "10 calibration samples were dropped from the training data t" in warnings[0]


def test_training_data_that_is_all_calibration_is_refused() -> None:
    x = RNG.normal(size=(50, 4))
    sets = {
        "calib": make_data("calib", [x], None, source="c"),
        "train": make_data("train", [x], None, source="t"),
    }
    with pytest.raises(DataError, match="every training sample of t is also a calibration sample"):
        check_disjoint(sets)


def test_split_calibration_is_disjoint_seeded_and_covers_the_classes() -> None:
    labels = np.repeat(np.arange(5), [40, 40, 10, 5, 5])
    train = make_data("train", [RNG.normal(size=(100, 4))], labels, source="t")
    rest, calib = split_calibration(train, 15, seed=3)
    assert (len(rest), len(calib), calib.role, rest.role) == (85, 15, "calib", "train")
    assert set(rest.ids) | set(calib.ids) == set(train.ids) and not set(rest.ids) & set(calib.ids)
    assert np.bincount(calib.labels).tolist() == [3, 3, 3, 3, 3]
    assert split_calibration(train, 15, seed=3)[1].sha256 == calib.sha256
    assert split_calibration(train, 15, seed=4)[1].sha256 != calib.sha256
    assert hold_back(train, 5)[1].role == "train"
    with pytest.raises(DataError, match="cannot hold 100 of the 100"):
        split_calibration(train, 100)
