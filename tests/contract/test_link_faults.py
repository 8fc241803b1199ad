"""What can go wrong with a machine, on every link that can have it: a clear error, nothing left behind."""

from __future__ import annotations

import os
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from boards.machine import Machine

from edgekit.backends import runner_io
from edgekit.bench import bench
from edgekit.devices import Link
from edgekit.errors import DeviceError, DeviceLost, DeviceTimeout
from edgekit.types import Artifact, DeviceCommand, RunProtocol, TensorSpec

ARM = pytest.mark.emulator
ALL = ["local", *(pytest.param(kind, marks=ARM) for kind in ("emulator", "ssh", "adb"))]
REMOTE = [pytest.param(kind, marks=ARM) for kind in ("ssh", "adb")]
LOCKED = ["local", *REMOTE]

HOSTILE = ["with space", "quote ' and \"", "$(touch owned)", "a;b & c", "ünï", "-x"]
_CAT = """
#include <stdio.h>
int main(int n, char **names) {
    for (int i = 1; i < n; i++) {
        FILE *file = fopen(names[i], "rb");
        int c;
        if (!file) return 9;
        while ((c = fgetc(file)) != EOF) putchar(c);
        fclose(file);
    }
    return 0;
}
"""
_SAYS = """
#include <stdio.h>
#include <stdlib.h>
int main(int n, char **v) {
    FILE *file = fopen(v[2], "wb");
    for (int i = atoi(v[3]); i > 0; i--) fputc(i, file);
    fclose(file);
    puts(v[1]);
    return n != 4;
}
"""
_WAIT_FOREVER = "#include <unistd.h>\nint main(void) { for (;;) pause(); }"


@pytest.fixture
def machine(request: pytest.FixtureRequest, make_machine: Callable[[str], Machine]) -> Machine:
    return make_machine(request.param)


@pytest.fixture
def link(machine: Machine) -> Iterator[Link]:
    made = machine.open()
    yield made
    made.close()


def big_file(folder: Path) -> Path:
    """Some megabytes that no connection could compress."""
    path = folder / "big.bin"
    path.write_bytes(os.urandom(3 << 20))
    return path


@pytest.mark.parametrize("machine", ALL, indirect=True)
class TestEveryLink:
    def test_names_and_arguments_reach_no_shell(self, machine: Machine, link: Link, tmp_path: Path) -> None:
        program = machine.build(tmp_path, _CAT)
        (tmp_path / "data").write_bytes(b"what is in it\n")
        with link.workspace() as space:
            space.push({"p": program, **{f"in/{name}": tmp_path / "data" for name in HOSTILE}})
            said = space.run(["p", *(f"in/{name}" for name in HOSTILE)], timeout_s=30)
            assert said.stdout == "what is in it\n" * len(HOSTILE)
            space.pull(f"in/{HOSTILE[2]}", tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == b"what is in it\n"
            assert space.run(["p", "owned"], timeout_s=30).returncode == 9
        assert machine.is_clean()

    def test_a_program_of_another_machine(self, machine: Machine, link: Link, tmp_path: Path) -> None:
        program = tmp_path / "program"
        program.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, 243) + bytes(64))
        program.chmod(0o755)
        with link.workspace() as space:
            space.push({"program": program})
            with pytest.raises(DeviceError, match=r"is a program for riscv64, but .* runs programs for"):
                space.run(["program"], timeout_s=30)
        assert machine.is_clean()

    def test_a_missing_library(self, machine: Machine, link: Link, tmp_path: Path) -> None:
        shared = ("-shared", "-fPIC", "-Wl,-soname,libgone.so")
        library = machine.build(tmp_path, "int f(void) { return 0; }", *shared, name="libgone.so")
        program = machine.build(tmp_path, "int f(void); int main(void) { return f(); }", str(library))
        with pytest.raises(DeviceError, match=r"lacks the library libgone\.so"):
            link.run(DeviceCommand(argv=("program",), files={"program": program}), timeout_s=30)
        assert machine.is_clean()

    def test_a_program_that_the_kernel_killed(self, machine: Machine, link: Link, tmp_path: Path) -> None:
        program = machine.build(tmp_path, "#include <signal.h>\nint main(void) { return raise(SIGKILL); }")
        with pytest.raises(DeviceError, match="ended by SIGKILL") as caught:
            link.run(DeviceCommand(argv=("program",), files={"program": program}), timeout_s=30)
        assert "memory" in (caught.value.hint or "")
        assert machine.is_clean()

    def test_a_program_that_hangs_is_gone_afterwards(
        self, machine: Machine, link: Link, tmp_path: Path
    ) -> None:
        word = f"hang{os.urandom(6).hex()}"
        program = machine.build(tmp_path, _WAIT_FOREVER)
        with pytest.raises(DeviceTimeout, match=r"did not end within 1 s"):
            link.run(DeviceCommand(argv=("program", word), files={"program": program}), timeout_s=1)
        assert not _runs_here(word)
        assert machine.is_clean()


class _Backend:
    """A runtime whose runner prints and writes what it is told: of one int8 tensor of 4 values."""

    def __init__(self, program: Path, report: str, size: int) -> None:
        self._program, self._report, self._size = program, report, size

    def device_command(self, *_: Any, **__: Any) -> DeviceCommand:
        argv = ("runner", self._report, "out0.bin", str(self._size))
        return DeviceCommand(argv=argv, files={"runner": self._program}, outputs=("out0.bin",))

    def parse(self, stdout: str, outputs: Any = None) -> Any:
        return runner_io.last_report(stdout, "test")

    def read_outputs(self, artifact: Any, files: Any) -> Any:
        return runner_io.read_outputs(artifact.outputs, files, "test")


# Less time than any program takes to start: it has to fit into what this machine's clock saw.
_GOOD = '{"runs_ms":[0.0010,0.0011],"load_ms":0.0,"peak_rss_kb":10}'


_BAD = [
    (_GOOD[:-9], 4, "printed no report"),
    ("\\x01\\x02 no JSON {", 4, "printed no report"),
    (_GOOD, 3, "has 3 bytes instead of 4"),
    (_GOOD, 0, "has 0 bytes instead of 4"),
    (_GOOD.replace("0.0011", "-40.5"), 4, "clock jumped"),
    (_GOOD.replace("0.0011", "9e9"), 4, "clock there jumped or runs fast"),
]


@pytest.mark.parametrize("machine", LOCKED, indirect=True)
def test_what_a_runner_says(machine: Machine, link: Link, tmp_path: Path) -> None:
    """Output that is cut off, garbage, or times of a clock that jumped: an error, and never a figure."""
    program = machine.build(tmp_path, _SAYS)
    tensor = TensorSpec(name="y", shape=(1, 4), dtype="int8")
    artifact = Artifact(
        sha256="0" * 64, format="tflite", precision="int8", path=program, bytes=1, outputs=(tensor,)
    )

    def run(report: str, size: int) -> Any:
        backend: Any = _Backend(program, report, size)
        return bench(backend, artifact, [], link, store=machine.store, protocol=RunProtocol(), facts={})

    with link.exclusive():
        assert run(_GOOD, 4).measurements[0].n == 2
        for report, size, words in _BAD:
            with pytest.raises(DeviceError, match=words):
                run(report, size)
    assert machine.is_clean()


@pytest.mark.parametrize("machine", LOCKED, indirect=True)
def test_two_at_once(machine: Machine, link: Link) -> None:
    other = machine.open()
    with link.exclusive():
        with (
            pytest.raises(DeviceError, match=r"is in use by another edgekit .*process") as caught,
            other.exclusive(),
        ):
            pass
        assert "wait" in (caught.value.hint or "")
        with link.exclusive():  # its own does not stand in its way
            pass
    with other.exclusive():
        pass
    other.close()
    assert machine.is_clean()


@pytest.mark.parametrize("machine", REMOTE, indirect=True)
class TestMachinesElsewhere:
    def test_it_vanishes_during_a_push_and_comes_back(
        self, machine: Machine, link: Link, tmp_path: Path
    ) -> None:
        with link.workspace() as space:
            space.push({"before": Path(__file__)})
            self._cut_after_bytes(machine, up=True)
            if machine.kind == "adb":  # plugged in again as soon as it has gone
                _when(lambda: machine.end._listener is None, machine.mend)
            space.push({"big.bin": big_file(tmp_path)})
            space.pull("before", tmp_path / "before")
            space.pull("big.bin", tmp_path / "back.bin")
        assert (tmp_path / "before").read_bytes() == Path(__file__).read_bytes()
        assert (tmp_path / "back.bin").read_bytes() == (tmp_path / "big.bin").read_bytes()
        assert machine.is_clean()

    def test_it_vanishes_during_a_push_for_good(self, machine: Machine, link: Link, tmp_path: Path) -> None:
        if machine.kind == "ssh":
            assert machine.cable is not None
            cable = machine.cable
            cable.cut_up_after = 300_000
            _when(lambda: cable.cut_up_after is None, machine.cut)
        else:
            machine.end.faults.cut_send_after = 300_000
        with pytest.raises(DeviceLost), link.workspace() as space:
            space.push({"big.bin": big_file(tmp_path)})
        machine.mend()
        assert machine.is_clean()

    def test_it_vanishes_during_a_run(self, machine: Machine, link: Link, tmp_path: Path) -> None:
        word = f"hang{os.urandom(6).hex()}"
        program = machine.build(tmp_path, _WAIT_FOREVER, "-static")
        with pytest.raises(DeviceLost, match="broke while running program"), link.workspace() as space:
            space.push({"program": program})
            _when(lambda: _runs_here(word), machine.cut)
            space.run(["program", word], timeout_s=60)
        machine.mend()
        assert machine.is_clean()
        assert not _runs_here(word), "what ran there has to end with the connection"

    def test_it_vanishes_during_a_pull(self, machine: Machine, link: Link, tmp_path: Path) -> None:
        target = tmp_path / "back.bin"
        with pytest.raises(DeviceLost), link.workspace() as space:
            space.push({"big.bin": big_file(tmp_path)})
            self._cut_after_bytes(machine, up=False)
            space.pull("big.bin", target)
        if machine.kind == "adb":
            machine.mend()
        assert not list(tmp_path.glob("back.bin*"))
        assert machine.is_clean()

    def test_its_disk_is_full(self, machine: Machine, link: Link, tmp_path: Path) -> None:
        assert machine.base is not None
        machine.base.parent.mkdir(exist_ok=True)
        place = machine.base.parent
        owner = place.stat()
        _in_namespace(
            machine, "mount", "-t", "tmpfs", "-o", "size=200k,mode=777", "none", _there(machine, place)
        )
        try:
            with pytest.raises(DeviceError, match="no space left on"), link.workspace() as space:
                space.push({"big.bin": big_file(tmp_path)})
        finally:
            _in_namespace(machine, "umount", "-l", _there(machine, place))
        assert place.stat().st_uid == owner.st_uid

    def test_its_folder_may_not_be_written(self, machine: Machine, link: Link, tmp_path: Path) -> None:
        assert machine.base is not None
        machine.base.parent.mkdir(exist_ok=True)
        place = machine.base.parent
        before = place.stat()
        os.chown(place, 0, 0)
        place.chmod(0o755)
        try:
            with pytest.raises(DeviceError, match="not permitted") as caught, link.workspace():
                pass
        finally:
            os.chown(place, before.st_uid, before.st_gid)
            place.chmod(before.st_mode & 0o7777)
        assert "edgekit needs to write below" in (caught.value.hint or "")

    def _cut_after_bytes(self, machine: Machine, *, up: bool) -> None:
        if machine.kind == "ssh":
            assert machine.cable is not None
            machine.cable.cut_up_after = 300_000 if up else None
            machine.cable.cut_down_after = None if up else 300_000
        elif up:
            machine.end.faults.cut_send_after = 300_000
        else:
            machine.end.faults.cut_receive_after = 300_000


def _when(condition: Callable[[], bool], act: Callable[[], None]) -> None:
    """Do something from another thread as soon as a condition holds."""

    def watch() -> None:
        deadline = time.monotonic() + 60
        while not condition():
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        act()

    threading.Thread(target=watch, daemon=True).start()


def _runs_here(word: str) -> bool:
    """Whether a program with this argument runs; the device ends share this machine's processes."""
    done = subprocess.run(["pgrep", "-f", f"program {word}"], capture_output=True, check=False)
    return done.returncode == 0


def _there(machine: Machine, path: Path) -> str:
    """A path of the device as the namespace sees it."""
    if machine.kind == "ssh":  # its root is mounted where sshd lets accounts in
        return f"/mnt/{path.relative_to(machine.end.root)}"
    return str(path)


def _in_namespace(machine: Machine, *argv: str) -> None:
    machine.end.namespace.run(*argv)
