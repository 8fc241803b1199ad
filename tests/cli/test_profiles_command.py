from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgekit.cli.profiles import aligned, profiles, render
from edgekit.errors import ProfileError
from edgekit.profiles import list_profiles, load_profile


def run(*args: str) -> Result:
    return CliRunner().invoke(profiles, list(args))


def test_list_is_plain_and_aligned_when_it_is_no_terminal() -> None:
    result = run("list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 1 + len(list_profiles())
    assert lines[0].split() == ["id", "device", "cores", "targets", "emulator"]
    (pi4,) = [line for line in lines if line.startswith("pi4 ")]
    assert "Raspberry Pi 4 Model B" in pi4 and "4x cortex-a72 1.5 GHz" in pi4 and "tflite/xnnpack" in pi4
    assert len({line.find(cell) for line, cell in ((lines[0], "device"), (pi4, "Raspberry"))}) == 1
    assert "\x1b" not in result.stdout and "│" not in result.stdout


def test_list_json() -> None:
    data = json.loads(run("list", "--json").stdout)
    assert [row["id"] for row in data] == [profile.id for profile in list_profiles()]
    (pi4,) = [row for row in data if row["id"] == "pi4"]
    assert pi4["emulator"] == "cortex-a72" and pi4["cores"] == [
        {"microarchitecture": "cortex-a72", "count": 4, "ghz": 1.5}
    ]


@pytest.mark.parametrize("name", [profile.id for profile in list_profiles()])
def test_show_is_toml_of_the_whole_profile_with_its_sources(name: str) -> None:
    result = run("show", name)
    assert result.exit_code == 0
    profile = load_profile(name)
    expected = profile.model_dump(mode="json", exclude_none=True, exclude={"sources", "extends"})
    assert tomllib.loads(result.stdout) == expected
    for path, source in profile.sources.items():
        assert f"# source of {path}: {source}" in result.stdout


def test_show_prints_midr_as_the_manuals_do() -> None:
    lines = list(render(load_profile("jetson_xavier_nx")))
    assert "midr_part = 0x004" in lines and "midr_implementer = 0x4e" in lines


def test_show_json_is_the_profile() -> None:
    assert json.loads(run("show", "pi5", "--json").stdout) == load_profile("pi5").model_dump(mode="json")


def test_show_unknown_raises_for_the_error_boundary() -> None:
    result = run("show", "pi44")
    assert isinstance(result.exception, ProfileError)
    assert result.stdout == ""


def test_check_all_shipped() -> None:
    names = [profile.id for profile in list_profiles()]
    result = run("check", *names)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [f"{name}: ok" for name in names]


@pytest.fixture
def unsourced(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mine.toml"
    path.write_text('id = "mine"\ntitle = "x"\nextends = "generic_arm64"\n[memory]\nmib = 1\n')
    yield path


def test_check_tells_findings_and_fails(unsourced: Path) -> None:
    result = run("check", "pi4", str(unsourced))
    assert result.stdout.startswith(f"pi4: ok\n{unsourced}:\n  - memory.mib has no source")
    assert isinstance(result.exception, ProfileError) and result.exception.exit_code == 2
    assert str(result.exception) == f"1 finding in {unsourced}"


def test_check_goes_on_after_a_profile_that_does_not_load(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("id = 1 2\n")
    result = run("check", str(broken), "pi4", "--json")
    first, second = json.loads(result.stdout)
    assert first["ok"] is False and "line 1" in first["findings"][0]
    assert second == {"profile": "pi4", "ok": True, "findings": []}
    assert isinstance(result.exception, ProfileError)


def test_aligned() -> None:
    assert aligned([("a", "bb", "c"), ("aaa", "b", "")]) == ["a    bb  c", "aaa  b"]


def test_show_keeps_a_source_to_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'id = "mine"\ntitle = "x"\nextends = "pi4"\n[sources]\nmemory = """two\nlines \\u001b[31mred"""\n'
    )
    shown = run("show", str(path)).stdout
    assert "# source of memory: two lines [31mred" in shown
    assert tomllib.loads(shown)["id"] == "mine"
