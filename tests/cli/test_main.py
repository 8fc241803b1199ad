"""The error boundary, start-up, and what a shell sees."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from edgekit import errors
from edgekit.cli.main import COMMANDS

Cli = Callable[..., Any]


def tree() -> Iterator[type[errors.EdgekitError]]:
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, errors.EdgekitError):
            yield value


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `cache size` raise."""

    def set_error(error: BaseException) -> None:
        def fail(_: object) -> None:
            raise error

        monkeypatch.setattr("edgekit.store.Store.usage", fail)

    return set_error


class TestBoundary:
    @pytest.mark.parametrize("kind", tree())
    def test_each_error_has_its_exit_code(
        self, kind: type[errors.EdgekitError], failing: Callable[..., None], cli: Cli
    ) -> None:
        failing(kind("it did not work", hint="try again"))
        said = cli("cache", "size")
        assert said.code == kind.exit_code
        assert said.refusal() == ("it did not work", "try again")

    def test_without_a_hint_there_is_no_empty_line(self, failing: Callable[..., None], cli: Cli) -> None:
        failing(errors.UserError("it did not work"))
        assert cli("cache", "size").err == "error: it did not work\n"

    def test_the_docstring_tells_the_codes(self) -> None:
        """The drawn tree is what the classes are."""
        drawn = {
            words[0]: int(words[1])
            for line in (errors.__doc__ or "").splitlines()
            if len(words := line.replace("│", "").replace("├──", "").replace("└──", "").split()) > 2
            and words[1].isdigit()
        }
        assert drawn == {kind.__name__: kind.exit_code for kind in tree()}

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_a_full_disk_anywhere(self, code: int, failing: Callable[..., None], cli: Cli) -> None:
        failing(OSError(code, os.strerror(code), "/somewhere/file"))
        said = cli("cache", "size")
        assert said.code == 5
        assert said.refusal()[0] == "the disk is full at /somewhere/file"

    def test_too_little_memory(self, failing: Callable[..., None], cli: Cli) -> None:
        failing(MemoryError())
        said = cli("cache", "size")
        assert said.code == 5 and "too little memory" in said.refusal()[0]

    @pytest.mark.parametrize("error", [ZeroDivisionError("oops"), OSError(errno.EIO, "input/output error")])
    def test_anything_else_is_a_bug(self, error: Exception, failing: Callable[..., None], cli: Cli) -> None:
        failing(error)
        said = cli("cache", "size")
        assert said.code == 70
        assert "Traceback" in said.err and str(error) in said.err
        assert "error: this is a bug in edgekit" in said.err and "edgekit doctor --json" in said.err

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
    def test_stopped(self, error: BaseException, failing: Callable[..., None], cli: Cli) -> None:
        failing(error)
        said = cli("cache", "size")
        assert said.code == 130
        assert said.refusal() == ("stopped", "run the same command again: finished steps are kept")


class TestUsage:
    def test_an_unknown_command(self, cli: Cli) -> None:
        said = cli("biuld")
        assert said.code == 2
        assert said.refusal() == (
            "there is no command 'biuld'. Did you mean build?",
            "see `edgekit --help`",
        )

    def test_an_unknown_command_of_a_group(self, cli: Cli) -> None:
        said = cli("cache", "sizee")
        assert said.code == 2
        sentence, hint = said.refusal()
        assert "'sizee'" in sentence and hint == "see `edgekit cache --help`"

    @pytest.mark.parametrize("arguments", [(), ("profiles",), ("cache",)])
    def test_nothing_asked_shows_help(self, arguments: tuple[str, ...], cli: Cli) -> None:
        said = cli(*arguments)
        assert said.code == 2
        assert said.err.startswith(f"Usage: {' '.join(('edgekit', *arguments))}") and "error:" not in said.err

    def test_help_lists_every_command_with_its_line(self, cli: Cli) -> None:
        said = cli("--help")
        assert said.code == 0
        plain = " ".join(said.out.split())
        for name, (_, _, line) in COMMANDS.items():
            assert f" {name} {line}" in plain
        for code in ("2", "3", "4", "5", "6", "7", "70", "130"):
            assert f" {code} " in plain.partition("Exit codes:")[2]


# Imports everything that a help text needs, then names the heavy modules among what came in.
WHAT_CAME_IN = """
import sys
from edgekit.cli.main import run
code = run(sys.argv[1:])
heavy = ("torch", "numpy", "pydantic", "tensorflow", "onnx", "onnxruntime", "sklearn", "rich", "jinja2")
print("|", code, *(name for name in heavy if name in sys.modules))
"""


class TestStart:
    @pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["build", "--help"], ["biuld"]])
    def test_help_imports_nothing_heavy(self, arguments: list[str]) -> None:
        done = subprocess.run(
            [sys.executable, "-c", WHAT_CAME_IN, *arguments], capture_output=True, text=True, check=True
        )
        code = "2" if arguments == ["biuld"] else "0"
        assert done.stdout.splitlines()[-1].split() == ["|", code]

    def test_listing_profiles_imports_no_framework(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", WHAT_CAME_IN, "profiles", "list", "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        came_in = done.stdout.splitlines()[-1].split()
        assert came_in[:2] == ["|", "0"] and not {"torch", "tensorflow", "onnx"} & set(came_in)
        assert "pydantic" in came_in, "the list of heavy modules is looked at"


class TestShell:
    def test_a_reader_that_goes_away_ends_it_quietly(self, script: list[str]) -> None:
        """As in `edgekit profiles list | head -1`, but certain: nobody reads at all."""
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as nobody:
            done = subprocess.run(
                [*script, "profiles", "list"], stdout=nobody, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode == 141 and done.stderr == ""

    def test_without_stdout_the_exit_code_remains(self, script: list[str]) -> None:
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *script, "profiles", "show"]
        for name, code in (("pi4", 0), ("pi44", 2)):
            done = subprocess.run([*command, name], stderr=subprocess.PIPE, text=True, check=False)
            assert done.returncode == code and "Traceback" not in done.stderr

    @pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
    def test_a_signal_unwinds(
        self, name: str, code: int, script: list[str], tmp_path: Path, interruptible: Callable[[], None]
    ) -> None:
        """The user's code tells when it runs; what edgekit holds then is given back."""
        (tmp_path / "slow.py").write_text(
            "import time\n\n\ndef net():\n    print('here', flush=True)\n    time.sleep(600)\n"
        )
        process = subprocess.Popen(
            [*script, "plan", "slow.py:net", "--profile", "pi4", "--input-shape", "1,3,8,8"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=interruptible,
        )
        assert process.stderr is not None
        assert "here" in iter(process.stderr.readline, "").__next__()
        process.send_signal(getattr(signal, name))
        out, err = process.communicate(timeout=60)
        assert process.returncode == code
        assert out == "" and err.strip().startswith("error: stopped\n") and "Traceback" not in err
