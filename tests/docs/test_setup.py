"""scripts/setup and what sources it. Scripts that log their arguments play pip, apt and Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("setup", "demo", "test", "check", "check_android")
_TOOLS = [
    "bash",
    "basename",
    "cat",
    "cut",
    "dirname",
    "env",
    "find",
    "flock",
    "grep",
    "ls",
    "mkdir",
    "mktemp",
    "rm",
    "sha256sum",
    "tail",
    "touch",
]


@dataclass(frozen=True)
class Checkout:
    """A copy of the scripts, an environment whose Python only writes a log, and a PATH of our own."""

    root: Path

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def program(self, path: Path, body: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "{path.name} $*" >>"{self.root}/log"\n{body}\n')
        path.chmod(0o755)

    def run(self, script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.root / "scripts" / script), *arguments]
        environment = {"PATH": str(self.bin), "HOME": str(self.root), **env}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    def log(self) -> list[str]:
        """What was called since the last look."""
        path = self.root / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def installs(self) -> list[str]:
        return [line for line in self.log() if "pip install" in line]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """As if everything but Python packages were installed, by a user who may not become root."""
    made = Checkout(tmp_path)
    (tmp_path / "scripts").mkdir()
    for name in SCRIPTS:
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts" / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    made.bin.mkdir()
    for name in _TOOLS:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed")
        (made.bin / name).symlink_to(found)
    for name in (
        *("cc", "c++", "qemu-aarch64", "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++"),
        *("chromium", "chromedriver", "shellcheck"),
    ):
        made.program(made.bin / name, "exit 0")
    made.program(made.bin / "id", "echo 1000")
    made.program(made.bin / "sudo", "exit 1")
    made.program(made.venv / "bin" / "python", "exit 0")
    return made


def become_root(checkout: Checkout, apt: str) -> None:
    checkout.program(checkout.bin / "id", "echo 0")
    checkout.program(checkout.bin / "apt-get", apt)


def test_the_second_setup_calls_no_pip(checkout: Checkout) -> None:
    assert checkout.run("setup").returncode == 0
    (install,) = checkout.installs()
    assert install.endswith(f"--editable {checkout.root}")
    assert checkout.run("setup").returncode == 0
    assert checkout.installs() == []


def test_dev_adds_its_packages_and_covers_run(checkout: Checkout) -> None:
    checkout.run("setup", "run")
    checkout.log()
    assert checkout.run("setup", "dev").returncode == 0
    (install,) = checkout.installs()
    assert install.endswith(f"--editable {checkout.root}[dev]")
    checkout.run("setup", "run")
    checkout.run("setup", "dev")
    assert checkout.installs() == []


def test_a_changed_pyproject_is_installed_again(checkout: Checkout) -> None:
    checkout.run("setup")
    checkout.log()
    with (checkout.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    checkout.run("setup")
    assert len(checkout.installs()) == 1


def test_a_failed_pip_ends_with_a_message_and_is_repeated(checkout: Checkout) -> None:
    checkout.program(checkout.venv / "bin" / "python", '[ "$3" != install ]')
    done = checkout.run("setup")
    assert done.returncode == 3
    assert "pip could not install" in done.stderr
    checkout.program(checkout.venv / "bin" / "python", "exit 0")
    checkout.log()
    assert checkout.run("setup").returncode == 0
    assert len(checkout.installs()) == 1


def test_without_a_fitting_python_it_says_which_is_needed(checkout: Checkout) -> None:
    shutil.rmtree(checkout.venv)
    checkout.program(checkout.bin / "python3", "exit 1")
    done = checkout.run("setup")
    assert done.returncode == 3
    assert "no Python 3.11 or later was found" in done.stderr
    assert not checkout.venv.exists()


def test_a_python_without_venv_names_the_package(checkout: Checkout) -> None:
    shutil.rmtree(checkout.venv)
    body = 'case "$2" in *ensurepip*) exit 1 ;; *print*) echo python3.11-venv ;; esac'
    checkout.program(checkout.bin / "python3", body)
    done = checkout.run("setup")
    assert done.returncode == 3
    assert "has no venv module" in done.stderr
    assert "apt-get install python3.11-venv" in done.stderr


def test_a_folder_of_the_user_is_never_cleared(checkout: Checkout) -> None:
    mine = checkout.root / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    done = checkout.run("setup", EDGEKIT_VENV=str(mine))
    assert done.returncode == 3
    assert "not a virtual environment" in done.stderr
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]


def test_without_root_it_names_the_command_and_goes_on(checkout: Checkout) -> None:
    (checkout.bin / "qemu-aarch64").unlink()
    done = checkout.run("setup")
    assert done.returncode == 0
    assert "going on without the emulator" in done.stderr
    assert "apt-get install --no-install-recommends qemu-user" in done.stderr
    assert not any("apt-get" in line for line in checkout.log())


def test_root_installs_what_is_missing_after_an_update(checkout: Checkout) -> None:
    (checkout.bin / "qemu-aarch64").unlink()
    qemu = checkout.bin / "qemu-aarch64"
    become_root(checkout, f'case "$*" in *install*) ln -s "{shutil.which("true")}" "{qemu}" ;; esac')
    (checkout.bin / "ln").symlink_to(str(shutil.which("ln")))
    done = checkout.run("setup")
    assert done.returncode == 0
    assert "qemu-user; going on" not in done.stderr
    update, install = [line for line in checkout.log() if line.startswith("apt-get")]
    assert update.endswith("update")
    assert "install -y --no-install-recommends" in install
    assert "qemu-user" in install.split()
    assert not any("qemu-user" in line for line in _log_of_another_setup(checkout))


def test_a_failed_apt_is_told_and_not_tried_again_at_once(checkout: Checkout) -> None:
    (checkout.bin / "qemu-aarch64").unlink()
    become_root(checkout, 'echo "E: Unable to locate package" >&2; exit 100')
    done = checkout.run("setup")
    assert done.returncode == 0
    assert "apt-get could not install" in done.stderr
    assert "E: Unable to locate package" in done.stderr
    checkout.log()
    assert not any(line.startswith("apt-get") for line in _log_of_another_setup(checkout))


def test_an_unknown_mode_is_refused(checkout: Checkout) -> None:
    done = checkout.run("setup", "everything")
    assert done.returncode == 3
    assert "there is no mode everything" in done.stderr


@pytest.mark.parametrize("installed", [True, False])
def test_the_tests_require_an_emulator_that_is_there(checkout: Checkout, installed: bool) -> None:
    if installed and not Path("/usr/aarch64-linux-gnu/lib/libstdc++.so.6").exists():
        pytest.skip("the arm64 C and C++ libraries are not installed")
    if not installed:
        (checkout.bin / "qemu-aarch64").unlink()
    checkout.program(checkout.venv / "bin" / "python", 'echo "required: ${EDGEKIT_REQUIRE_EMULATOR:-no}"')
    done = checkout.run("test", "tests/plan", "-k", "pi4 or pi5")
    assert done.returncode == 0
    assert f"required: {'1' if installed else 'no'}" in done.stdout.splitlines()
    last = checkout.log()[-1]
    assert last.startswith("python -m pytest -n auto ") and last.endswith(" tests/plan -k pi4 or pi5")


@pytest.mark.parametrize(("code", "shown"), [(0, True), (6, True), (5, False)])
def test_the_demo_passes_on_the_exit_code(checkout: Checkout, code: int, shown: bool) -> None:
    report = checkout.root / "out" / "digits_demo" / "pi4" / "report.html"
    report.parent.mkdir(parents=True)
    report.touch()
    checkout.program(checkout.venv / "bin" / "edgekit", f"exit {code}")
    done = checkout.run("demo", "--seed", "3")
    assert done.returncode == code
    assert (str(report) in done.stdout) == shown
    assert checkout.log()[-1] == "edgekit build --profile pi4 --out out --seed 3"


def test_the_check_runs_every_tool_and_fails_with_any(checkout: Checkout) -> None:
    for name in ("ruff", "mypy", "lint-imports"):
        checkout.program(checkout.venv / "bin" / name, "exit 0")
    assert checkout.run("check").returncode == 0
    checkout.program(checkout.venv / "bin" / "mypy", "exit 1")
    checkout.log()
    done = checkout.run("check")
    assert done.returncode == 1
    assert "failed: mypy" in done.stderr
    assert checkout.log()[-4:] == ["ruff check .", "ruff format --check .", "mypy ", "lint-imports "]


def _log_of_another_setup(checkout: Checkout) -> list[str]:
    assert checkout.run("setup").returncode == 0
    return checkout.log()


def test_every_script_is_executable() -> None:
    for path in (*(ROOT / "scripts" / name for name in SCRIPTS), ROOT / ".ci" / "run"):
        assert os.access(path, os.X_OK), f"{path.relative_to(ROOT)} is not executable"
        assert path.read_text().startswith("#!/usr/bin/env bash\n")
