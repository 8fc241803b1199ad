"""What every link does, written once and run for each of them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit.devices import Link, RunResult, open_link
from edgekit.devices.fake import FakeLink
from edgekit.errors import DeviceError
from edgekit.profiles.loader import load_profile
from edgekit.store import Store
from edgekit.types import DeviceCommand

KINDS = [
    "local",
    "fake",
    pytest.param("emulator", marks=pytest.mark.emulator),
    pytest.param("ssh", marks=pytest.mark.emulator),
    pytest.param("adb", marks=pytest.mark.emulator),
]

# One program for all of them: what it does is named by its first argument.
SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "args")) {
        for (int i = 2; i < argc; i++) printf("[%s]\n", argv[i]);
        return 0;
    }
    if (!strcmp(what, "copy")) {
        FILE *in = fopen(argv[2], "rb");
        FILE *out = fopen(argv[3], "wb");
        int c;
        if (!in || !out) return 9;
        while ((c = fgetc(in)) != EOF) fputc(c, out);
        return fclose(out) ? 9 : 0;
    }
    if (!strcmp(what, "env")) {
        const char *value = getenv(argv[2]);
        printf("%s\n", value ? value : "(unset)");
        return 0;
    }
    if (!strcmp(what, "fail")) {
        printf("some output\n");
        fprintf(stderr, "what went wrong\n");
        return 3;
    }
    if (!strcmp(what, "crash")) {
        fprintf(stderr, "about to crash\n");
        abort();
    }
    if (!strcmp(what, "hang")) {
        for (;;) pause();
    }
    return 0;
}
"""

HARMLESS_IN_A_SHELL_ONLY = [
    "with space",
    "quote \" and '",
    "$(touch owned)",
    "`id`",
    "a;b",
    "*",
    "~",
    "\\n",
    "-x",
    "",
]


def play(command: DeviceCommand, folder: Path) -> RunResult:
    """The program above, for the link that has no machine."""
    what, *rest = command.argv[1:]
    if what == "args":
        return RunResult(returncode=0, stdout="".join(f"[{a}]\n" for a in rest), stderr="")
    if what == "copy":
        (folder / rest[1]).write_bytes((folder / rest[0]).read_bytes())
        return RunResult(returncode=0, stdout="", stderr="")
    if what == "env":
        return RunResult(returncode=0, stdout=command.env.get(rest[0], "(unset)") + "\n", stderr="")
    if what == "fail":
        return RunResult(returncode=3, stdout="some output\n", stderr="what went wrong\n")
    if what == "crash":
        return RunResult(returncode=-6, stdout="", stderr="about to crash\n")
    if what == "hang":
        raise DeviceError("program did not end within 0.5 s and was stopped")
    return RunResult(returncode=0, stdout="", stderr="")


def build_program(compiler: str, folder: Path) -> Path:
    (folder / "p.c").write_text(SOURCE)
    program = folder / "p"
    subprocess.run([compiler, "-o", str(program), str(folder / "p.c")], check=True)
    return program


class Bench:
    """A link, and the program compiled for the machine behind it."""

    def __init__(self, link: Link, program: Path, store: Store) -> None:
        self.link = link
        self.program = program
        self.store = store

    def run(self, *arguments: str, timeout_s: float = 30, **rest) -> RunResult:
        files = {"tool/program": self.program, **rest.pop("files", {})}
        command = DeviceCommand(argv=("tool/program", *arguments), files=files, **rest)
        return self.link.run(command, timeout_s=timeout_s)


@pytest.fixture(scope="module", params=KINDS)
def bench(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    require_tools: Callable[..., None],
) -> Iterator[Bench]:
    store = Store(tmp_path_factory.mktemp("store, with a comma"))
    folder = tmp_path_factory.mktemp("program")
    if request.param == "fake":
        (folder / "p").write_text("played by a function")
        yield Bench(FakeLink(play, store=store), folder / "p", store)
        return
    compiler = "cc" if request.param == "local" else "aarch64-linux-gnu-gcc"
    require_tools(compiler, *(["qemu-aarch64"] if request.param == "emulator" else []))
    spec = request.param
    if spec == "ssh":
        spec = request.getfixturevalue("board").address()
    if spec == "adb":
        spec = f"adb:{request.getfixturevalue('android_phone').serial}"
    link = open_link(spec, load_profile("pi4"), store)
    with link.exclusive():  # what was pushed once stays there
        yield Bench(link, build_program(compiler, folder), store)
    link.close()


def test_it_says_what_it_is(bench: Bench) -> None:
    assert bench.link.name
    assert bench.link.arch
    assert bench.link.source in ("host", "emulator", "device")
    facts = bench.link.facts()
    assert facts["name"]
    assert facts["arch"] == bench.link.arch
    assert facts["emulated"] is (bench.link.source == "emulator")


def test_arguments_arrive_as_they_are(bench: Bench) -> None:
    result = bench.run("args", *HARMLESS_IN_A_SHELL_ONLY)
    assert result.returncode == 0
    assert result.stdout == "".join(f"[{argument}]\n" for argument in HARMLESS_IN_A_SHELL_ONLY)


def test_files_are_pushed_and_outputs_come_back(bench: Bench, tmp_path: Path) -> None:
    data = bytes(range(256)) * 17
    (tmp_path / "data").write_bytes(data)
    result = bench.run("copy", "in.bin", "out.bin", files={"in.bin": tmp_path / "data"}, outputs=("out.bin",))
    assert result.returncode == 0
    assert result.outputs == {"out.bin": data}
    assert result.regions == ()


def test_variables_reach_the_program(bench: Bench) -> None:
    assert bench.run("env", "EK_X", env={"EK_X": "a, b=$c"}).stdout == "a, b=$c\n"
    assert bench.run("env", "EK_X").stdout == "(unset)\n"


def test_a_non_zero_exit_is_a_result(bench: Bench) -> None:
    result = bench.run("fail", outputs=("never.bin",))
    assert result.returncode == 3
    assert result.stdout == "some output\n"
    assert "what went wrong" in result.stderr
    assert result.outputs == {}


def test_an_output_that_was_not_written_is_a_device_error(bench: Bench) -> None:
    with pytest.raises(DeviceError, match=r"did not write never\.bin"):
        bench.run("nothing", outputs=("never.bin",))


def test_a_crash_is_a_device_error(bench: Bench) -> None:
    with pytest.raises(DeviceError, match="SIGABRT") as caught:
        bench.run("crash")
    assert "about to crash" in (caught.value.hint or "")


def test_a_program_that_hangs_is_stopped(bench: Bench) -> None:
    with pytest.raises(DeviceError, match=r"did not end within 0\.5 s"):
        bench.run("hang", timeout_s=0.5)


def test_a_file_that_is_not_there_is_a_device_error(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot push x\.bin"):
        bench.run("nothing", files={"x.bin": tmp_path / "absent"})


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", ""])
def test_names_stay_in_the_folder_of_the_run(bench: Bench, name: str) -> None:
    with pytest.raises(ValueError, match="leaves the run's folder"):
        bench.run("nothing", files={name: bench.program})
    with pytest.raises(ValueError, match="leaves the run's folder"):
        bench.run("nothing", outputs=(name,))


def test_each_run_has_a_folder_of_its_own(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"x")
    bench.run("copy", "in.bin", "out.bin", files={"in.bin": tmp_path / "data"}, outputs=("out.bin",))
    with pytest.raises(DeviceError, match=r"did not write out\.bin"):
        bench.run("nothing", outputs=("out.bin",))
    assert list((bench.store.root / "tmp").iterdir()) == []
