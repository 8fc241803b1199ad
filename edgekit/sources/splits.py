"""Keep calibration, evaluation and training data apart."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgekit.errors import DataError
from edgekit.sources.arrays import Data, Role
from edgekit.sources.data import BUILT_IN

MAX_SHARED = 0.01
"""Share of the smaller set that may stand in both by accident (near-duplicate collections have such)."""


def check_sources(specs: Mapping[Role, str], *, allow_overlap: bool = False) -> None:
    """Refuse one source for two roles before anything is read.

    The built-in digits are the exception: they give another part for each role. Raises DataError.
    """
    seen: dict[str, Role] = {}
    for role, spec in specs.items():
        key = _canonical(spec)
        if key == BUILT_IN:
            continue
        if key in seen and not allow_overlap:
            raise DataError(
                f"{spec} is given for both {_word(seen[key])} and {_word(role)}",
                hint="accuracy measured on data that was calibrated or trained on means nothing: give two "
                "sources, or --allow-overlap if you know better",
            )
        seen[key] = role


def check_disjoint(
    datas: Mapping[Role, Data], *, allow_overlap: bool = False
) -> tuple[dict[Role, Data], list[str]]:
    """Make the sets disjoint by sample content (labels left out).

    Samples of the evaluation set that stand in another set too are dropped from that other set, when
    they are at most 1 % of the smaller one; more is refused. Calibration samples that stand in the training
    set are dropped from it. Returns the sets and one warning for each that lost samples.

    ``allow_overlap`` changes nothing but says what is shared. Raises DataError.
    """
    check_sources({role: data.source for role, data in datas.items()}, allow_overlap=allow_overlap)
    result = dict(datas)
    warnings: list[str] = []
    evaluation = datas.get("eval")
    if evaluation is None:
        return _without_calibration(result, warnings, allow_overlap)
    held = set(evaluation.ids)
    for role in ("calib", "train"):
        other = datas.get(role)
        if other is None:
            continue
        shared = [i for i, digest in enumerate(other.ids) if digest in held]
        if not shared:
            continue
        pair = f"{_word(role)} data {other.source} and evaluation data {evaluation.source}"
        if allow_overlap:
            warnings.append(f"{len(shared)} samples stand in both {pair}: accuracy reads too high")
            continue
        smaller = min(len(other), len(evaluation))
        if len(shared) > MAX_SHARED * smaller:
            raise DataError(
                f"{len(shared)} samples stand in both {pair} "
                f"(the first is sample {shared[0]} of {other.source})",
                hint="split the data so that no sample is in two parts, or give --allow-overlap",
            )
        gone = set(shared)
        result[role] = other.take([i for i in range(len(other)) if i not in gone])
        warnings.append(f"{len(shared)} samples that stand in both {pair} were dropped from the former")
    return _without_calibration(result, warnings, allow_overlap)


def _without_calibration(
    datas: dict[Role, Data], warnings: list[str], allow_overlap: bool
) -> tuple[dict[Role, Data], list[str]]:
    """Training data without the calibration samples."""
    calib, train = datas.get("calib"), datas.get("train")
    if calib is None or train is None or allow_overlap:
        return datas, warnings
    held = set(calib.ids)
    kept = [i for i, digest in enumerate(train.ids) if digest not in held]
    if len(kept) == len(train):
        return datas, warnings
    if not kept:
        raise DataError(
            f"every training sample of {train.source} is also a calibration sample",
            hint="leave --calib out: edgekit then sets some training samples aside for it",
        )
    note = f"{len(train) - len(kept)} calibration samples were dropped from the training data {train.source}"
    return {**datas, "train": train.take(kept)}, [*warnings, note]


def split_calibration(train: Data, n: int, *, seed: int = 0) -> tuple[Data, Data]:
    """Hold ``n`` training samples back for calibration: (the rest, the calibration set).

    See :func:`hold_back`. Raises DataError when that would leave no training data.
    """
    rest, held = hold_back(train, n, seed=seed)
    return rest, replace(held, role="calib")


def hold_back(data: Data, n: int, *, seed: int = 0) -> tuple[Data, Data]:
    """Split ``data`` in (the rest, ``n`` samples), both in the order of ``data``.

    Drawn with the seed, class by class in turn where there are labels, so that each class is there.
    Raises DataError when nothing would be left.
    """
    if n < 1 or n >= len(data):
        raise DataError(
            f"cannot hold {n} of the {len(data)} {_word(data.role)} samples of {data.source} back",
            hint="give more data, or a set of its own",
        )
    rng = random.Random(seed)
    order = list(range(len(data)))
    rng.shuffle(order)
    if data.labels is not None:
        taken: Counter[int] = Counter()
        ranks = {}
        for index in order:
            label = int(data.labels[index])
            ranks[index] = taken[label]
            taken[label] += 1
        order.sort(key=lambda index: ranks[index])  # stable: the shuffle decides within a rank
    chosen = set(order[:n])
    rest = [i for i in range(len(data)) if i not in chosen]
    return data.take(rest), data.take(sorted(chosen))


def _canonical(spec: str) -> str:
    """One name for one source: relative and absolute paths of a file are the same."""
    target, colon, attribute = spec.rpartition(":")
    if colon and target.endswith(".py"):
        return f"{Path(target).expanduser().resolve()}:{attribute}"
    path = Path(spec).expanduser()
    return str(path.resolve()) if path.exists() else spec


def _word(role: Role) -> str:
    return {"calib": "calibration", "eval": "evaluation", "train": "training"}[role]
