"""The scripts of a Jetson bundle, run from end to end with a stand-in for trtexec.

No TensorRT is run here, nor was any when the scripts were written: the stand-in has trtexec's flags, messages
and files, and infers by ONNX Runtime.
"""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.onnx.tensorrt import device, scripts
from edgekit.backends.onnx.tensorrt.lines import LINES, Line
from edgekit.types import Precision

pytest.importorskip("onnxruntime")

MakeBundle = Callable[..., Any]


def build_and_bench(bundle: Any) -> Any:
    built = bundle.script("build_engine.sh")
    assert built.returncode == 0, built.stderr
    return bundle.script("bench.sh")


def flags(calls: list[list[str]], key: str) -> list[list[str]]:
    """The calls that have an option."""
    return [call for call in calls if any(argument.startswith(f"--{key}=") for argument in call)]


@pytest.mark.parametrize(
    ("version", "int8_flags", "fp16_flags", "skip"),
    [
        ("8.2", {"--int8", "--fp16"}, {"--fp16"}, "--buildOnly"),
        ("8.5", {"--int8", "--fp16"}, {"--fp16"}, "--buildOnly"),
        ("10.3", {"--int8", "--fp16"}, {"--stronglyTyped"}, "--skipInference"),
        ("10.16", {"--int8", "--fp16"}, {"--stronglyTyped"}, "--skipInference"),
        ("11", set(), set(), "--skipInference"),
    ],
)
def test_every_line_from_end_to_end(
    make_bundle: MakeBundle, version: str, int8_flags: set[str], fp16_flags: set[str], skip: str
) -> None:
    bundle = make_bundle(version, pair=version.startswith("8"), samples=2)
    done = build_and_bench(bundle)
    assert done.returncode == 0, done.stderr
    chosen = bundle.chosen()
    assert (chosen["chosen"], chosen["plan"]) == ("int8", "engines/int8.plan")
    assert chosen["why"] == "it is the fastest"
    assert (bundle.root / chosen["plan"]).is_file()
    assert chosen["tensorrt"].startswith(version + ".")
    int8, fp16 = chosen["engines"]
    assert int8["golden"]["passed"] and fp16["golden"]["passed"]
    assert int8["golden"]["samples"] == 2
    # Warm-up runs take 50 ms longer in the stand-in; before 8.6 its file has them too.
    assert 1.0 <= int8["compute_ms"]["median"] < 1.1 and 2.0 <= fp16["compute_ms"]["median"] < 2.1
    assert int8["compute_ms"]["p99"] < 2
    assert int8["latency_ms"]["median"] == pytest.approx(int8["compute_ms"]["median"] + 0.1)
    assert int8["h2d_ms"]["median"] == int8["d2h_ms"]["median"] == 0.05, "copies must be measured"
    assert int8["latency_ms"]["n"] > 50
    for name in ("int8", "fp16"):
        assert (bundle.root / "results" / name / "profile.json").is_file()

    typing = {"--int8", "--fp16", "--stronglyTyped", "--best", "--noTF32"}
    builds = flags(bundle.calls(), "onnx")
    assert [typing & set(call) for call in builds] == [int8_flags, fp16_flags]
    assert all(skip in call and "--timingCacheFile=engines/timing.cache" in call for call in builds)
    timed = flags(bundle.calls(), "exportTimes")
    wanted = {"--includeDataTransfers"} if version == "11" else {"--useSpinWait", "--useCudaGraph"}
    extra = {
        "--includeDataTransfers",
        "--useSpinWait",
        "--useCudaGraph",
        "--noCudaGraph",
        "--noDataTransfers",
    }
    assert [extra & set(call) for call in timed] == [wanted, wanted]
    assert all({"--warmUp=500", "--iterations=200", "--duration=10"} <= set(call) for call in timed)
    assert not flags(timed, "exportProfile"), "the profiler slows down what is timed"


@pytest.mark.parametrize(("version", "wanted"), [("10.3", set()), ("11", {"--noCudaGraph"})])
def test_without_cuda_graphs(make_bundle: MakeBundle, version: str, wanted: set[str]) -> None:
    bundle = make_bundle(version, precisions=("fp16",))
    assert bundle.script("build_engine.sh").returncode == 0
    assert bundle.script("bench.sh", "--no-cuda-graph").returncode == 0
    assert bundle.chosen()["cuda_graph"] == "no"
    (timed,) = flags(bundle.calls(), "exportTimes")
    assert {"--useCudaGraph", "--noCudaGraph"} & set(timed) == wanted


def test_a_float32_plan_is_alone(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(precisions=("float32",))
    done = build_and_bench(bundle)
    assert done.returncode == 0, done.stderr
    assert bundle.chosen()["chosen"] == "float32"
    assert "only one" in bundle.chosen()["why"]
    assert "--noTF32" in flags(bundle.calls(), "onnx")[0]


def test_fp16_is_faster(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    bundle.configure(ms={"int8": 2.0, "fp16": 1.0})
    assert build_and_bench(bundle).returncode == 0
    assert bundle.chosen()["chosen"] == "fp16"


@pytest.mark.parametrize(("int8", "chosen"), [(0.99, "fp16"), (0.95, "int8")])
def test_a_tie_goes_to_the_more_exact_engine(make_bundle: MakeBundle, int8: float, chosen: str) -> None:
    bundle = make_bundle()
    bundle.configure(ms={"int8": int8, "fp16": 1.0})
    assert build_and_bench(bundle).returncode == 0
    assert bundle.chosen()["chosen"] == chosen


@pytest.mark.parametrize("off", ["wrong", "nan"])
def test_an_engine_with_other_outputs_is_never_chosen(make_bundle: MakeBundle, off: str) -> None:
    bundle = make_bundle()
    bundle.configure(**{off: ["int8"]})
    done = build_and_bench(bundle)
    assert done.returncode == 0
    chosen = bundle.chosen()
    assert chosen["chosen"] == "fp16"
    row = chosen["engines"][0]
    assert row["name"] == "int8" and row["reason"] == "its outputs differ from the golden ones"
    assert row["golden"]["outputs"][0]["out_of_tolerance"] > 0
    assert "latency_ms" not in row, "time is not spent on it"
    assert "golden outputs agree" in done.stdout and "int8 is out" in done.stderr


def test_a_companion_with_golden_outputs_of_its_own(make_bundle: MakeBundle) -> None:
    """Without them it is compared with the first file's, by a tolerance that allows for quantisation."""
    bundle = make_bundle(precisions=("fp16", "float32"))
    assert build_and_bench(bundle).returncode == 0
    fp16, float32 = (row["golden"] for row in bundle.chosen()["engines"])
    assert fp16["compared_with"] == float32["compared_with"] == "model.onnx"
    assert float32["tolerance"]["share"] == 0.25 and fp16["tolerance"]["share"] == 0.02
    path, outputs = bundle.root / "manifest.json", bundle.root / "golden" / "own.npy"
    manifest = json.loads(path.read_text())
    right = np.load(bundle.root / manifest["golden"]["samples"][0]["outputs"][0]["path"])
    for factor, passed in ((1.0, True), (1.1, False)):
        np.save(outputs, (right * factor).astype(np.float32))
        entry = {"path": "golden/own.npy", "sha256": hashlib.sha256(outputs.read_bytes()).hexdigest()}
        manifest["models"][1]["golden"] = {"samples": [{"outputs": [entry]}]}
        path.write_text(json.dumps(manifest))
        assert bundle.script("bench.sh").returncode == 0
        float32 = bundle.chosen()["engines"][1]["golden"]
        assert float32["compared_with"] == "model_float32.onnx"
        assert (float32["tolerance"]["share"], float32["passed"]) == (0.001, passed)


def test_nothing_is_chosen_when_no_engine_is_right(make_bundle: MakeBundle) -> None:
    """Nor does what an earlier run found stay behind."""
    bundle = make_bundle()
    assert build_and_bench(bundle).returncode == 0
    bundle.configure(wrong=["int8", "fp16"])
    done = bundle.script("bench.sh")
    assert done.returncode == 1
    assert bundle.chosen()["chosen"] is None and bundle.chosen()["plan"] is None
    assert "chosen: none" in done.stdout
    assert not (bundle.root / "results" / "int8" / "times.json").exists()


def test_a_build_that_fails_is_told_and_the_other_engine_used(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    assert bundle.script("build_engine.sh").returncode == 0
    bundle.configure(no_build=["int8"])
    built = bundle.script("build_engine.sh")
    assert built.returncode == 1
    assert "Could not find any implementation" in built.stderr
    assert built.stderr.rstrip().endswith("error: not built: int8")
    assert not (bundle.root / "engines" / "int8.plan").exists(), "the older plan must not stay"
    assert bundle.script("bench.sh").returncode == 0
    chosen = bundle.chosen()
    assert chosen["chosen"] == "fp16" and chosen["engines"][0]["reason"] == "it was not built"


def test_trtexec_is_missing(make_bundle: MakeBundle) -> None:
    if Path("/usr/src/tensorrt/bin/trtexec").exists():
        pytest.skip("this machine has TensorRT")
    bundle = make_bundle()
    (Path(bundle.environment["STANDIN"]).parent / "tools" / "trtexec").unlink()
    for script in ("build_engine.sh", "bench.sh"):
        done = bundle.script(script)
        assert done.returncode == 3
        assert "trtexec is missing: it belongs to JetPack" in done.stderr
    assert bundle.script("build_engine.sh", TRTEXEC="/nowhere/trtexec").returncode == 3


def test_another_trtexec_can_be_named(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    moved = (tmp_path / "tools" / "trtexec").rename(tmp_path / "my trtexec")
    assert bundle.script("build_engine.sh", TRTEXEC=str(moved)).returncode == 0


def test_scripts_for_10_meet_trtexec_11(make_bundle: MakeBundle) -> None:
    bundle = make_bundle("10.3")
    bundle.configure(version=110100)
    done = bundle.script("build_engine.sh")
    assert done.returncode == 2
    assert "this device has TensorRT 11.1.0, but the scripts are for 10.3" in done.stderr
    assert 'version = "11.1"' in done.stderr and not flags(bundle.calls(), "onnx")
    forced = bundle.script("build_engine.sh", "--any-version")
    assert forced.returncode == 1
    assert "Unknown option: --int8" in forced.stderr
    assert (bundle.root / "engines" / "fp16.plan").is_file(), "--stronglyTyped is still known"


def test_plans_of_another_version_are_refused(make_bundle: MakeBundle) -> None:
    bundle = make_bundle("10.3")
    assert bundle.script("build_engine.sh").returncode == 0
    bundle.configure(version=100500)
    done = bundle.script("bench.sh")
    assert done.returncode == 1
    assert "engines/int8.plan was built for tensorrt 10.3.0: run build_engine.sh again" in done.stderr


@pytest.mark.parametrize("what", ["engines/int8.plan", "golden/0_input_0.npy", "golden/0_output_0.npy"])
def test_damaged_files_are_found(make_bundle: MakeBundle, what: str) -> None:
    bundle = make_bundle()
    assert bundle.script("build_engine.sh").returncode == 0
    path = bundle.root / what
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    done = bundle.script("bench.sh")
    assert f"{path.name} is damaged or was changed" in done.stderr
    assert bundle.chosen()["chosen"] in (None, "fp16")


def test_a_changed_model_is_not_built(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    (bundle.root / "model.onnx").write_bytes(b"other")
    done = bundle.script("build_engine.sh")
    assert done.returncode == 2 and "model.onnx is damaged or was changed" in done.stderr


def test_names_of_the_model_reach_no_shell(make_bundle: MakeBundle) -> None:
    """The default names of these tests hold commands, quotes, spaces and a colon."""
    bundle = make_bundle()
    assert build_and_bench(bundle).returncode == 0
    assert not list(bundle.root.rglob("pwned")) and not list(bundle.root.parent.glob("pwned"))
    loads = flags(bundle.calls(), "loadInputs")
    assert len(loads) == 2
    for script in ("build_engine.sh", "bench.sh"):
        assert "pwned" not in (bundle.root / script).read_text()


@pytest.mark.parametrize("name", ["a,b", "it's"])
def test_names_that_trtexec_cannot_take_are_refused(make_bundle: MakeBundle, name: str) -> None:
    bundle = make_bundle(input=name)
    done = bundle.script("build_engine.sh")
    assert done.returncode == 2
    assert f"trtexec cannot address the input {name!r}" in done.stderr


def test_clocks_are_touched_only_when_asked_and_restored(
    make_bundle: MakeBundle, add_program: Callable[[str, str], None], tmp_path: Path
) -> None:
    bundle = make_bundle()
    log = tmp_path / "root"
    add_program("sudo", 'exec "$@"\n')
    add_program("jetson_clocks", f'echo "jetson_clocks $*" >>"{log}"\n')
    query = 'if [[ $1 == -q ]]; then printf "NV Power Mode: 15W\\n0\\n"; exit; fi\n'
    add_program("nvpmodel", f'{query}echo "nvpmodel $*" >>"{log}"\n')
    assert build_and_bench(bundle).returncode == 0
    assert not log.exists()
    assert bundle.chosen()["max_clocks"] == "no"
    assert bundle.chosen()["power_mode"].startswith("NV Power Mode: 15W")

    bundle.configure(wrong=["int8", "fp16"])  # restored after a failure too
    assert bundle.script("bench.sh", "--max-clocks", "--power-mode", "2").returncode == 1
    assert bundle.chosen()["max_clocks"] == "yes"
    assert log.read_text().splitlines() == [
        "nvpmodel -m 2",
        "jetson_clocks --store results/clocks.conf",
        "jetson_clocks ",
        "jetson_clocks --restore results/clocks.conf",
        "nvpmodel -m 0",
    ]


def test_clocks_need_a_jetson(make_bundle: MakeBundle) -> None:
    if shutil.which("jetson_clocks"):
        pytest.skip("this machine is a Jetson")
    bundle = make_bundle()
    assert bundle.script("build_engine.sh").returncode == 0
    done = bundle.script("bench.sh", "--max-clocks")
    assert done.returncode == 3 and "jetson_clocks is missing" in done.stderr


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("bench.sh", ["--fast"]),
        ("bench.sh", ["--power-mode", "2"]),
        ("bench.sh", ["--max-clocks", "--power-mode", "2; reboot"]),
        ("build_engine.sh", ["engine"]),
    ],
)
def test_unknown_options_are_refused(make_bundle: MakeBundle, script: str, arguments: list[str]) -> None:
    done = make_bundle().script(script, *arguments)
    assert done.returncode == 2 and "usage: bash" in done.stderr


def test_tegrastats_runs_beside_and_is_stopped(
    make_bundle: MakeBundle, add_program: Callable[[str, str], None], tmp_path: Path
) -> None:
    from edgekit.backends.onnx.tensorrt import tegrastats

    bundle, running = make_bundle(), tmp_path / "running"
    line = "RAM 3100/7620MB GR3D_FREQ 87%@[918] VDD_IN 9120mW/8800mW"
    add_program(
        "tegrastats",
        f'echo $$ >>"{running}"\nwhile :; do echo "{line}"; read -rt 0.02 <> <(:) || true; done\n',
    )
    assert build_and_bench(bundle).returncode == 0
    readings = tegrastats.parse((bundle.root / "results" / "int8" / "tegrastats.log").read_text())
    assert tegrastats.mean_power_mw(readings) == 9120
    pids = running.read_text().split()
    assert len(pids) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_shellcheck(line: Line, tmp_path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("not installed: shellcheck")
    precisions: tuple[Precision, ...] = ("int8", "fp16", "float32")
    engines = [
        scripts.Engine(name=p, model=f"model_{p}.onnx", precision=p, inputs=("x",), outputs=("y",))
        for p in precisions
    ]
    (tmp_path / "build_engine.sh").write_text(scripts.build_script(line, engines))
    (tmp_path / "bench.sh").write_text(scripts.bench_script(line, engines, warmup_ms=500, runs=200))
    names = ["build_engine.sh", "bench.sh"]
    done = subprocess.run(["shellcheck", *names], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout


def test_the_program_is_for_python_3_6() -> None:
    """JetPack 4.6 has no newer one. It must not need a package either."""
    source = Path(device.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 6))
    imports = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imports |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imports} <= sys.stdlib_module_names
    assert "__future__" not in imports, "annotations came with 3.7"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for given in [*(a.annotation for a in node.args.args), node.returns]:
                simple = given is None or isinstance(given, (ast.Name, ast.Constant))
                assert simple, f"{node.name}: quote annotations, 3.6 evaluates them"


# -- the parts of the program


def test_npy_of_every_type(tmp_path: Path) -> None:
    for dtype in ("float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"):
        value = np.arange(6).reshape(2, 3).astype(dtype)
        np.save(tmp_path / "x.npy", value)
        kind, shape, raw = device.read_npy((tmp_path / "x.npy").read_bytes(), "x.npy")
        assert shape == (2, 3) and device.unpack(kind, raw) == [float(v) for v in value.ravel()]


def test_npy_that_cannot_be_read(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.asfortranarray(np.ones((2, 3), np.float32)))
    np.save(tmp_path / "b.npy", np.ones(3, ">f4"))
    np.save(tmp_path / "c.npy", np.ones(3, np.complex64))
    np.save(tmp_path / "ok.npy", np.ones(3, np.float32))
    data = {p.name: p.read_bytes() for p in tmp_path.glob("*.npy")}
    data["ok.npy"] = data["ok.npy"][:-1]
    for name, raw in {**data, "text": b"hello"}.items():
        with pytest.raises(device.Problem, match=name):
            device.read_npy(raw, name)


def test_int64_inputs_become_int32_where_the_line_has_no_int64(tmp_path: Path) -> None:
    calls: list[list[str]] = []
    (tmp_path / "golden").mkdir()
    np.save(tmp_path / "golden" / "x.npy", np.array([1, -2, 3], np.int64))
    digest = hashlib.sha256((tmp_path / "golden" / "x.npy").read_bytes()).hexdigest()

    def pretend(command: list[str], log: Path) -> str:
        calls.append(command)
        exported = next(c for c in command if c.startswith("--exportOutput=")).split("=")[1]
        (tmp_path / exported).write_text(
            '[\n  { "name" : "y"\n  , "dimensions" : "1"\n  , "values" : [ 1 ]\n } ]'
        )
        return ""

    engine = {"inputs": ["tokens"]}
    files = [{"path": "golden/x.npy", "sha256": digest}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "ROOT", tmp_path)
        patch.setattr(device, "run_trtexec", pretend)
        for int64, size in ((False, 12), (True, 24)):
            got = device.run_sample("fp16", 0, files, engine, "trtexec", {"int64": int64})
            assert got == {"y": ("1", [1.0])}
            raw = (tmp_path / "results/fp16/golden/0_input_0.bin").read_bytes()
            assert len(raw) == size
    assert "--loadInputs=tokens:results/fp16/golden/0_input_0.bin" in calls[0]


def test_comparison() -> None:
    limits = {"share": 0.1, "relative": 0.0}
    good = device.compare([1.0, -2.0], [1.19, -2.0], limits, False)
    assert good["passed"] and good["max_abs"] == pytest.approx(0.19) and good["sqnr_db"] > 20
    assert device.compare([1.0, -2.0], [1.21, -2.0], limits, False)["out_of_tolerance"] == 1
    for bad in (float("nan"), float("inf")):
        row = device.compare([1.0, -2.0], [bad, -2.0], limits, False)
        assert not row["passed"] and row["max_abs"] is None and row["sqnr_db"] is None
        json.dumps(row, allow_nan=False)
    assert device.compare([0.0], [0.0], limits, False)["passed"]
    classes = list(range(200))
    assert device.compare(classes, [1.0, *classes[1:]], limits, True)["passed"]
    assert not device.compare(classes[:50], [1.0, *classes[1:50]], limits, True)["passed"]


def test_versions_in_banners() -> None:
    for text, version in (("v8205", (8, 2, 5)), ("v8001", (8, 0, 1)), ("v101601", (10, 16, 1))):
        assert device.version_of(f"&&&& RUNNING TensorRT.trtexec [TensorRT {text}] # x") == version
    with pytest.raises(device.Problem, match="does not say"):
        device.version_of("trtexec: command not found")


def test_paths_stay_inside(tmp_path: Path) -> None:
    for name in ("../x", "/etc/passwd", "a/../../x"):
        with pytest.raises(device.Problem, match="outside"):
            device.inside(tmp_path, name)
