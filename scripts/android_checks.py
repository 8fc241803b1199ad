"""Parts of scripts/check_android that are easier said in Python.

python scripts/android_checks.py gradle                  build files against the catalogue and edgekit's pins
python scripts/android_checks.py vectors FILE            golden vectors, with their number
python scripts/android_checks.py results RESULTS BUNDLES results of the JVM against the bundles run here
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WRAPPER_SHA256 = "55243ef57851f12b070ad14f7f5bb8302daceeebc5bce5ece5fa6edb23e1145c"
"""gradle-wrapper.jar of Gradle 9.4.0 and 9.4.1, as Gradle publishes it with its releases."""
LEAST_GRADLE = {"9.4": (9, 6)}
"""Gradle that a line of the Android Gradle plugin needs, from its release notes."""
PROFILES = {"int8": "android_xnnpack", "gpu": "android_gpu", "nnapi": "android_nnapi"}
"""Bundle of each result, by the name that the test gives it."""


def gradle_complaints(app: Path, root: Path = ROOT) -> list[str]:
    """What is inconsistent between the build files in ``app``, its catalogue and edgekit in ``root``."""
    catalogue = tomllib.loads((app / "gradle" / "libs.versions.toml").read_text())
    found = _exact(catalogue)
    used: set[str] = set()
    scripts = sorted(p for p in app.rglob("*.gradle.kts") if "build" not in p.relative_to(app).parts)
    for script in scripts:
        text = re.sub(r"//[^\n]*", "", script.read_text())
        name = script.relative_to(app)
        used |= set(_aliases(text))
        found += [f"{name}: a version outside of the catalogue: {x}" for x in _literals(text)]
    known = _entries(catalogue)
    found += [f"{alias} is not in the catalogue" for alias in sorted(used - known)]
    found += [f"{alias} of the catalogue is used nowhere" for alias in sorted(known - used)]
    found += _modules(app)
    found += _wrapper(app, catalogue["versions"]["agp"])
    return found + _pins(catalogue["versions"], root)


def _exact(catalogue: dict[str, Any]) -> list[str]:
    versions = catalogue["versions"]
    found = [
        f"{name} = {value!r} is no exact version"
        for name, value in versions.items()
        if not isinstance(value, str) or not re.fullmatch(r"\d[\w.-]*", value) or "latest" in value
    ]
    for kind in ("libraries", "plugins"):
        for name, entry in catalogue[kind].items():
            reference = entry.get("version", {})
            if not isinstance(reference, dict) or reference.get("ref") not in versions:
                found.append(f"{kind}.{name} has no version of the catalogue")
    return found


def _entries(catalogue: dict[str, Any]) -> set[str]:
    """What build files may say after "libs.": versions that no entry refers to, libraries, plugins."""
    entries = [*catalogue["libraries"].values(), *catalogue["plugins"].values()]
    referred = {entry["version"]["ref"] for entry in entries if isinstance(entry.get("version"), dict)}
    names = {name.replace("-", ".") for name in catalogue["libraries"]}
    names |= {f"plugins.{name.replace('-', '.')}" for name in catalogue["plugins"]}
    return names | {f"versions.{name}" for name in catalogue["versions"] if name not in referred}


def _aliases(text: str) -> list[str]:
    found = re.findall(r"\blibs\.([A-Za-z0-9.]+)", text)
    names = [re.sub(r"\.get$|\.get\.\w+$", "", name.rstrip(".")) for name in found]
    # A runtime's version, shown by the app, is that of its library.
    return [n for n in names if n not in ("versions.litert", "versions.tflite1", "versions.executorch")]


def _literals(text: str) -> list[str]:
    coordinates = re.findall(r'"[\w.-]+:[\w.-]+:[\w.+-]+"', text)
    plugins = re.findall(r'\bversion\s+"[^"]+"', text)
    numbers = re.findall(r"\b(?:compileSdk|minSdk|targetSdk)\s*=\s*\d+", text)
    return [*coordinates, *plugins, *numbers]


def _modules(app: Path) -> list[str]:
    names = re.findall(r'":(\w+)"', (app / "settings.gradle.kts").read_text())
    there = {p.parent.name for p in app.glob("*/build.gradle.kts")}
    return [f"module {name} is not both included and there" for name in sorted(set(names) ^ there)]


def _wrapper(app: Path, agp: str) -> list[str]:
    found = []
    jar = app / "gradle" / "wrapper" / "gradle-wrapper.jar"
    if hashlib.sha256(jar.read_bytes()).hexdigest() != WRAPPER_SHA256:
        found.append(f"{jar.name} is not the one that Gradle published")
    text = jar.with_name("gradle-wrapper.properties").read_text()
    version = re.search(r"/gradle-(\d+)\.(\d+)(?:\.\d+)?-bin\.zip$", text, re.MULTILINE)
    least = LEAST_GRADLE.get(".".join(agp.split(".")[:2]))
    if least is None:
        found.append(f"which Gradle AGP {agp} needs is not known here: add it to LEAST_GRADLE")
    elif version is None or (int(version[1]), int(version[2])) < least:
        found.append(f"AGP {agp} needs Gradle {least[0]}.{least[1]} or later")
    if not re.search(r"^distributionSha256Sum=[0-9a-f]{64}$", text, re.MULTILINE):
        found.append("gradle-wrapper.properties has no distributionSha256Sum")
    if not os.access(app / "gradlew", os.X_OK):
        found.append("gradlew is not executable")
    return found


def _pins(versions: dict[str, str], root: Path) -> list[str]:
    """The versions that edgekit itself writes files with, and those that its READMEs of bundles name."""
    from edgekit.bundle.recipes import RECIPES

    found = []
    pins = dict(re.findall(r'"([\w-]+)==([\d.*]+)"', (root / "pyproject.toml").read_text()))
    if pins["executorch"] != versions["executorch"]:
        found.append(f"executorch is {versions['executorch']}, edgekit exports with {pins['executorch']}")
    for target, name in (("tflite", "litert"), ("tflite/gpu", "litert"), ("tflite/nnapi", "tflite1")):
        text = "\n".join(RECIPES[target].notes)
        named = set(re.findall(r"com\.google\.ai\.edge\.litert:[\w-]+:([\d.]+)", text))
        if named != {versions[name]}:
            found.append(f"{name} is {versions[name]}, README.txt of bundles for {target} says {named}")
    return found


def compare(result: dict[str, Any], bundle: Path) -> tuple[str, list[str]]:
    """(a line of figures, complaints) for a result of the app's core and the bundle that it ran.

    The host runs the same golden samples by the bundle's own run.py: the highest class must be the same
    everywhere, and integer outputs equal.
    """
    import numpy as np

    from edgekit.bundle import golden_samples, load_manifest, run
    from edgekit.devices.android.result import result_schema
    from edgekit.jsoncheck import first_problem

    if problem := first_problem(result, result_schema()):
        return "", [f"the result does not fit its schema at {problem}"]
    manifest = load_manifest(bundle)
    samples = golden_samples(manifest)
    host = run.Model(manifest.root, dict(manifest.data))
    tensor = manifest.data["outputs"][0]
    complaints = []
    if result["status"] != "ok":
        return "", [f"the run failed: {result['error']}"]
    if len(result["golden"]) != len(samples):
        return "", [f"{len(result['golden'])} samples came back, the bundle has {len(samples)}"]
    same_top, equal, worst = 0, 0, 0.0
    for i, (sample, got) in enumerate(zip(samples, result["golden"], strict=True)):
        stored = host.run(sample.inputs)[0]
        there = np.frombuffer(base64.b64decode(got["outputs"][0]["data"]), stored.dtype).reshape(stored.shape)
        top = run.highest(run.to_real(stored, tensor)[0], 1)[0]
        same_top += top == got["top1"]
        equal += bool((stored == there).all())
        worst = max(worst, float(np.abs(stored.astype(np.float64) - there).max()))
        if top != got["top1"]:
            complaints.append(f"sample {i}: class {got['top1']} on the JVM, {top} on the host")
    n = len(samples)
    if np.dtype(tensor["dtype"]).kind in "iu" and equal != n:
        complaints.append(f"integer outputs are equal on {equal} of {n} samples only")
    line = f"same top-1 on {same_top} of {n}, outputs equal on {equal} of {n}, largest difference {worst:.3g}"
    return f"{line} ({tensor['dtype']} outputs, {manifest.data['models'][0]['precision']} file)", complaints


def main(arguments: list[str]) -> int:
    """What the module's docstring says; 1 with complaints, 2 for wrong arguments."""
    if arguments == ["gradle"]:
        complaints = gradle_complaints(ROOT / "android_demo")
        print("\n".join(complaints) or "catalogue, build files, wrapper and edgekit's pins agree")
        return 1 if complaints else 0
    if len(arguments) == 2 and arguments[0] == "vectors":
        from android_vectors import vectors

        made = vectors()
        Path(arguments[1]).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        print(", ".join(f"{len(cases)} {name}" for name, cases in made.items()))
        return 0
    if len(arguments) == 3 and arguments[0] == "results":
        status = 0
        for name, profile in PROFILES.items():
            result = json.loads((Path(arguments[1]) / f"{name}.json").read_text())
            line, complaints = compare(result, Path(arguments[2]) / profile / "bundle")
            print(f"{profile}: {'; '.join(complaints) or line}")
            status |= bool(complaints)
        return status
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
