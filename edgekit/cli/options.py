"""Options that `build` and `plan` share, and what they are parsed to."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_INPUT_DTYPES = ("float32", "int64", "int32")


class _Finite(click.FloatRange):
    """A number within limits; nan is within any limits for click, since it compares with none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


_OPTIONS = [
    click.argument("model", required=False),
    click.option("--profile", metavar="NAME|FILE", help="Device profile (`edgekit profiles list`)."),
    click.option(
        "--recipe",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="recipe.toml of an earlier build: its wishes and settings, where the command line has none.",
    ),
    click.option(
        "--target",
        default="preferred",
        show_default=True,
        metavar="RUNTIME|auto|all",
        help="Runtime to build for, such as tflite or onnx/tensorrt; preferred is the profile's first that "
        "works, auto builds all and keeps the fastest that passes the gates, all keeps every one.",
    ),
    click.option(
        "--weights",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Weights for MODEL: safetensors, or a torch file of tensors.",
    ),
    click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        metavar="1,3,224,224",
        help="Shape of an input, batch first; once for each input. Token ids and other indices: 1,16:int64.",
    ),
    click.option("--calib", metavar="SRC", help="Calibration data for int8; labels are not used."),
    click.option("--eval", "evaluation", metavar="SRC", help="Labelled data on which accuracy is measured."),
    click.option("--train", metavar="SRC", help="Training data: allows pruning with fine-tuning."),
    click.option(
        "--teacher",
        metavar="MODEL",
        help="Model that fine-tuning learns from; without it the original. Needs --train.",
    ),
    click.option(
        "--student",
        metavar="MODEL",
        help="Model to train and ship in place of MODEL, which it is taught by and compared with. "
        "Needs --train.",
    ),
    click.option("--max-drop", type=_Finite(0, 100), metavar="POINTS", help="Accuracy that may be lost."),
    click.option(
        "--max-size",
        type=_Finite(0, min_open=True),
        metavar="MB",
        help="Largest model file. With --train, layers are narrowed until it fits.",
    ),
    click.option(
        "--latency",
        type=_Finite(0, min_open=True),
        metavar="MS",
        help="Most milliseconds for one inference: measured over --device, else estimated. With --train, "
        "layers are narrowed until it holds.",
    ),
    click.option(
        "--speedup",
        type=_Finite(0, min_open=True),
        metavar="X",
        help="How many times faster than the float32 original: by latency over --device, by instructions on "
        "the emulator. With --train, layers are narrowed until it holds.",
    ),
    click.option(
        "--time-budget",
        type=_Finite(0, min_open=True),
        metavar="MINUTES",
        help="Most time for searches and what they train; the best that was found until then is taken.",
    ),
    click.option("--task", type=click.Choice(["classification", "generic"]), help="What the output means."),
    click.option("--input-range", metavar="LO,HI", help="Values that inputs may take; others are refused."),
    click.option(
        "--pixel-scale",
        type=_Finite(0, min_open=True),
        metavar="255",
        help="Image folders: divide pixels by this.",
    ),
    click.option("--mean", metavar="R,G,B", help="Image folders: subtract after scaling, per channel."),
    click.option("--std", metavar="R,G,B", help="Image folders: divide by after subtracting, per channel."),
    click.option("--keep-nchw", is_flag=True, help="Keep the model's channels-first input in the file."),
    click.option(
        "--int8-io", is_flag=True, help="Integer inputs and outputs (same as --set quantize.io=int8)."
    ),
    click.option(
        "--allow-overlap", is_flag=True, help="Let calibration, evaluation and training data share samples."
    ),
    click.option(
        "--device",
        metavar="LINK",
        help="Where to measure: emulator, local, ssh:[user@]host[:port] or adb:SERIAL; without it the "
        "emulator if the profile has one.",
    ),
    click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting, such as prune.ratio=0.3."
    ),
    click.option(
        "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random."
    ),
]

SOURCES_HELP = """\
MODEL is file.py:callable, package.module:callable, model.pt2, a TorchScript .pt or model.onnx; without it
the built-in demo is built. SRC is file.py:callable (a Dataset or iterable of (x, y)), a folder of images by
class, data.npz with x and y, or digits.
"""


def build_options(function: F) -> F:
    """Add the shared arguments and options to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def _finite(text: str) -> tuple[float, ...]:
    """Comma separated numbers. Raises ValueError for anything else, nan and infinity included."""
    values = tuple(float(part) for part in text.split(","))
    if not all(map(math.isfinite, values)):
        raise ValueError(text)
    return values


def parse_shape(text: str) -> tuple[int, ...]:
    """ "1,3,32,32" as a shape; "1x3x32x32" too. A type behind it is checked and left out."""
    return parse_input(text)[0]


def parse_input(text: str) -> tuple[tuple[int, ...], str | None]:
    """ "1,16:int64" as a shape and a type; None for the type where none is given."""
    dimensions, colon, dtype = text.partition(":")
    if colon and dtype not in _INPUT_DTYPES:
        raise click.BadParameter(
            f"{text!r}: the type is one of {', '.join(_INPUT_DTYPES)}", param_hint="--input-shape"
        )
    try:
        shape = tuple(int(part) for part in dimensions.replace("x", ",").split(","))
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a shape such as 1,3,224,224", param_hint="--input-shape"
        ) from None
    if not shape or min(shape) < 1:
        raise click.BadParameter(f"{text!r}: every dimension must be at least 1", param_hint="--input-shape")
    return shape, dtype or None


def parse_range(text: str | None) -> tuple[float, float] | None:
    """ "0,1" as (0.0, 1.0)."""
    if text is None:
        return None
    try:
        low, high = _finite(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a range such as 0,1", param_hint="--input-range") from None
    if low >= high:
        raise click.BadParameter(f"{text!r}: the first value must be smaller", param_hint="--input-range")
    return low, high


def parse_preprocessing(options: dict[str, Any]) -> Any:
    """Preprocessing of image folders, or None when no option names any."""
    from edgekit.types import Preprocessing

    scale, mean, std = options["pixel_scale"], options["mean"], options["std"]
    if scale is None and mean is None and std is None:
        return None
    return Preprocessing(scale=scale, mean=_per_channel("--mean", mean), std=_per_channel("--std", std))


def _per_channel(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        values = _finite(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list such as 0.5,0.5,0.5", param_hint=option) from None
    if option == "--std" and any(v <= 0 for v in values):
        raise click.BadParameter(f"{text!r}: every value must be greater than 0", param_hint=option)
    return values


def with_recipe(options: dict[str, Any]) -> dict[str, Any]:
    """The options with a recipe's values where the command line has none.

    Raises click's MissingParameter when neither names a profile.
    """
    from edgekit.recipe import Recipe, load_recipe

    path = options.pop("recipe")
    recipe = Recipe() if path is None else load_recipe(path)
    context = click.get_current_context()

    def given(name: str) -> bool:
        return context.get_parameter_source(name) not in (None, click.core.ParameterSource.DEFAULT)

    filled = dict(options)
    for name in ("profile", "target", "seed", "max_drop", "speedup", "keep_nchw"):
        value = getattr(recipe, name)
        if value is not None and not given(name):
            filled[name] = value
    if recipe.latency_ms is not None and not given("latency"):
        filled["latency"] = recipe.latency_ms
    if recipe.max_size_bytes is not None and not given("max_size"):
        filled["max_size"] = recipe.max_size_bytes / 1_000_000
    if filled["profile"] is None:
        raise click.MissingParameter(param_hint="'--profile'", param_type="option")
    return filled | {"recipe_settings": dict(recipe.settings)}


def to_request(options: dict[str, Any]) -> tuple[Any, Any]:
    """(Sources, Request) from the options, with a recipe's settings below those of the command line."""
    from edgekit.build import Request, Sources
    from edgekit.settings import parse_settings

    settings = options.get("recipe_settings", {}) | parse_settings(options["settings"])
    if options["int8_io"]:
        settings["quantize.io"] = "int8"
    size = options["max_size"]
    sources = Sources(
        model=options["model"],
        weights=options["weights"],
        input_shapes=tuple(parse_shape(s) for s in options["input_shapes"]) or None,
        input_dtypes=tuple(parse_input(s)[1] for s in options["input_shapes"]) or None,
        calib=options["calib"],
        eval=options["evaluation"],
        train=options["train"],
        task=options["task"],
        input_range=parse_range(options["input_range"]),
        preprocessing=parse_preprocessing(options),
        allow_overlap=options["allow_overlap"],
    )
    request = Request(
        target=options["target"],
        max_drop=options["max_drop"],
        max_size_bytes=None if size is None else round(size * 1_000_000),
        latency_ms=options["latency"],
        speedup=options["speedup"],
        device=options["device"],
        time_budget_minutes=options["time_budget"],
        keep_nchw=options["keep_nchw"],
        teacher=options["teacher"],
        student=options["student"],
        settings=settings,
    )
    return sources, request
