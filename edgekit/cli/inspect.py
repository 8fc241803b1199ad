"""`edgekit inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.console import json_option, print_json, print_rows, print_table, progress
from edgekit.cli.options import parse_input
from edgekit.cli.targets import open_subject
from edgekit.errors import Unsupported, UserError

if TYPE_CHECKING:
    from edgekit.build.preflight import Preflight
    from edgekit.types import Problem

_MODELS = (".py", ".pt2")
"""Files that can only be models to build from; .onnx and .pt may be either."""
_COMPLAINTS = 5
_NOT_TOLD = "not told by the file"
_MATTERS = {
    True: "loses accuracy",
    False: "harmless on the calibration data",
    None: "may lose accuracy; --calib tells",
}


@click.command("inspect")
@click.argument("what", metavar="FILE|BUNDLE|MODEL")
@click.option(
    "--as-model", is_flag=True, help="Take a .onnx or TorchScript .pt as a MODEL to build from, not a FILE."
)
@click.option("--profile", metavar="NAME|FILE", help="Check a MODEL for this device only, not for all.")
@click.option(
    "--weights",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Weights for MODEL: safetensors, or a torch file of tensors.",
)
@click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="1,3,224,224",
    help="Shape of an input of MODEL, batch first; once for each input.",
)
@click.option("--calib", metavar="SRC", help="Calibration data of MODEL: its shapes are taken from there.")
@json_option
def inspect(
    what: str,
    as_model: bool,
    profile: str | None,
    weights: Path | None,
    input_shapes: tuple[str, ...],
    calib: str | None,
    as_json: bool,
) -> None:
    """Show what a model FILE or BUNDLE is made of, or what stands in the way of building a MODEL.

    FILE (.tflite, .pte, .onnx, .pt): operators with precision, MACs and stored bytes, which delegate takes
    them and why not, transposes, quantisation of inputs and outputs.

    MODEL (file.py:callable, package.module:callable, model.pt2): before any conversion, for each runtime and
    delegate the operators that it cannot take, with module, line, reason and what to change; and what may
    suffer in int8, with --calib by the values that it gives. Exit code 4 when no target can take the model.
    """
    if as_model or _is_model(what):
        _inspect_model(what, profile, weights, input_shapes, calib, as_json)
        return
    path = Path(what)
    if not path.exists():
        raise UserError(
            f"{what} does not exist", hint="give a bundle, a model file, or a model as file.py:callable"
        )
    if profile or weights or input_shapes or calib:
        raise UserError(
            "--profile, --weights, --input-shape and --calib are for models to build from, "
            f"and {what} is a file that was built",
            hint="leave them away, or add --as-model",
        )
    _inspect_file(path, as_json)


def _is_model(what: str) -> bool:
    from edgekit.sources.callables import is_callable_spec

    return Path(what).suffix in _MODELS or (not Path(what).exists() and is_callable_spec(what))


def _inspect_file(path: Path, as_json: bool) -> None:
    from edgekit.backends.inspection import index_ranges, inspect_artifact, refusals

    found = inspect_artifact(open_subject(path).artifact)
    if as_json:
        print_json(found)
        return
    print_rows(
        [
            ("File", f"{found['path']}, {found['format']}, {found['bytes']:,} bytes"),
            *((f"Input {t['name']}", _tensor(t)) for t in found["inputs"]),
            *((f"Output {t['name']}", _tensor(t)) for t in found["outputs"]),
            ("Operators", _operators(found)),
            ("MACs", _NOT_TOLD if found["macs"] is None else f"{found['macs']:,}"),
            *((name, _taken(found, name)) for name in found["delegates"]),
            *((name, text) for name in found["delegates"] for text in _complaints(found, name)),
        ]
    )
    refused = [
        (r["delegate"], "; ".join(f"{op} #{index_ranges(i)}" for op, i in r["ops"].items()), r["reason"])
        for r in refusals(found)
    ]
    if refused:
        print_table(("delegate", "does not take", "because"), refused)
    rows = [
        (
            str(u["index"]),
            u["op"],
            u["precision"],
            "x".join(map(str, u["output_shape"])),
            f"{u['macs']:,}",
            f"{u['weight_bytes']:,}",
            _takers(u["delegates"]),
            u["name"],
        )
        for u in found["units"]
    ]
    print_table(("#", "op", "precision", "output", "MACs", "bytes", "taken", "name"), rows)


def _operators(found: dict[str, Any]) -> str:
    if found["int8_share"] is None:
        return f"{found['ops']}, parts of delegates counted as one; what is inside: {_NOT_TOLD}"
    return f"{found['ops']}, {found['int8_share']:.0f} % int8, {found['transposes']} transposes"


def _taken(found: dict[str, Any], delegate: str) -> str:
    """How much of the file a delegate takes, and in how many parts."""
    about = found["delegates"][delegate]
    text = f"takes {about['accelerated']} of {about.get('ops', found['ops'])} operators"
    ranges = found.get("partitions", {}).get(delegate)
    if ranges:
        parts = ", ".join(f"#{a}" if a == b else f"#{a}-{b}" for a, b in ranges[:6])
        more = f" and {len(ranges) - 6} more" if len(ranges) > 6 else ""
        text += f" in {len(ranges)} partition{'s' if len(ranges) > 1 else ''}: {parts}{more}"
    return text


def _takers(delegates: dict[str, str | None]) -> str:
    takers = [name for name, reason in delegates.items() if reason is None]
    if len(takers) == len(delegates):
        return "all"
    return " ".join(takers) or "none"


def _complaints(found: dict[str, Any], delegate: str) -> list[str]:
    """The first of what in the file is against a delegate's rules."""
    texts = list(found["delegates"][delegate].get("complaints", ()))
    if len(texts) <= _COMPLAINTS:
        return texts
    return [*texts[:_COMPLAINTS], f"and {len(texts) - _COMPLAINTS} more, see --json"]


def _tensor(t: dict[str, Any]) -> str:
    text = f"{'x'.join(map(str, t['shape']))} {t['dtype']}"
    if t["scale"] is not None:
        text += f", scale {t['scale']:.6g}, zero point {t['zero_point']}"
    return text


def _inspect_model(
    what: str,
    profile: str | None,
    weights: Path | None,
    input_shapes: tuple[str, ...],
    calib: str | None,
    as_json: bool,
) -> None:
    from edgekit.build.preflight import inspect_model
    from edgekit.profiles import list_profiles, load_profile

    profiles = [load_profile(profile)] if profile else [p for p in list_profiles() if not p.abstract]
    inputs = [parse_input(s) for s in input_shapes]
    shapes = tuple(shape for shape, _ in inputs) or None
    dtypes = tuple(dtype for _, dtype in inputs) or None
    with progress() as emit:
        found = inspect_model(
            what,
            profiles,
            weights=weights,
            input_shapes=shapes,
            input_dtypes=dtypes,
            calib=calib,
            emit=emit,
        )
    if as_json:
        print_json(_model_json(found))
    else:
        _print_model(found)
    if not found.buildable:
        raise Unsupported(
            f"no target of {profile or 'any profile'} takes {what}",
            hint="change the model as said above, then inspect it again",
        )


def _model_json(found: Preflight) -> dict[str, Any]:
    from edgekit.types import to_json

    return {
        "model": to_json(found.spec),
        "operators": found.operators,
        "export_error": found.export_error,
        "lints": to_json(found.lints),
        "targets": {
            target: {
                "precision": found.schemes[target].precision,
                "ready": not problems,
                "problems": [{**to_json(p), "line": found.line_of(p)} for p in problems],
            }
            for target, problems in found.problems.items()
        },
    }


def _print_model(found: Preflight) -> None:
    from edgekit.verify.lint import grouped

    spec = found.spec
    rows = [
        ("Model", f"{spec.name} ({spec.source})"),
        *((f"Input {t.name}", f"{'x'.join(map(str, t.shape))} {t.dtype}") for t in spec.inputs),
        *((f"Output {t.name}", f"{'x'.join(map(str, t.shape))} {t.dtype}") for t in spec.outputs),
    ]
    if spec.params is not None:
        rows.append(("Parameters", f"{spec.params:,}"))
    if spec.macs is not None:
        rows.append(("MACs", f"{spec.macs:,}"))
    if found.operators is not None:
        rows.append(("Operators", str(found.operators)))
    if found.export_error is not None:
        ready = "; a target that is ready all the same records one run of forward" if found.buildable else ""
        rows.append(("torch.export", found.export_error + ready))
    print_rows(rows)
    targets = [
        (target, found.schemes[target].precision, _result(problems))
        for target, problems in found.problems.items()
    ]
    print_table(("target", "precision", "result"), targets)
    for number, (problem, stopped) in enumerate(found.grouped(), start=1):
        line = found.line_of(problem)
        print_rows(
            [
                (f"Problem {number}", _place(problem, line)),
                ("  why", problem.reason.replace(f" ({line})", "")),
                ("  change", problem.hint or "nothing is known that would help"),
                ("  stops", ", ".join(stopped)),
            ]
        )
    for group in grouped(found.lints):
        measured = [("  measured", group.worst.measured)] if group.worst.measured else []
        print_rows(
            [
                (f"In int8: {group.rule}", f"{_MATTERS[group.matters]}; {group.places}"),
                ("  why", group.worst.reason),
                *measured,
                ("  change", group.worst.hint),
            ]
        )


def _result(problems: tuple[Problem, ...]) -> str:
    if not problems:
        return "ready"
    return f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"


def _place(problem: Problem, line: str) -> str:
    return f"{problem.op} at {problem.where or 'the top of the model'}" + (f" ({line})" if line else "")
