"""User code: importing, blaming, and finding what a model's source consists of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgekit.errors import DataError, SourceError
from edgekit.sources import callables


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_file_is_imported_once_with_its_folder_on_the_path_and_the_path_is_put_back(tmp_path: Path) -> None:
    _write(tmp_path / "helper_once.py", "VALUE = 7\n")
    file = _write(
        tmp_path / "entry.py", "import helper_once\nruns = []\ndef make():\n    return helper_once.VALUE\n"
    )
    before = list(sys.path)
    first = callables.resolve(f"{file}:make")
    assert first.call() == 7
    assert sys.path == before
    assert callables.resolve(f"{file}:make").code is first.code


def test_an_edited_file_is_imported_anew(tmp_path: Path) -> None:
    file = _write(tmp_path / "entry.py", "def make():\n    return 1\n")
    assert callables.resolve(f"{file}:make").call() == 1
    _write(file, "def make():\n    return 22\n")
    assert callables.resolve(f"{file}:make").call() == 22


def test_two_folders_may_have_helpers_of_the_same_name(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("b", 2)):
        _write(tmp_path / folder / "same_helper.py", f"VALUE = {value}\n")
        _write(
            tmp_path / folder / "entry.py", "import same_helper\ndef make():\n    return same_helper.VALUE\n"
        )
    assert [callables.resolve(f"{tmp_path / f / 'entry.py'}:make").call() for f in "ab"] == [1, 2]


def test_user_modules_are_found_by_import_and_by_reference(tmp_path: Path) -> None:
    _write(tmp_path / "used_directly.py", "def f():\n    return 1\n")
    _write(tmp_path / "used_lazily.py", "X = 1\n")
    file = _write(
        tmp_path / "entry.py",
        "from used_directly import f\nimport json\ndef make():\n    import used_lazily\n    return f()\n",
    )
    entry = callables.resolve(f"{file}:make")
    with entry.code.running():
        entry.call()
    names = callables.user_modules(entry.code)
    assert {"used_directly", "used_lazily", entry.code.module.__name__} <= names
    assert "json" not in names


def test_a_missing_file_and_a_missing_callable_are_told_with_the_nearest_names(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        callables.resolve(f"{tmp_path / 'none.py'}:make")
    file = _write(tmp_path / "entry.py", "def resnet20():\n    pass\nNUMBER = 3\n")
    with pytest.raises(SourceError, match="has no 'resnet2'") as caught:
        callables.resolve(f"{file}:resnet2")
    assert "resnet20" in str(caught.value.hint)
    with pytest.raises(SourceError, match="not a callable"):
        callables.resolve(f"{file}:NUMBER")


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    file = _write(tmp_path / "broken.py", "def make():\n    return )\n")
    with pytest.raises(SourceError, match=r"broken\.py:2: SyntaxError"):
        callables.resolve(f"{file}:make")


def test_a_failing_import_names_the_last_user_frame_and_is_forgotten(tmp_path: Path) -> None:
    _write(tmp_path / "deep_helper.py", "import json\n\ndef parse():\n    return json.loads('{')\n")
    file = _write(tmp_path / "entry.py", "import deep_helper\ndeep_helper.parse()\n")
    with pytest.raises(DataError, match=r"deep_helper\.py:4 \(in parse\): JSONDecodeError"):
        callables.resolve(f"{file}:make", error=DataError)
    assert not [
        name for name in sys.modules if name.startswith("edgekit_user_") and name.endswith("_entry_x")
    ]


def test_a_package_module_is_importable_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "some_package_q" / "__init__.py", "")
    _write(tmp_path / "some_package_q" / "nets.py", "def make():\n    return 5\n")
    monkeypatch.chdir(tmp_path)
    assert callables.resolve("some_package_q.nets:make").call() == 5
    with pytest.raises(SourceError, match="ModuleNotFoundError"):
        callables.resolve("no_such_package_q.nets:make")


def test_system_exit_in_user_code_does_not_end_the_program(tmp_path: Path) -> None:
    file = _write(tmp_path / "entry.py", "raise SystemExit(3)\n")
    with pytest.raises(SourceError, match="SystemExit"):
        callables.resolve(f"{file}:make")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("a.py:b", True), ("pkg.mod:f", True), ("model.onnx", False), ("a.py", False), ("dir/x.pt2", False)],
)
def test_is_callable_spec(spec: str, expected: bool) -> None:
    assert callables.is_callable_spec(spec) is expected
