"""The wheel holds all that edgekit needs: built, installed in a fresh environment and run there."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROFILES = sorted(path.stem for path in (ROOT / "device_profiles").glob("*.toml"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, so that nothing is left in the checkout."""
    for module in ("build", "hatchling"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed (pip install -e .[dev] hatchling)")
    tree = tmp_path_factory.mktemp("tree")
    for name in ("edgekit", "device_profiles"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, tree / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."]
    built = subprocess.run(command, cwd=tree, env=_clean_env(), capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (tree / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bin`` of a fresh environment with the wheel; its dependencies are those of this environment.

    They are put behind the environment's own packages by a .pth file. Folders named by a .pth file are
    not searched for further .pth files, so an editable edgekit of this environment stays out.
    """
    if importlib.util.find_spec("pip") is None:
        pytest.skip("pip is not installed")
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)], cwd=folder.parent)
    python = folder / "bin" / "python"
    _run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--no-deps",
            "--no-index",
            str(wheel),
        ],
        cwd=folder.parent,
    )
    (packages,) = folder.glob("lib/python*/site-packages")
    outer = [path for path in site.getsitepackages() if Path(path).is_dir()]
    (packages / "dependencies_of_the_test_run.pth").write_text("\n".join(outer) + "\n")
    return folder / "bin"


def test_the_wheel_has_every_file_of_the_package_and_all_profiles(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "edgekit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }
    assert package - names == set()
    assert {f"edgekit/_device_profiles/{name}.toml" for name in PROFILES} <= names
    assert not any(name.startswith(("device_profiles/", "tests/")) for name in names)


def test_the_fresh_environment_imports_the_wheels_edgekit(installed: Path, tmp_path: Path) -> None:
    code = "import edgekit, edgekit.profiles.loader as l; print(edgekit.__file__); print(l.profiles_dir())"
    imported, folder = _run([str(installed / "python"), "-c", code], cwd=tmp_path).splitlines()
    assert Path(imported).is_relative_to(installed.parent)
    assert Path(folder) == Path(imported).parent / "_device_profiles"


def test_profiles_list_in_the_fresh_environment(installed: Path, tmp_path: Path) -> None:
    lines = _run([str(installed / "edgekit"), "profiles", "list"], cwd=tmp_path).splitlines()
    assert [line.split()[0] for line in lines[1:]] == PROFILES
    listed = json.loads(_run([str(installed / "edgekit"), "profiles", "list", "--json"], cwd=tmp_path))
    assert [row["id"] for row in listed] == PROFILES


def _run(command: list[str], *, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=_clean_env(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _clean_env() -> dict[str, str]:
    """This environment without what would let the checkout be imported."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
