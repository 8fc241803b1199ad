"""The settings behind ``--set key=value``: names, types, limits, defaults and what they mean."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from edgekit.errors import UserError

RUNGS = ("calibration", "equalization", "mixed", "qat", "wider")
"""The ladder that the accuracy budget climbs, in order."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key. ``parse`` turns the user's text into a value or raises ValueError with the reason."""

    parse: Callable[[str], Any]
    default: Any
    help: str


def _number(low: float, high: float, kind: type[int] | type[float] = float) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(f"must be {'an integer' if kind is int else 'a number'}") from None
        if not low <= value <= high:
            raise ValueError(f"must be between {low:g} and {high:g}")
        return value

    return parse


def _choice(*names: str) -> Callable[[str], Any]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return text

    return parse


def _flag(text: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in known:
        raise ValueError("must be true or false")
    return known[text.lower()]


def _names(text: str) -> tuple[str, ...]:
    return tuple(n.strip() for n in text.split(",") if n.strip())


def _rungs(text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    names = _names(text)
    unknown = [n for n in names if n not in RUNGS]
    if unknown or not names:
        raise ValueError(f"must be none, or some of {', '.join(RUNGS)}")
    return tuple(r for r in RUNGS if r in names)


def _several(*names: str) -> Callable[[str], Any]:
    def parse(text: str) -> tuple[str, ...]:
        found = _names(text)
        if not found or any(n not in names for n in found):
            raise ValueError(f"must be some of {', '.join(names)}, comma separated")
        return found

    return parse


def _rules(*names: str) -> Callable[[str], Any]:
    return lambda text: () if text == "none" else _several(*names)(text)


def _ratios(text: str) -> tuple[tuple[str, float], ...]:
    """ "layer1.conv=0.5,layer2.conv=0.25" as pairs."""
    return tuple(_pairs(text, _number(0.0, 0.95), "layer=ratio"))


def _pairs(text: str, parse: Callable[[str], Any], shape: str) -> list[tuple[str, Any]]:
    pairs = []
    for part in _names(text):
        name, sep, value = part.partition("=")
        if not sep or not name.strip():
            raise ValueError(f"must be {shape} pairs, comma separated")
        pairs.append((name.strip(), parse(value.strip())))
    return pairs


def _blocks(text: str) -> int | tuple[tuple[str, int], ...]:
    """ "3", or "layer1=2,layer2=1" as pairs."""
    parse = _number(0, 10_000, int)
    if "=" not in text:
        return int(parse(text))
    return tuple((name, int(count)) for name, count in _pairs(text, parse, "part=number"))


def _auto(inner: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text == "auto" else inner(text)


SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        "prune.ratio": Setting(
            parse=_auto(_number(0.0, 0.95)),
            default=None,
            help="share of channels to remove; 0 switches pruning off, auto lets the planner choose",
        ),
        "prune.ignore": Setting(parse=_names, default=(), help="layers to leave alone, comma separated"),
        "prune.importance": Setting(
            parse=_choice("l1", "l2", "random", "bn", "taylor", "activation", "fpgm"),
            default="l2",
            help="by what the least important channels are found; taylor and activation read training data",
        ),
        "prune.scope": Setting(
            parse=_choice("layer", "global", "isomorphic"),
            default="layer",
            help="whether every group loses the ratio, or the weakest channels of all or of like groups go",
        ),
        "prune.ratios": Setting(
            parse=_ratios,
            default=(),
            help="ratios of single groups, layer=ratio comma separated; 0 keeps one",
        ),
        "prune.protect": Setting(
            parse=_rules("first", "embeddings"),
            default=("embeddings",),
            help="rules for layers to leave alone: first, embeddings, none; layers of the outputs always are",
        ),
        "prune.steps": Setting(
            parse=_number(1, 100, int),
            default=1,
            help="steps of a gradual (cubic) schedule, with fine-tuning between; 1 prunes at once",
        ),
        "prune.step_epochs": Setting(
            parse=_number(1, 10_000, int), default=1, help="epochs of fine-tuning between two steps"
        ),
        "prune.bn_l1": Setting(
            parse=_number(0.0, 1.0),
            default=0.0,
            help="weight of an L1 norm on batch norm's scales in training before pruning (for importance bn)",
        ),
        "prune.bn_epochs": Setting(
            parse=_number(1, 10_000, int), default=5, help="epochs of that training before pruning"
        ),
        "depth.blocks": Setting(
            parse=_blocks,
            default=0,
            help="whole blocks to leave out, those whose absence changes the outputs least; a number, or "
            "part=number pairs comma separated (layer1=2,layer2=1)",
        ),
        "depth.remove": Setting(parse=_names, default=(), help="blocks to leave out, comma separated"),
        "depth.ignore": Setting(parse=_names, default=(), help="blocks to keep, comma separated"),
        "lowrank.energy": Setting(
            parse=_auto(_number(0.01, 0.9999)),
            default=None,
            help="share of the weights' energy that low-rank factors keep; auto leaves layers whole",
        ),
        "lowrank.budget": Setting(
            parse=_auto(_number(0.01, 0.99)),
            default=None,
            help="share of the MACs that low-rank factors may cost, in place of an energy",
        ),
        "lowrank.method": Setting(
            parse=_choice("auto", "tucker2", "spatial"),
            default="auto",
            help="how convolutions are factorised; auto takes the cheaper way for each",
        ),
        "lowrank.ignore": Setting(parse=_names, default=(), help="layers to leave whole, comma separated"),
        "sparsity.amount": Setting(
            parse=_auto(_number(0.01, 0.99)),
            default=None,
            help="share of single weights to set to zero, for a smaller download; saves no time",
        ),
        "sparsity.method": Setting(
            parse=_choice("l1", "global-l1", "random"),
            default="l1",
            help="the smallest of each layer, of all, or random ones",
        ),
        "sparsity.ignore": Setting(parse=_names, default=(), help="layers to leave dense, comma separated"),
        "finetune.epochs": Setting(
            parse=_number(1, 10_000, int), default=10, help="most epochs of fine-tuning"
        ),
        "finetune.lr": Setting(parse=_number(1e-8, 10.0), default=0.01, help="highest learning rate"),
        "finetune.batch_size": Setting(parse=_number(1, 65_536, int), default=64, help="samples per step"),
        "finetune.patience": Setting(
            parse=_number(1, 10_000, int), default=6, help="epochs without a gain before fine-tuning stops"
        ),
        "finetune.optimizer": Setting(parse=_choice("sgd", "adamw"), default="sgd", help="sgd or adamw"),
        "finetune.augment": Setting(
            parse=_choice("none", "flip", "flip-shift"),
            default="none",
            help="random changes of training images: mirrored, or mirrored and shifted",
        ),
        "finetune.precision": Setting(
            parse=_choice("float32", "bfloat16"),
            default="float32",
            help="arithmetic of training; bfloat16 is twice as fast on CPUs that have it",
        ),
        "distill.kinds": Setting(
            parse=_several("response", "hint", "rkd-distance", "rkd-angle", "similarity"),
            default=("response",),
            help="what the student takes from its teacher: outputs, features, relations of samples",
        ),
        "distill.weight": Setting(
            parse=_number(0.0, 1e4),
            default=1.0,
            help="factor of all kinds but response, beside their usual one",
        ),
        "distill.layers": Setting(
            parse=_names,
            default=(),
            help="layers to compare, student_layer:teacher_layer comma separated; none matches by shape",
        ),
        "distill.temperature": Setting(
            parse=_number(0.1, 100.0), default=4.0, help="softening of the original's outputs"
        ),
        "distill.alpha": Setting(
            parse=_number(0.0, 1.0), default=0.7, help="weight of the original's outputs against the labels"
        ),
        "qat.epochs": Setting(
            parse=_number(0, 10_000, int),
            default=0,
            help="epochs of quantisation-aware training; 0 takes post-training ranges",
        ),
        "qat.lr": Setting(
            parse=_number(1e-8, 10.0), default=0.001, help="highest learning rate of that training"
        ),
        "qat.freeze_bn": Setting(
            parse=_number(0.0, 1.0), default=0.5, help="share of it after which batch norm's statistics stay"
        ),
        "quantize.precision": Setting(
            parse=_auto(_choice("int8", "int16x8", "dynamic", "fp16", "float32")),
            default=None,
            help="precision of the file; auto lets the planner choose",
        ),
        "quantize.calibration": Setting(
            parse=_choice("auto", "all", "minmax", "moving_average", "percentile", "mse", "entropy"),
            default="auto",
            help="how activation ranges are chosen; auto measures minmax and mse, all measures every one",
        ),
        "quantize.keep": Setting(
            parse=_names,
            default=(),
            help="units that stay in float32 in an int8 file, by the names of `edgekit inspect`",
        ),
        "quantize.float_ops": Setting(
            parse=_auto(lambda text: () if text == "none" else _names(text)),
            default=None,
            help="operators that stay in float32 in an int8 .tflite file, by type (HARD_SWISH); auto takes "
            "those that the profile calls faster so, none quantises all",
        ),
        "quantize.form": Setting(
            parse=_choice("original", "equalized"),
            default="original",
            help="the float model that is quantised: as it is, or with channels brought to like ranges",
        ),
        "quantize.per_channel": Setting(
            parse=_flag, default=True, help="one weight scale per output channel"
        ),
        "quantize.io": Setting(
            parse=_auto(_choice("float", "int8")),
            default=None,
            help="type of the file's inputs and outputs; auto is float, and int8 for NNAPI",
        ),
        "search.rungs": Setting(
            parse=_rungs,
            default=RUNGS,
            help="what may be tried when int8 breaks a gate, comma separated; none switches the search off",
        ),
        "search.evaluations": Setting(
            parse=_number(1, 1000, int), default=12, help="most files that are measured on all samples"
        ),
        "search.rankings": Setting(
            parse=_number(2, 10_000, int),
            default=16,
            help="most files that are made to rank layers by what int8 costs them",
        ),
        "search.qat_epochs": Setting(
            parse=_number(1, 10_000, int),
            default=5,
            help="epochs of quantisation-aware training where a search comes to it",
        ),
        "calib.samples": Setting(
            parse=_number(1, 100_000, int), default=200, help="most calibration samples"
        ),
        "gate.min_agreement": Setting(
            parse=_number(0.0, 100.0),
            default=95.0,
            help="least share of unchanged top-1 decisions, in percent",
        ),
        "gate.min_sqnr": Setting(parse=_number(-50.0, 200.0), default=15.0, help="least output SQNR, in dB"),
    }
)


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Typed values from "key=value" texts. Raises UserError naming the nearest key or the allowed values."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, sep, text = pair.partition("=")
        key = key.strip()
        if not sep:
            raise UserError(f"--set {pair!r} is not key=value", hint="for example --set prune.ratio=0.3")
        if key not in SETTINGS:
            near = difflib.get_close_matches(key, SETTINGS, n=3, cutoff=0.4)
            raise UserError(
                f"there is no setting {key!r}",
                hint=f"did you mean {' or '.join(near)}?" if near else f"settings: {', '.join(SETTINGS)}",
            )
        try:
            values[key] = SETTINGS[key].parse(text.strip())
        except ValueError as exc:
            raise UserError(f"--set {key}={text.strip()}: {exc}", hint=SETTINGS[key].help) from exc
    return values


def parse_value(key: str, value: Any) -> Any:
    """A setting from a typed value, as a recipe has it. Raises ValueError with the reason.

    Lists stay lists of whole names: a unit's name may hold a comma.
    """
    setting = SETTINGS[key]
    if isinstance(value, list):
        if not isinstance(setting.default, tuple):
            raise ValueError("must be one value, not a list")
        if not all(isinstance(v, str) and v for v in value):
            raise ValueError("must be a list of names")
        if setting.parse is _names or (not value and not setting.default):
            return tuple(value)
        return setting.parse(",".join(value) or "none")
    if isinstance(value, bool):
        value = str(value).lower()
    return setting.parse(str(value))


def resolved(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting: the user's value where there is one, else the default."""
    return {key: chosen.get(key, s.default) for key, s in SETTINGS.items()}
