#!/usr/bin/env python3
"""Checks and compares the TensorRT engines of this folder. Needs Python 3.6 or later and nothing else.

build_engine.sh and bench.sh call it; by hand:

    python3 jetson.py ready --trtexec PATH            print the TensorRT of this device, if all suits it
    python3 jetson.py record NAME --trtexec PATH      note what engines/NAME.plan was built from, and where
    python3 jetson.py golden NAME --trtexec PATH      run the golden samples with engines/NAME.plan
    python3 jetson.py choose                          write chosen.json from results/

Names of tensors come from the model: trtexec gets them as arguments, they never pass through a shell.
Exit codes: 0 done, 1 outputs differ or no engine is good, 2 the folder or the device is not fit for it.
"""

# ruff: noqa: T201 (a program of its own, it prints)
import argparse
import ast
import hashlib
import json
import math
import re
import statistics
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
VERDICT = re.compile(r"^&&&& (PASSED|FAILED) ", re.MULTILINE)
BANNER = re.compile(r"TensorRT\.trtexec \[TensorRT v(\d+)\]")
OUTPUT = re.compile(
    r'\{ "name" : "(?P<name>.*?)"\s*, "dimensions" : "(?P<dims>[^"]*)"\s*, "values" : \[(?P<values>[^\]]*)\]',
    re.DOTALL,
)
TIMES = {"latency_ms": "latencyMs", "compute_ms": "computeMs", "h2d_ms": "h2dMs", "d2h_ms": "d2hMs"}
CODES = {"b1": "B", "i1": "b", "u1": "B", "i2": "h", "i4": "i", "i8": "q", "f2": "e", "f4": "f", "f8": "d"}
TIE = 1.02  # engines whose times differ by less count as equally fast
INTEGERS_MAY_DIFFER = 0.01  # share of the elements of an integer output: classes of pixels at an edge


class Problem(Exception):
    """Something that the user can mend; its text is one sentence."""


# -- files


def read_text(path: "Path") -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        raise Problem(f"{path.name} cannot be read: {exc.strerror}") from exc


def read_json(path: "Path") -> Any:
    try:
        return json.loads(read_text(path))
    except ValueError as exc:
        raise Problem(f"{path.name} is not JSON: {exc}") from exc


def write_json(path: "Path", value: Any) -> None:
    """Write the whole file, or leave the old one as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_bytes(path: "Path", sha256: "str | None" = None) -> bytes:
    """The file's bytes. With ``sha256``, refuses any others."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise Problem(f"{path.name} cannot be read: {exc.strerror}") from exc
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise Problem(f"{path.name} is damaged or was changed: it is not what manifest.json says")
    return data


def inside(root: "Path", name: str) -> "Path":
    """Path of ``name``, refused when it lies outside the folder."""
    path = root / name
    if Path(name).is_absolute() or root.resolve() not in path.resolve().parents:
        raise Problem(f"{name!r} lies outside the folder")
    return path


def read_npy(data: bytes, name: str) -> "tuple[str, tuple[int, ...], bytes]":
    """(type such as "f4", shape, raw values in C order) of a .npy file, format 1.0 to 3.0."""
    if data[:6] != b"\x93NUMPY" or len(data) < 12:
        raise Problem(f"{name} is not a .npy file")
    start, width = (10, "<H") if data[6] == 1 else (12, "<I")
    length = struct.unpack(width, data[8:start])[0]
    try:
        header = ast.literal_eval(data[start : start + length].decode("latin1"))
        kind, shape = header["descr"], tuple(header["shape"])
    except (ValueError, SyntaxError, KeyError, TypeError) as exc:
        raise Problem(f"{name} is not a plain .npy file") from exc
    raw = data[start + length :]
    if header.get("fortran_order") or not isinstance(kind, str) or kind[1:] not in CODES or kind[0] == ">":
        raise Problem(f"{name} holds {kind}, which this program does not read")
    if len(raw) != count(shape) * int(kind[2:]):
        raise Problem(f"{name} is cut off")
    return kind[1:], shape, raw


def count(shape: "tuple[int, ...]") -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def unpack(kind: str, raw: bytes) -> "list[Any]":
    size = int(kind[1:])
    return list(struct.unpack(f"<{len(raw) // size}{CODES[kind]}", raw))


# -- trtexec


def run_trtexec(command: "list[str]", log: "Path") -> str:
    """Run trtexec in this folder, keep its output in ``log``, and return it. Raises Problem when it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as exc:
        raise Problem(f"{command[0]} does not start: {exc.strerror}") from exc
    text = done.stdout.decode("utf-8", "replace")
    log.write_text(text, encoding="utf-8")
    verdicts = VERDICT.findall(text)
    if done.returncode != 0 or not verdicts or verdicts[-1] != "PASSED":
        errors = [line for line in text.splitlines() if "[E]" in line]
        raise Problem(f"trtexec failed, see {log.name}: {errors[0] if errors else 'it printed no error'}")
    return text


def version_of(text: str) -> "tuple[int, int, int]":
    """(major, minor, patch) from trtexec's banner: v8205 is 8.2.5, v100300 is 10.3.0."""
    found = BANNER.search(text)
    if found is None:
        raise Problem("trtexec does not say which TensorRT it belongs to")
    number = int(found.group(1))
    base = 10000 if number >= 100000 else 1000
    return number // base, number % base // 100, number % 100


def check_version(trtexec: str, config: "dict[str, Any]", any_version: bool) -> str:
    """The device's version as text. Raises Problem when the scripts are for another line."""
    try:
        done = subprocess.run([trtexec, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as exc:
        raise Problem(f"{trtexec} does not start: {exc.strerror}") from exc
    version = version_of(done.stdout.decode("utf-8", "replace"))
    shown = ".".join(str(part) for part in version)
    if not any_version and not tuple(config["since"]) <= version[:2] < tuple(config["before"]):
        raise Problem(
            f"this device has TensorRT {shown}, but the scripts are for {config['line']}: build the bundle "
            f'again with version = "{version[0]}.{version[1]}" in the tensorrt target of the profile, '
            "or go on with --any-version"
        )
    return shown


def device_model() -> str:
    """Name of the board, "" when the system does not tell."""
    try:
        return Path("/proc/device-tree/model").read_bytes().decode("utf-8", "replace").strip("\0\n ")
    except OSError:
        return ""


def parse_outputs(text: str) -> "dict[str, tuple[str, list[float]]]":
    """trtexec's --exportOutput file: name -> (dimensions such as "1x10", values in C order).

    It is almost JSON: names are not escaped, and NaN is written as the C++ library does.
    """
    found = {}
    for match in OUTPUT.finditer(text):
        words = [word for word in re.split(r"[\s,]+", match.group("values")) if word]
        try:
            found[match.group("name")] = (match.group("dims"), [float(word) for word in words])
        except ValueError as exc:
            raise Problem(f"output {match.group('name')!r} of trtexec has a value that is no number") from exc
    if not found:
        raise Problem("trtexec wrote no outputs")
    return found


def parse_times(text: str, warmup_ms: float) -> "dict[str, list[float]]":
    """Times of the runs after warm-up from trtexec's --exportTimes file, in milliseconds.

    Before TensorRT 8.6 the file has the warm-up runs as well; they start earlier than ``warmup_ms``.
    """
    try:
        rows = json.loads(text)
    except ValueError as exc:
        raise Problem(f"the times of trtexec are not JSON: {exc}") from exc
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Problem("the times of trtexec are not a list of runs")
    found = {name: [] for name in TIMES}  # type: dict[str, list[float]]
    for i, row in enumerate(rows):
        if number(row, "startComputeMs", i) < warmup_ms:
            continue
        for name, key in TIMES.items():
            found[name].append(number(row, key, i))
    if not found["latency_ms"]:
        raise Problem("the times of trtexec hold no run after warm-up")
    return found


def number(row: "dict[str, Any]", key: str, place: int) -> float:
    value = row.get(key)
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or value < 0
    ):
        raise Problem(f"run {place} of trtexec's times has no {key}")
    return float(value)


# -- golden samples


def compare(
    expected: "list[Any]", got: "list[float]", tolerance: "dict[str, float]", integers: bool
) -> "dict[str, Any]":
    """One output against the golden one.

    A real element agrees when |got - expected| <= share * max |expected| + relative * |expected|; of an
    integer output all but 1 % of the elements must be equal.
    """
    reach = max((abs(x) for x in expected), default=0.0)
    worst, wrong, noise, signal = 0.0, 0, 0.0, 0.0
    for want, value in zip(expected, got):  # noqa: B905 (Python 3.6; equal lengths were checked)
        off = abs(value - want)
        limit = 0.0 if integers else tolerance["share"] * reach + tolerance["relative"] * abs(want)
        wrong += not off <= limit
        worst = max(worst, off) if off == off else math.inf
        noise, signal = noise + off * off, signal + want * want
    allowed = int(INTEGERS_MAY_DIFFER * len(expected)) if integers else 0
    sqnr = 10 * math.log10(signal / noise) if 0 < noise < math.inf and signal > 0 else None
    return {
        "passed": wrong <= allowed,
        "out_of_tolerance": wrong,
        "elements": len(expected),
        "max_abs": worst if math.isfinite(worst) else None,
        "sqnr_db": sqnr,
    }


def check_names(engine: "dict[str, Any]") -> None:
    for name in engine["inputs"]:
        if "," in name or "'" in name:
            raise Problem(f"trtexec cannot address the input {name!r}: rename it in the model")


def golden(name: str, trtexec: str, config: "dict[str, Any]") -> "dict[str, Any]":
    """Run every golden sample with an engine and compare; writes and returns results/NAME/golden.json."""
    engine, manifest = engine_of(name, config), read_json(ROOT / "manifest.json")
    samples = manifest["golden"]["samples"]
    if not samples:
        raise Problem("the folder has no golden samples")
    model = model_of(engine, manifest)
    own = model.get("golden")
    is_first = manifest["models"][0]["path"] == engine["model"]
    references = own["samples"] if own is not None else samples
    tolerance = engine["tolerance" if own is not None or is_first else "tolerance_to_first"]
    rows = []
    for i, sample in enumerate(samples):
        got = run_sample(name, i, sample["inputs"], engine, trtexec, config)
        rows += compare_sample(engine, references[i]["outputs"], got, tolerance)
    result = {
        "engine": name,
        "passed": all(row["passed"] for row in rows),
        "samples": len(samples),
        "compared_with": manifest["models"][0]["path"] if own is None else engine["model"],
        "tolerance": tolerance,
        "outputs": rows,
    }
    write_json(ROOT / "results" / name / "golden.json", result)
    return result


def run_sample(
    name: str,
    place: int,
    files: "list[dict[str, str]]",
    engine: "dict[str, Any]",
    trtexec: str,
    config: "dict[str, Any]",
) -> "dict[str, tuple[str, list[float]]]":
    """Outputs of one golden sample. What trtexec reads and writes lies in results/NAME/golden/."""
    folder = "results/" + name + "/golden"
    (ROOT / folder).mkdir(parents=True, exist_ok=True)
    parts = []
    for k, (tensor, entry) in enumerate(zip(engine["inputs"], files)):  # noqa: B905
        data = read_bytes(inside(ROOT, entry["path"]), entry["sha256"])
        kind, _, raw = read_npy(data, entry["path"])
        if kind == "i8" and not config["int64"]:  # this TensorRT has int32 where the file has int64
            values = unpack(kind, raw)
            raw = struct.pack(f"<{len(values)}i", *values)
        path = f"{folder}/{place}_input_{k}.bin"
        (ROOT / path).write_bytes(raw)
        parts.append(f"{tensor}:{path}")
    exported = f"{folder}/{place}_output.json"
    command = [trtexec, f"--loadEngine=engines/{name}.plan", "--loadInputs=" + ",".join(parts)]
    command += [f"--exportOutput={exported}", "--warmUp=0", "--duration=0", "--iterations=1"]
    run_trtexec(command, ROOT / folder / f"{place}.log")
    return parse_outputs(read_text(ROOT / exported))


def compare_sample(
    engine: "dict[str, Any]",
    files: "list[dict[str, str]]",
    got: "dict[str, tuple[str, list[float]]]",
    tolerance: "dict[str, float]",
) -> "list[dict[str, Any]]":
    rows = []
    for tensor, entry in zip(engine["outputs"], files):  # noqa: B905
        data = read_bytes(inside(ROOT, entry["path"]), entry["sha256"])
        kind, shape, raw = read_npy(data, entry["path"])
        if tensor not in got:
            raise Problem(f"the engine has no output {tensor!r}; it has {', '.join(sorted(got))}")
        dims, values = got[tensor]
        if len(values) != count(shape):
            raise Problem(f"output {tensor!r} is {dims}, the golden one {'x'.join(map(str, shape))}")
        row = compare(unpack(kind, raw), values, tolerance, kind[0] != "f")
        rows.append(dict(row, name=tensor))
    return rows


def engine_of(name: str, config: "dict[str, Any]") -> "dict[str, Any]":
    for engine in config["engines"]:
        if engine["name"] == name:
            return dict(engine)
    raise Problem(f"there is no engine {name!r}; the folder has {[e['name'] for e in config['engines']]}")


def model_of(engine: "dict[str, Any]", manifest: "dict[str, Any]") -> "dict[str, Any]":
    for model in manifest["models"]:
        if model["path"] == engine["model"]:
            return dict(model)
    raise Problem(f"manifest.json does not name {engine['model']}")


# -- engines and the choice between them


def ready(trtexec: str, config: "dict[str, Any]", any_version: bool) -> str:
    """The device's TensorRT, after a look at whether it and the model files are the right ones."""
    manifest = read_json(ROOT / "manifest.json")
    for engine in config["engines"]:
        check_names(engine)
        read_bytes(inside(ROOT, engine["model"]), model_of(engine, manifest)["sha256"])
    return check_version(trtexec, config, any_version)


def record(name: str, trtexec: str, config: "dict[str, Any]") -> None:
    """Note what a plan was built from and on what: it is good for nothing else."""
    engine = engine_of(name, config)
    note = {
        "model_sha256": hashlib.sha256(read_bytes(ROOT / engine["model"])).hexdigest(),
        "plan_sha256": hashlib.sha256(read_bytes(ROOT / "engines" / f"{name}.plan")).hexdigest(),
        "tensorrt": check_version(trtexec, config, any_version=True),
        "device": device_model(),
    }
    write_json(ROOT / "engines" / f"{name}.json", note)


def check_record(name: str, trtexec: str, config: "dict[str, Any]") -> None:
    """Raises Problem for a plan of another model, device or TensorRT."""
    note, engine = read_json(ROOT / "engines" / f"{name}.json"), engine_of(name, config)
    read_bytes(ROOT / "engines" / f"{name}.plan", note["plan_sha256"])
    now = {
        "model_sha256": hashlib.sha256(read_bytes(ROOT / engine["model"])).hexdigest(),
        "tensorrt": check_version(trtexec, config, any_version=True),
        "device": device_model(),
    }
    for key, value in now.items():
        if note[key] != value:
            what = "another model file" if key == "model_sha256" else f"{key} {note[key]}"
            raise Problem(f"engines/{name}.plan was built for {what}: run build_engine.sh again")


def statistics_of(values: "list[float]") -> "dict[str, float]":
    ordered = sorted(values)
    last = len(ordered) - 1
    p90, p99 = (ordered[min(last, int(q * len(ordered)))] for q in (0.9, 0.99))
    return {"median": statistics.median(ordered), "p90": p90, "p99": p99, "n": len(ordered)}


def state_of(name: str, config: "dict[str, Any]") -> "dict[str, Any]":
    """What is known of one engine, and in "reason" why it cannot be chosen, None when it can."""
    results = ROOT / "results" / name
    row = {"name": name, "model": engine_of(name, config)["model"], "golden": None}  # type: dict[str, Any]
    if not (ROOT / "engines" / f"{name}.plan").is_file():
        return dict(row, reason="it was not built")
    if not (results / "golden.json").is_file():
        return dict(row, reason="its golden samples were not run")
    row["golden"] = read_json(results / "golden.json")
    if not row["golden"]["passed"]:
        return dict(row, reason="its outputs differ from the golden ones")
    if not (results / "times.json").is_file():
        return dict(row, reason="it was not timed")
    times = parse_times(read_text(results / "times.json"), config["warmup_ms"])
    row.update({key: statistics_of(values) for key, values in times.items()})
    return dict(row, reason=None)


def choose(config: "dict[str, Any]", conditions: "dict[str, Any]") -> "dict[str, Any]":
    """The fastest engine that passed its golden samples; writes and returns chosen.json.

    Of equally fast ones the first in the order of the engines' exactness: a tie goes to the more exact one.
    """
    rows = [state_of(engine["name"], config) for engine in config["engines"]]
    good = [row for row in rows if row["reason"] is None]
    chosen, why = None, "no engine was built, gave the golden outputs and was timed"
    if good:
        fastest = min(good, key=lambda row: row["latency_ms"]["median"])
        limit = fastest["latency_ms"]["median"] * TIE
        level = [row for row in good if row["latency_ms"]["median"] <= limit]
        chosen = min(level, key=lambda row: config["exactness"].index(row["name"]))
        why = "it is the fastest" if chosen is fastest else "as fast as the fastest, and more exact"
        if len(good) == 1:
            why = "it is the only one that was built, gave the golden outputs and was timed"
    result = {
        "schema_version": 1,
        "chosen": None if chosen is None else chosen["name"],
        "plan": None if chosen is None else f"engines/{chosen['name']}.plan",
        "why": why,
        "engines": rows,
        "device": device_model(),
    }
    result.update(conditions)
    write_json(ROOT / "chosen.json", result)
    return result


def main(arguments: "list[str] | None" = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("ready", "record", "check", "golden", "choose"))
    parser.add_argument("name", nargs="?", default="", help="an engine of jetson.json")
    parser.add_argument("--trtexec", default="trtexec")
    parser.add_argument("--any-version", action="store_true", help="do not insist on the scripts' TensorRT")
    parser.add_argument(
        "--condition", action="append", default=[], metavar="KEY=VALUE", help="for chosen.json"
    )
    options = parser.parse_args(arguments)
    try:
        config = read_json(ROOT / "jetson.json")
        if options.command == "ready":
            print(ready(options.trtexec, config, options.any_version))
        elif options.command == "record":
            record(options.name, options.trtexec, config)
        elif options.command == "check":
            check_record(options.name, options.trtexec, config)
        elif options.command == "golden":
            result = golden(options.name, options.trtexec, config)
            print_golden(result)
            return 0 if result["passed"] else 1
        else:
            conditions = dict(pair.split("=", 1) for pair in options.condition)
            result = choose(config, conditions)
            print_choice(result)
            return 0 if result["chosen"] is not None else 1
        return 0
    except Problem as exc:
        print(f"error: {exc}", file=sys.stderr)
    except KeyError as exc:
        print(f"error: a file of this folder lacks {exc}", file=sys.stderr)
    return 2


def print_golden(result: "dict[str, Any]") -> None:
    good = sum(row["passed"] for row in result["outputs"])
    print(f"{result['engine']}: {good} of {len(result['outputs'])} golden outputs agree")
    for row in result["outputs"]:
        if not row["passed"]:
            off, of = row["out_of_tolerance"], row["elements"]
            print(f"  {row['name']}: {off} of {of} values differ, the worst by {row['max_abs']}")


def print_choice(result: "dict[str, Any]") -> None:
    for row in result["engines"]:
        if row["reason"] is not None:
            print(f"{row['name']}: left out, {row['reason']}")
        else:
            latency, compute = row["latency_ms"], row["compute_ms"]
            print(
                f"{row['name']}: {latency['median']:.3f} ms with copies, {compute['median']:.3f} ms without"
            )
    print(f"chosen: {result['chosen'] or 'none'}, {result['why']}")


if __name__ == "__main__":
    sys.exit(main())
