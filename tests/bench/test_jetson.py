"""A bundle for TensorRT over a real ssh link, with a stand-in for trtexec.

No TensorRT is run: the stand-in has trtexec's flags, messages and files, and infers by ONNX Runtime. It says
so in every log, and every result has it as its source.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from boards.sshd import Sshd

from edgekit.backends import get_backend
from edgekit.bench.jetson import bench_jetson
from edgekit.bundle import load_manifest
from edgekit.deploy import bundle_files, deploy
from edgekit.devices import Link, open_link
from edgekit.errors import DeviceError
from edgekit.store import Store

pytestmark = [pytest.mark.emulator, pytest.mark.slow]
TENSORRT = Path(__file__).parents[1] / "backends" / "onnx" / "tensorrt"
STATS = (TENSORRT / "samples" / "tegrastats_variants.txt").read_text().splitlines()[0]


def _fixtures() -> Any:
    """The bundles of the tests of the scripts."""
    spec = importlib.util.spec_from_file_location("tensorrt_fixtures", TENSORRT / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["tensorrt_fixtures"] = module
    spec.loader.exec_module(module)
    return module


fixtures = _fixtures()
make_bundle = fixtures.make_bundle


@pytest.fixture
def jetson(host_account: Sshd) -> Sshd:
    """An account of this machine whose programs are the stand-ins."""
    return host_account


@pytest.fixture
def link(jetson: Sshd, tmp_path: Path) -> Iterator[Link]:
    made = open_link(jetson.address(user="root"), None, Store(tmp_path / "store"))
    yield made
    made.close()


@pytest.fixture
def bundle(make_bundle: Callable[..., Any], jetson: Sshd) -> Any:
    """A bundle, and the stand-ins of its kind of TensorRT on the "device"."""
    made = make_bundle("10.3", samples=2)
    tools = jetson.folder / "stand-in"
    for name in ("trtexec", "python3"):
        source = Path(made.environment["PATH"].split(":")[0]) / name
        shutil.copy(source, tools / name)
    shutil.copy(made.standin, jetson.folder / "standin.json")
    (tools / "tegrastats").write_text(f"#!/bin/sh\nwhile :; do echo '{STATS}'; sleep 0.1; done\n")
    (tools / "tegrastats").chmod(0o755)
    return made


def settings(jetson: Sshd, bundle: Any, **changes: Any) -> None:
    bundle.configure(**changes)
    shutil.copy(bundle.standin, jetson.folder / "standin.json")


def left_behind(jetson: Sshd) -> bool:
    return (jetson.home / ".cache" / "edgekit").exists()


@pytest.mark.parametrize(
    ("ms", "chosen"), [({"int8": 1.0, "fp16": 2.0}, "int8"), ({"int8": 2.0, "fp16": 1.0}, "fp16")]
)
def test_the_faster_engine_that_is_right(
    ms: dict[str, float], chosen: str, jetson: Sshd, bundle: Any, link: Link, tmp_path: Path
) -> None:
    settings(jetson, bundle, ms=ms)
    done = bench_jetson(bundle_files(bundle.root), link, store=Store(tmp_path / "store"))
    first, second = done.measurements
    assert (first.detail["engine"], first.subject, first.source) == (chosen, "final", "stand-in")
    assert second.source == "stand-in", "no figure passes for one of TensorRT"
    assert first.detail["stand_in"] == str(TENSORRT / "trtexec_standin.py")
    assert first.median == pytest.approx(1.1, abs=0.01) and second.median == pytest.approx(2.1, abs=0.01)
    assert first.detail["why"] == "it is the fastest" and first.detail["compute_ms"] < first.median
    assert first.detail["ops"][0]["us"] == 1000 * ms[chosen]
    assert first.detail["power_mw"] == 9120 and first.detail["celsius"] == [49.1, 49.1]
    assert not left_behind(jetson)


def test_an_engine_that_computes_something_else_is_left_out(
    jetson: Sshd, bundle: Any, link: Link, tmp_path: Path
) -> None:
    settings(jetson, bundle, wrong=["int8"])
    (only,) = bench_jetson(bundle_files(bundle.root), link, store=Store(tmp_path / "store")).measurements
    assert only.detail["engine"] == "fp16"
    assert only.detail["left_out"] == {"int8": "its outputs differ from the golden ones"}


def test_no_engine_is_good(jetson: Sshd, bundle: Any, link: Link, tmp_path: Path) -> None:
    settings(jetson, bundle, wrong=["int8"], no_build=["fp16"])
    with pytest.raises(
        DeviceError, match=r"no engine .* is good .*int8: its outputs differ.*fp16: it was not"
    ):
        bench_jetson(bundle_files(bundle.root), link, store=Store(tmp_path / "store"))
    assert not left_behind(jetson)


def test_another_tensorrt(jetson: Sshd, bundle: Any, link: Link, tmp_path: Path) -> None:
    settings(jetson, bundle, version=8502)
    with pytest.raises(
        DeviceError, match=r"scripts failed .*has TensorRT 8\.5\.2, but the scripts are for 10"
    ):
        bench_jetson(bundle_files(bundle.root), link, store=Store(tmp_path / "store"))


def test_deploy_keeps_the_engines(jetson: Sshd, bundle: Any, link: Link, tmp_path: Path) -> None:
    manifest = load_manifest(bundle.root)
    backend = get_backend("onnx")
    artifact = backend.open_file(manifest.model_path)
    done = deploy(link, manifest, backend, artifact, Store(tmp_path / "store"), keep=True)
    assert done.passed and len(done.results) == 2
    assert done.stand_in == str(TENSORRT / "trtexec_standin.py")
    kept = Path(str(done.kept))
    chosen = json.loads((kept / "chosen.json").read_text())
    assert (kept / chosen["plan"]).is_file()
    assert not left_behind(jetson)
