"""Values in and out of a file: layouts, rounding, and what lies between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekit.backends.tflite.session import (
    TFLiteSession,
    decode,
    encode,
    make_interpreter,
    to_channels_first,
    to_channels_last,
)
from edgekit.errors import StepFailed
from edgekit.types import TensorSpec


@pytest.mark.parametrize(
    ("first", "last"),
    [((1, 3, 5), (1, 5, 3)), ((1, 3, 5, 7), (1, 5, 7, 3)), ((1, 2, 3, 4, 5), (1, 3, 4, 5, 2))],
)
def test_channels_move_and_come_back(first: tuple[int, ...], last: tuple[int, ...]) -> None:
    x = np.arange(np.prod(first)).reshape(first)
    turned = to_channels_last(x)
    assert turned.shape == last and turned.flags.c_contiguous
    np.testing.assert_array_equal(np.moveaxis(x, 1, -1), turned)
    np.testing.assert_array_equal(to_channels_first(turned), x)


@pytest.mark.parametrize("shape", [(3,), (1, 10)])
def test_without_image_axes_nothing_moves(shape: tuple[int, ...]) -> None:
    x = np.zeros(shape)
    assert to_channels_last(x) is x and to_channels_first(x) is x


def spec(**facts: Any) -> TensorSpec:
    return TensorSpec(
        **{"name": "x", "shape": (1, 2), "dtype": "int8", "scale": 0.5, "zero_point": 3, **facts}
    )


def test_values_are_rounded_to_the_nearest_and_clipped() -> None:
    x = np.float32([[0.0, 0.24], [0.26, -1.0], [1e9, -1e9]])
    assert encode(x, spec()).tolist() == [[3, 3], [4, 1], [127, -128]]
    assert encode(x, spec(dtype="uint8")).tolist() == [[3, 3], [4, 1], [255, 0]]
    assert encode(x, spec(dtype="float32", scale=None)).dtype == np.float32


def test_decoding_is_the_reverse_on_the_grid() -> None:
    stored = np.arange(-128, 128, dtype=np.int8)[None]
    values = decode(stored, spec())
    assert values.dtype == np.float32 and values[0, 131] == 0.0
    np.testing.assert_array_equal(encode(values, spec()), stored)


def test_layouts_are_turned_both_ways() -> None:
    image = np.random.default_rng(0).normal(size=(1, 3, 4, 5)).astype(np.float32)
    nhwc = spec(dtype="float32", scale=None, zero_point=None, layout="NHWC", shape=(1, 4, 5, 3))
    assert encode(image, nhwc).shape == (1, 4, 5, 3)
    np.testing.assert_array_equal(decode(encode(image, nhwc), nhwc), image)
    kept = spec(dtype="float32", scale=None, zero_point=None, layout="NCHW", shape=(1, 3, 4, 5))
    np.testing.assert_array_equal(encode(image, kept), image)


def test_taps_are_the_values_between(tiny: Any) -> None:
    import torch

    session = TFLiteSession(tiny.artifact, keep_all=True)
    units = [u.name for u in tiny.backend.units(tiny.artifact)]
    taps = session.taps(tiny.samples[0], units)
    assert list(taps) == units
    for unit in tiny.backend.units(tiny.artifact):
        assert taps[unit.name].shape == unit.output_shape
    with torch.inference_mode():
        want = tiny.module.stem(torch.from_numpy(tiny.samples[0][0])).numpy()
    first = next(u.name for u in tiny.backend.units(tiny.artifact) if u.op == "CONV_2D")
    np.testing.assert_allclose(to_channels_first(taps[first]), want, atol=1e-4)
    np.testing.assert_allclose(taps[units[-1]], session.run(tiny.samples[0])[0], atol=1e-5)


def test_taps_of_an_int8_file_are_near_the_float_ones(tiny: Any, int8_file: Any) -> None:
    units = [u.name for u in tiny.backend.units(int8_file)]
    want = TFLiteSession(tiny.artifact, keep_all=True).taps(
        tiny.samples[0], [u.name for u in tiny.backend.units(tiny.artifact)]
    )
    got = TFLiteSession(int8_file, keep_all=True).taps(tiny.samples[0], units)
    for reference, value in zip(want.values(), got.values(), strict=True):
        assert value.dtype == np.float32
        assert np.abs(value - reference).max() < 0.1 * np.abs(reference).max()


def test_taps_need_a_session_that_keeps_them(tiny: Any) -> None:
    with pytest.raises(ValueError, match="keep_all"):
        TFLiteSession(tiny.artifact).taps(tiny.samples[0], [])


def test_the_plain_kernels_and_the_delegate_agree(tiny: Any, int8_file: Any) -> None:
    for artifact, tolerance in ((tiny.artifact, 1e-5), (int8_file, 0.1)):
        (fast,) = TFLiteSession(artifact).run(tiny.samples[3])
        (plain,) = TFLiteSession(artifact, keep_all=True).run(tiny.samples[3])
        np.testing.assert_allclose(fast, plain, atol=tolerance * np.abs(plain).max())


def test_a_file_that_does_not_load_is_a_clear_error(tmp_path: Any) -> None:
    (tmp_path / "broken.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    with pytest.raises(StepFailed, match=r"LiteRT cannot load broken\.tflite"):
        make_interpreter(tmp_path / "broken.tflite")
