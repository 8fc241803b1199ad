"""README.txt of a bundle: what to install, how to check the model and how to run it, for its runtime.

What differs between runtimes comes from :mod:`edgekit.bundle.recipes`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.bundle.recipes import Recipe, recipe_of

_WIDTH = 100
_FORMATS = {"tflite": "TFLite", "onnx": "ONNX", "pte": "ExecuTorch", "torchscript": "TorchScript"}
_EXTRA = {
    "sh": "a script for the device",
    "py": "a program that the scripts call",
    "json": "facts for the scripts",
    "md": "how to use the scripts",
}
"""What a further file is, by how its name ends."""


def readme(manifest: Mapping[str, Any]) -> str:
    """The text of README.txt, lines of at most 100 columns where a command is not longer."""
    runtime = manifest["runtime"]
    recipe = recipe_of(runtime["name"], runtime["delegates"])
    return "\n".join(
        [
            *_head(manifest),
            *_files(manifest),
            *_install(runtime, recipe),
            *_check(manifest),
            *_use(manifest, recipe),
            *_tensors("Inputs", manifest["inputs"]),
            *_tensors("Outputs", manifest["outputs"]),
            *_preprocessing(manifest),
            *_notes(manifest, recipe),
        ]
    )


def _head(manifest: Mapping[str, Any]) -> list[str]:
    model, runtime = manifest["models"][0], manifest["runtime"]
    delegates = ", ".join(runtime["delegates"])
    title = f"{manifest['name']} for {manifest['profile']}"
    made_by = f"made by edgekit {manifest['provenance']['edgekit_version']}"
    return [
        title,
        "=" * len(title),
        "",
        f"{_FORMATS.get(model['format'], model['format'])} file in {model['precision']}, "
        f"{model['bytes']:,} bytes, to be run with {delegates}; {made_by}.",
        "",
    ]


def _files(manifest: Mapping[str, Any]) -> list[str]:
    first, *others = manifest["models"]
    count = len(manifest["golden"]["samples"])
    rows = [
        (first["path"], f"the model, {first['precision']}"),
        *((m["path"], f"the same model, {m['precision']}, {m['bytes']:,} bytes") for m in others),
        *((f["path"], _EXTRA.get(f["path"].rpartition(".")[2], "data")) for f in manifest.get("files", ())),
        ("manifest.json", "for programs: all that an app needs to know"),
        ("golden/", f"{count} inputs with the outputs that the model must give, .npy"),
        ("run.py", "checks the model on this machine, or runs one input"),
    ]
    width = max(len(name) for name, _ in rows)
    return ["Files", "-----", *(f"    {name.ljust(width)}  {what}" for name, what in rows), ""]


def _install(runtime: Mapping[str, Any], recipe: Recipe) -> list[str]:
    tested = runtime.get("tested_version")
    seen = f" The golden outputs are those of {recipe.package} {tested}." if tested else ""
    least = " " + recipe.least.format(**runtime) if recipe.least and runtime["min_version"] else ""
    return [
        "Install",
        "-------",
        "",
        "    python3 -m venv venv && . venv/bin/activate",
        f"    pip install numpy {recipe.requirement(runtime)}",
        "",
        *_wrapped(
            "run.py needs Python 3.9 or later; the package's page on pypi.org says for which Pythons and "
            f"machines there are wheels.{seen}{least}"
        ),
        "",
    ]


def _check(manifest: Mapping[str, Any]) -> list[str]:
    count = len(manifest["golden"]["samples"])
    tolerance = manifest["golden"]["tolerance"]
    exact = tolerance["atol"] == tolerance["rtol"] == 0
    how = "exactly" if exact else f"within atol {tolerance['atol']:.3g}, rtol {tolerance['rtol']:.3g}"
    one = manifest["inputs"][0]
    image = manifest["preprocessing"]["channel_order"] is not None
    return [
        "Check and try",
        "-------------",
        "",
        "    python run.py                  the golden samples",
        f"    python run.py --input x.npy    one input, {_shape(one['source'])} {one['source']['dtype']}",
        *(["    python run.py --input x.png    an image, prepared as below"] if image else []),
        "",
        *_wrapped(
            f'The first must end with "{count} of {count} golden samples agree" and exit code 0: this '
            f"machine then computes what the one computed that built the model, {how}."
        ),
        "",
    ]


def _use(manifest: Mapping[str, Any], recipe: Recipe) -> list[str]:
    program = recipe.program(manifest)
    return [
        "In a Python program",
        "-------------------",
        "",
        textwrap.indent(program, "    "),
    ]


def _tensors(title: str, tensors: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [title, "-" * len(title)]
    for t in tensors:
        text = f"    {t['name']}: {t['dtype']} {_shape(t)}"
        if t["layout"] and t["layout"] != t["source"]["layout"]:
            text += f" ({t['layout']}; the original model has {t['source']['layout'] or 'another layout'})"
        elif t["layout"]:
            text += f" ({t['layout']})"
        if t["scale"] is not None:
            text += f", real value = {t['scale']:.9g} * (stored - {t['zero_point']})"
        if t.get("range"):
            text += f", calibrated on {t['range'][0]:.4g} to {t['range'][1]:.4g}"
        lines.append(text)
    return [*lines, ""]


def _preprocessing(manifest: Mapping[str, Any]) -> list[str]:
    how = manifest["preprocessing"]
    if how["channel_order"] is None:
        text = "Prepare inputs as in training: the manifest does not know how images become inputs."
    else:
        height, width = how["resize"] or (None, None)
        fit = f"scale to just cover {height} x {width} (height x width), crop about the centre, "
        size = fit if how["resize"] else ""
        text = f"{size}{how['channel_order']} order, pixel / {how['scale'] or 1:g}"
        if how["mean"] is not None:
            text += f", minus {_list(how['mean'])}"
        if how["std"] is not None:
            text += f", divided by {_list(how['std'])} per channel"
        text = text[0].upper() + text[1:] + "."
    labels = f" The {len(manifest['labels'])} class names are in manifest.json." if manifest["labels"] else ""
    return ["Preparing inputs", "----------------", *_wrapped(text + labels), ""]


def _notes(manifest: Mapping[str, Any], recipe: Recipe) -> list[str]:
    if not recipe.notes:
        return []
    runtime = manifest["runtime"]
    facts = {
        "file": manifest["models"][0]["path"],
        "tested": runtime.get("tested_version") or runtime["min_version"] or "the exporter's",
        "threads": runtime["threads"],
    }
    lines = ["On the device", "-------------"]
    for note in recipe.notes:
        text = note.format(**facts)
        lines += [*(text.splitlines() if text.startswith("    ") else _wrapped(text)), ""]
    return lines


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _shape(tensor: Mapping[str, Any]) -> str:
    return "x".join(map(str, tensor["shape"])) or "scalar"


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{v:g}" for v in values)
