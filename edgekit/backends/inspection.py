"""What a model file of any format is made of, as `edgekit inspect` shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from edgekit.backends import RUNTIME_OF, Backend, get_backend
from edgekit.profiles.schema import DELEGATES, Runtime, Target
from edgekit.types import Artifact, OpCoverage, Scheme, to_json

_UNKNOWN = "unknown"
"""``Unit.precision`` of a part of the file that holds operators of its own, in a form of a delegate's."""


def inspect_artifact(artifact: Artifact) -> dict[str, Any]:
    """JSON data: signature, totals, and per unit its precision, cost and which delegate takes it.

    ``delegates`` of a unit has, for each delegate of the runtime, None where it takes the unit and else
    the reason; ``delegates`` at the top how many operators each takes and ``complaints``, what in the file
    is against its rules. ``not_taken`` has by delegate {"index", "op", "reason"} of every operator, those
    included that are no units. ``partitions`` (TFLite only) has the first and last operator of each.
    ``int8_share`` and ``macs`` are None where the file does not tell what a delegate computes (ExecuTorch).
    Raises what the backend raises for a file that it cannot read.
    """
    runtime = RUNTIME_OF[artifact.format]
    backend = get_backend(runtime)
    covered = {d: backend.coverage(artifact, _target(backend, d, artifact)) for d in _delegates(backend)}
    data = _tflite(artifact) if runtime == "tflite" else _any(backend, artifact, covered)
    not_taken = {
        d: [{"index": c.index, "op": c.op, "reason": c.reason} for c in found if not c.accelerated]
        for d, found in covered.items()
    }
    return {
        "format": artifact.format,
        "runtime": runtime,
        "precision": artifact.precision,
        **data,
        "not_taken": not_taken,
    }


def refusals(inspected: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Why delegates do not take operators: {"delegate", "reason", "ops": {op: [indices]}}, by delegate."""
    found: dict[tuple[str, str], dict[str, list[int]]] = {}
    for delegate, operators in inspected["not_taken"].items():
        for one in operators:
            ops = found.setdefault((delegate, one["reason"]), {})
            ops.setdefault(one["op"], []).append(one["index"])
    return [{"delegate": delegate, "reason": reason, "ops": ops} for (delegate, reason), ops in found.items()]


def _tflite(artifact: Artifact) -> dict[str, Any]:
    from edgekit.backends.tflite.inspection import inspect_file

    return inspect_file(artifact)


def _any(backend: Backend, artifact: Artifact, covered: Mapping[str, Sequence[OpCoverage]]) -> dict[str, Any]:
    units = backend.units(artifact)
    known = tuple(covered)
    by_index = {d: {c.index: c for c in found} for d, found in covered.items()}
    checked = {
        d: backend.check(artifact, Scheme(precision=artifact.precision, delegate=d)) for d in known or ("",)
    }
    facts = next(iter(checked.values()))[0]
    opaque = any(u.precision == _UNKNOWN for u in units)
    return {
        "path": artifact.path.name,
        "bytes": artifact.bytes,
        "sha256": artifact.sha256,
        "inputs": to_json(artifact.inputs),
        "outputs": to_json(artifact.outputs),
        "ops": _count(facts, "ops", len(units)),
        "int8_share": None if opaque else float(facts["int8_share"]),
        "transposes": _count(facts, "transposes", 0),
        "macs": None if opaque else sum(u.macs for u in units),
        "precisions": dict(Counter(u.precision for u in units)),
        "delegates": {
            d: {
                "accelerated": sum(c.accelerated for c in covered[d]),
                "ops": len(covered[d]),
                "complaints": [] if opaque else list(checked[d][1]),
            }
            for d in known
        },
        "units": [
            to_json(asdict(u)) | {"delegates": {d: _reason(by_index[d].get(u.index)) for d in known}}
            for u in units
        ],
    }


def _delegates(backend: Backend) -> tuple[str, ...]:
    """Those whose operators are chosen by rules: the plain CPU takes whatever the runtime takes."""
    return tuple(d for d in backend.delegates if d != "cpu") or tuple(backend.delegates)


def _target(backend: Backend, delegate: str, artifact: Artifact) -> Target:
    runtime = cast(Runtime, backend.name)
    known = next((d for d in DELEGATES[runtime] if d == delegate), None)
    assert known is not None, f"profiles know no delegate {delegate} of {runtime}"
    return Target(runtime=runtime, delegate=known, precisions=(artifact.precision,))


def _reason(covered: OpCoverage | None) -> str | None:
    if covered is None:
        return "it is not in the delegate's own list of the file's operators"
    return None if covered.accelerated else covered.reason or "not taken"


def _count(facts: Mapping[str, float], name: str, otherwise: int) -> int:
    return int(facts[name]) if name in facts else otherwise


def index_ranges(indices: Iterable[int]) -> str:
    """Operators' numbers in words: "1-3, 7"."""
    parts: list[list[int]] = []
    for i in sorted(indices):
        if parts and i == parts[-1][1] + 1:
            parts[-1][1] = i
        else:
            parts.append([i, i])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
