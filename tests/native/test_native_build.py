"""Compiling on demand: cached by content, atomic, and clear when something is missing."""

from __future__ import annotations

import os
import platform
import shutil
import struct
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.errors import MissingDependency, StepFailed, Unsupported, UserError
from edgekit.native import build, counter_plugin, litert_library, litert_runtime
from edgekit.native.cache import cached_folder
from edgekit.native.litert_library import LIBRARY, WHEEL_VARIABLE, litert_version
from edgekit.store import Store

HOST = platform.machine()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def _host_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WHEEL_VARIABLE, raising=False)
    if shutil.which("cc") is None:
        pytest.skip("no C compiler on this host")


@pytest.fixture
def compiler_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    real = build._run_compiler

    def record(argv, compiler) -> None:
        calls.append(argv[0])
        real(argv, compiler)

    monkeypatch.setattr(build, "_run_compiler", record)
    return calls


def make_wheel(folder: Path, *, version: str, member: str | None, machine: int = 183) -> Path:
    path = folder / f"ai_edge_litert-{version}-cp311-cp311-manylinux_2_27_aarch64.whl"
    elf = b"\x7fELF" + bytes(14) + struct.pack("<H", machine) + bytes(20)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member or "other.txt", elf)
    return path


def test_the_second_call_compiles_nothing(store: Store, compiler_calls: list[str]) -> None:
    first = counter_plugin(store)
    assert counter_plugin(store) == first
    assert len(compiler_calls) == 1
    assert first.is_relative_to(store.root / "native")
    assert list((store.root / "tmp").iterdir()) == []


def test_a_changed_source_is_compiled_anew(
    store: Store, compiler_calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = counter_plugin(store)
    copy = tmp_path / "sources"
    shutil.copytree(build._SOURCES, copy)
    (copy / "ekcount.c").write_text((copy / "ekcount.c").read_text() + "\n/* changed */\n")
    monkeypatch.setattr(build, "_SOURCES", copy)
    assert counter_plugin(store) != first
    assert len(compiler_calls) == 2


def test_a_damaged_entry_is_made_again(store: Store, compiler_calls: list[str]) -> None:
    counter_plugin(store).unlink()
    assert counter_plugin(store).is_file()
    assert len(compiler_calls) == 2


def test_a_compile_error_shows_what_the_compiler_said_and_caches_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "sources"
    shutil.copytree(build._SOURCES, copy)
    (copy / "ekcount.c").write_text("int broken(void) { return nonsense; }\n")
    monkeypatch.setattr(build, "_SOURCES", copy)
    with pytest.raises(StepFailed, match="nonsense") as caught:
        counter_plugin(store)
    assert "apt-get install" in (caught.value.hint or "")
    assert not list((store.root / "native").glob("*"))


def test_a_missing_compiler_is_named_with_the_mending_command(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="cc is not installed") as caught:
        counter_plugin(store)
    assert caught.value.exit_code == 3
    assert caught.value.hint == "apt-get install --no-install-recommends gcc libc6-dev"


def test_the_host_runner_lies_beside_the_installed_library(store: Store) -> None:
    files = litert_runtime(HOST, store)
    assert set(files) == {"litert_run", LIBRARY}
    assert os.access(files["litert_run"], os.X_OK)
    assert files[LIBRARY].parent.name == "ai_edge_litert"
    assert "ai_edge_litert" not in sys.modules or sys.modules["ai_edge_litert"].__file__


def test_an_unknown_machine_is_unsupported(store: Store) -> None:
    with pytest.raises(Unsupported, match="riscv64"):
        litert_runtime("riscv64", store)


def test_without_network_the_error_gives_the_command_and_the_way_round(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if HOST == "aarch64":
        pytest.skip("the host's own library is used")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(MissingDependency, match="cannot be downloaded") as caught:
        litert_library.litert_library("aarch64", store)
    hint = caught.value.hint or ""
    assert f"ai-edge-litert=={litert_version()}" in hint
    assert "manylinux_2_27_aarch64" in hint
    assert WHEEL_VARIABLE in hint


def test_a_named_wheel_is_used(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if HOST == "aarch64":
        pytest.skip("the host's own library is used")
    wheel = make_wheel(tmp_path, version=litert_version(), member=f"ai_edge_litert/{LIBRARY}")
    monkeypatch.setenv(WHEEL_VARIABLE, str(wheel))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    library = litert_library.litert_library("aarch64", store)
    assert library.read_bytes().startswith(b"\x7fELF")


Wheel = Callable[[Path], Path]


@pytest.mark.parametrize(
    ("wheel", "complaint"),
    [
        (lambda d: d / "absent.whl", "not a file"),
        (lambda d: make_wheel(d, version="0.0.1", member="x"), "0.0.1"),
        (lambda d: make_wheel(d, version=litert_version(), member=None), "it has no"),
        (
            lambda d: make_wheel(d, version=litert_version(), member=f"ai_edge_litert/{LIBRARY}", machine=62),
            "another machine",
        ),
    ],
)
def test_a_wheel_that_does_not_fit_is_refused(
    wheel: Wheel, complaint: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if HOST == "aarch64":
        pytest.skip("the host's own library is used")
    monkeypatch.setenv(WHEEL_VARIABLE, str(wheel(tmp_path)))
    with pytest.raises(UserError, match=complaint):
        litert_library.litert_library("aarch64", store)
    assert not list((store.root / "native").glob("*"))


def test_a_folder_that_fails_half_way_is_not_kept(store: Store) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise StepFailed("no luck")

    with pytest.raises(StepFailed):
        cached_folder(store, {"a": 1}, ("half",), fail)
    assert cached_folder(store, {"a": 1}, ("half",), lambda f: (f / "half").touch() or None).is_dir()


def test_two_at_once_make_it_once(store: Store) -> None:
    made: list[int] = []
    start = threading.Barrier(2)

    def make(folder: Path) -> None:
        made.append(1)
        threading.Event().wait(0.2)  # long enough for the other to arrive at the lock
        (folder / "f").touch()

    def work() -> None:
        start.wait()
        cached_folder(store, {"a": 1}, ("f",), make)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_two_keys_have_two_folders(store: Store) -> None:
    def make(folder: Path) -> None:
        (folder / "f").touch()

    assert cached_folder(store, {"a": 1}, ("f",), make) != cached_folder(store, {"a": 2}, ("f",), make)
