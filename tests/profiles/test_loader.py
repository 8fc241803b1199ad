from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.errors import ProfileError
from edgekit.profiles import list_profiles, load_profile, loader
from edgekit.profiles.loader import deep_merge

WriteProfile = Callable[..., Path]


def refused(target: Path | str) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        load_profile(str(target))
    assert caught.value.exit_code == 2
    return caught.value


# -- finding a profile


def test_by_name_and_by_path_are_the_same() -> None:
    path = loader.profiles_dir() / "pi4.toml"
    assert load_profile("pi4") == load_profile(str(path))


def test_a_file_in_the_working_folder_does_not_hide_a_shipped_name(
    write: WriteProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write(name="pi4").parent)
    assert load_profile("pi4").title == "Raspberry Pi 4 Model B"


def test_unknown_name_lists_the_nearest_and_never_takes_one() -> None:
    error = refused("p4")
    assert str(error) == "there is no profile named 'p4'"
    assert error.hint is not None and "did you mean pi4" in error.hint and "profiles list" in error.hint


def test_unknown_name_far_from_all() -> None:
    error = refused("zzzzzz")
    assert error.hint is not None and "did you mean" not in error.hint


def test_missing_file(tmp_path: Path) -> None:
    assert str(refused(tmp_path / "none.toml")).endswith("none.toml")


@pytest.mark.parametrize("content", [b"\xff\xfe", None], ids=["not utf-8", "a folder"])
def test_unreadable_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content) if content else path.mkdir()
    assert "cannot be read" in str(refused(path))


def test_an_installation_without_profiles_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "__file__", str(tmp_path / "edgekit" / "profiles" / "loader.py"))
    assert "no device profiles" in str(refused("pi4"))


def test_the_wheels_folder_is_found_before_a_checkouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("edgekit/_device_profiles", "device_profiles"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(loader, "__file__", str(tmp_path / "edgekit" / "profiles" / "loader.py"))
    assert loader.profiles_dir() == tmp_path / "edgekit" / "_device_profiles"


def test_list_is_sorted_and_has_the_base() -> None:
    ids = [profile.id for profile in list_profiles()]
    assert ids == sorted(ids)
    assert [p.id for p in list_profiles() if p.abstract] == ["generic_arm64"]


# -- extends


def test_extends_a_shipped_profile_by_name(write: WriteProfile) -> None:
    path = write('id = "mine"\ntitle = "My Pi"\nextends = "pi4"\n[memory]\nmib = 8192\n', "mine.toml")
    mine, pi4 = load_profile(str(path)), load_profile("pi4")
    assert (mine.id, mine.title, mine.description, mine.extends) == ("mine", "My Pi", "", "pi4")
    assert mine.memory.mib == 8192
    assert mine.memory.copy_gb_s == pi4.memory.copy_gb_s
    assert mine.targets == pi4.targets
    assert mine.sources == pi4.sources


def test_extends_a_relative_path_through_two_files(write: WriteProfile) -> None:
    write()
    write(
        'id = "mid"\ntitle = "Mid"\nabstract = true\nextends = "../board.toml"\n[memory]\nkind = "DDR"\n',
        "a/mid.toml",
    )
    top = load_profile(str(write('id = "top"\ntitle = "Top"\nextends = "a/mid.toml"\n', "top.toml")))
    assert (top.memory.mib, top.memory.kind) == (2048, "DDR")
    assert top.abstract is False, "abstract is not inherited"


def test_lists_replace(write: WriteProfile) -> None:
    head = 'id = "mine"\ntitle = "x"\nextends = "pi4"\n'
    only = '[[targets]]\nruntime = "tflite"\ndelegate = "cpu"\nprecisions = ["float32"]\n'
    mine = load_profile(str(write(head + only, "mine.toml")))
    assert [(t.runtime, t.delegate) for t in mine.targets] == [("tflite", "cpu")]


def test_title_is_not_inherited(write: WriteProfile) -> None:
    error = refused(write('id = "mine"\nextends = "pi4"\n', "mine.toml"))
    assert str(error).endswith("mine.toml: title is missing")


def test_circle(write: WriteProfile) -> None:
    write('extends = "b.toml"\n', "a.toml")
    path = write('extends = "./a.toml"\n', "b.toml")
    assert "makes a circle (b.toml -> a.toml -> b.toml)" in str(refused(path))


def test_self_circle(write: WriteProfile) -> None:
    assert "circle" in str(refused(write('extends = "a.toml"\n', "a.toml")))


def test_extends_an_unknown_name_tells_which_file_asked(write: WriteProfile) -> None:
    path = write('id = "mine"\nextends = "pi_4"\n', "mine.toml")
    error = refused(path)
    assert str(error) == f"{path}: extends: there is no profile named 'pi_4'"
    assert error.hint is not None and "pi4" in error.hint


def test_extends_must_be_one_name(write: WriteProfile) -> None:
    assert "extends must be the name" in str(refused(write('extends = ["pi4"]\n', "mine.toml")))


def test_deep_merge_changes_neither_side() -> None:
    base = {"a": {"x": 1, "y": {"z": 1}}, "l": [1, 2], "s": 1}
    over = {"a": {"y": {"w": 2}}, "l": [3], "s": {"t": 1}}
    assert deep_merge(base, over) == {"a": {"x": 1, "y": {"z": 1, "w": 2}}, "l": [3], "s": {"t": 1}}
    assert base == {"a": {"x": 1, "y": {"z": 1}}, "l": [1, 2], "s": 1}
    assert over == {"a": {"y": {"w": 2}}, "l": [3], "s": {"t": 1}}


def test_source_keys_may_be_quoted_or_dotted(write: WriteProfile, board_text: str) -> None:
    text = board_text.replace('memory = "test"', 'memory.mib = "dotted"').replace(
        'os = "test"', '"os.bits" = "quoted"'
    )
    profile = load_profile(str(write(text)))
    assert profile.sources["memory.mib"] == "dotted"
    assert profile.sources["os.bits"] == "quoted"


# -- what is wrong is said with file, key and spelling


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("mib = 2048", "mibb = 2048", "unknown key memory.mibb", "did you mean mib?"),
        ("[memory]", "[memroy]", "unknown key memroy", "did you mean memory?"),
        ("delegate =", "delegat =", "unknown key targets[0].delegat", "did you mean delegate?"),
        (
            "mib = 2048",
            "qqqqqq = 1",
            "unknown key memory.qqqqqq",
            "known here: mib, copy_gb_s, peak_gb_s, kind",
        ),
        ("mib = 2048", 'mib = "2 GB"', "memory.mib must be a whole number, not '2 GB'", None),
        ("mib = 2048", "mib = 2.5", "memory.mib must be a whole number, not 2.5", None),
        ("mib = 2048", "mib = true", "memory.mib must be a whole number, not true", None),
        ("mib = 2048", "mib = 0", "memory.mib = 0 should be greater than or equal to 1", None),
        ("ghz = 1.5", "ghz = [1.5]", "cores[0].ghz must be a number, not a list", None),
        ("ghz = 1.5", "ghz = nan", "cores[0].ghz must be a finite number, not nan", None),
        ('title = "A board"', "title = 7", "title must be a string in quotes, not 7", None),
        (
            'title = "A board"',
            'title = "x"\nabstract = "no"',
            "abstract must be true or false, not 'no'",
            None,
        ),
        ('id = "board"', 'id = "My Board"', "id = 'My Board' should match pattern", None),
        ('id = "board"', "", "id is missing", "add id = ..."),
        ("[[cores]]", "[cores]", "cores must be a list in [ ], not a table", None),
        (
            '"tflite"',
            '"tflight"',
            "targets[0].runtime = 'tflight' is none of tflite, executorch",
            "did you mean tflite?",
        ),
        (
            '["int8", "float32"]',
            '["int4"]',
            "targets[0].precisions[0] = 'int4' is none of float32",
            "did you mean int8?",
        ),
        ('["int8", "float32"]', "[]", "targets[0].precisions = a list", None),
        ('"xnnpack"', '"tensorrt"', "targets[0]: runtime tflite has no delegate 'tensorrt'", None),
        ("bits = 64", "bits = 16", "os.bits = 16 is none of 32, 64", "known here: 32, 64"),
    ],
)
def test_complaints(
    write: WriteProfile, board_text: str, old: str, new: str, message: str, hint: str | None
) -> None:
    assert old in board_text
    path = write(board_text.replace(old, new, 1))
    error = refused(path)
    assert str(error).startswith(f"{path}: {message}")
    assert hint is None or (error.hint is not None and hint in error.hint)


def test_a_table_where_a_value_belongs(write: WriteProfile) -> None:
    path = write('id = "x"\ntitle = "x"\nextends = "pi4"\nmemory = 4\n', "x.toml")
    assert str(refused(path)) == f"{path}: memory must be a table, not 4"


def test_broken_toml_names_the_line(write: WriteProfile) -> None:
    path = write('id = "x"\ntitle = pi\n')
    message = str(refused(path))
    assert str(path) in message and "line 2" in message


def test_all_findings_are_told(write: WriteProfile, board_text: str) -> None:
    path = write(board_text.replace("mib =", "mibb =").replace("ghz =", "gzh ="))
    error = refused(path)
    told = f"{error} {error.hint}"
    assert "memory.mibb" in told and "cores[0].gzh" in told


def test_the_file_that_says_it_is_blamed(write: WriteProfile, board_text: str) -> None:
    base = write(board_text.replace("mib =", "mibb ="))
    path = write('id = "mine"\ntitle = "x"\nextends = "board.toml"\n[memory]\nkind = "DDR"\n', "mine.toml")
    assert str(refused(path)).startswith(f"{base}: unknown key memory.mibb")
