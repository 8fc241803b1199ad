"""The store: what is under a final name is whole, whatever happens to the process that wrote it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.build.runner import Runner
from edgekit.errors import StoreError
from edgekit.store import Store, default_root, digest_file, digest_json, write_atomic
from edgekit.types import ignore_events

KEY = digest_json("a step")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_an_object_is_named_by_its_bytes(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    sha = store.put_file(tmp_path / "file")
    assert sha == store.put_bytes(b"content") == digest_file(tmp_path / "file")
    assert store.get(sha).read_bytes() == b"content"
    assert store.usage().objects == 1


def test_an_absent_object_is_a_clear_error(store: Store) -> None:
    with pytest.raises(StoreError, match=r"object 000000000000 is not in the store") as caught:
        store.get("0" * 64)
    assert caught.value.hint


def test_the_root_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "here"))
    assert default_root() == Store().root == tmp_path / "here"
    monkeypatch.delenv("EDGEKIT_CACHE")
    assert default_root().is_relative_to(Path(os.environ["XDG_CACHE_HOME"]))


def test_canonical_json_has_one_digest() -> None:
    assert digest_json({"a": 1, "b": [1.5, None]}) == digest_json({"b": [1.5, None], "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": 1.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_json({"a": float("nan")})


def test_a_step_comes_back_with_its_objects(store: Store) -> None:
    assert store.load_step(KEY) is None
    sha = store.put_bytes(b"result")
    store.save_step(KEY, {"objects": [sha], "figure": 1.5})
    assert store.load_step(KEY) == {"objects": [sha], "figure": 1.5}


@pytest.mark.parametrize("damage", ["truncated", "changed", "removed"])
def test_a_damaged_object_makes_the_step_absent_and_is_mended(store: Store, damage: str) -> None:
    shas = [store.put_bytes(b"first result"), store.put_bytes(b"second result")]
    store.save_step(KEY, {"objects": shas})
    for sha in shas:
        path = store.get(sha)
        path.chmod(0o644)
        if damage == "truncated":
            path.write_bytes(path.read_bytes()[:3])
        elif damage == "changed":
            path.write_bytes(b"X" + path.read_bytes()[1:])
        else:
            path.unlink()
    assert store.load_step(KEY) is None
    assert [store.put_bytes(b"first result"), store.put_bytes(b"second result")] == shas
    assert [store.get(sha).read_bytes() for sha in shas] == [b"first result", b"second result"]


def test_a_damaged_object_is_replaced_by_a_file_too(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    sha = store.put_file(tmp_path / "file")
    store.get(sha).chmod(0o644)
    store.get(sha).write_bytes(b"con")
    assert store.put_file(tmp_path / "file") == sha
    assert store.get(sha).read_bytes() == b"content"


@pytest.mark.parametrize("text", ["", '{"objects": [', "[]", "null", "\x00\xff"])
def test_a_damaged_record_makes_the_step_absent(store: Store, text: str) -> None:
    store.save_step(KEY, {"objects": []})
    (record,) = (store.root / "steps").glob("*/*.json")
    record.write_text(text, encoding="latin-1")
    assert store.load_step(KEY) is None


KILLED_WRITE = """
    import os, signal, sys
    from pathlib import Path
    from edgekit.store import Store

    store, what, moment = Store(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
    real = os.replace

    def replace(source, target):
        if moment == "after":
            real(source, target)
        os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace
    if what == "put_file":
        store.put_file(Path(sys.argv[4]))
    elif what == "put_bytes":
        store.put_bytes(Path(sys.argv[4]).read_bytes())
    else:
        store.save_step(sys.argv[5], {"objects": [], "text": "x" * 100_000})
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("what", ["put_file", "put_bytes", "save_step"])
def test_a_killed_write_leaves_nothing_half_written(
    store: Store, tmp_path: Path, what: str, moment: str
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(300_000))
    done = run_python(KILLED_WRITE, store.root, what, moment, tmp_path / "file", KEY)
    assert done.returncode == -9, done.stderr
    sha = digest_file(tmp_path / "file")
    assert store.object_path(sha).exists() == (what != "save_step" and moment == "after")
    for path in (store.root / "objects").glob("*/*"):
        assert path.name.startswith(".") or digest_file(path) == path.name
    record = store.load_step(KEY)
    assert (record is not None) == (what == "save_step" and moment == "after")
    store.save_step(KEY, {"objects": [store.put_file(tmp_path / "file")]})
    assert store.load_step(KEY) == {"objects": [sha]}
    assert store.usage().objects == 1, "an unfinished write counts as an object"


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "report.json", "old")

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="the disk is broken"):
        write_atomic(tmp_path / "report.json", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "old"


LOCKED_COUNTER = """
    import sys, time
    from pathlib import Path
    from edgekit.store import Store

    store, counter = Store(Path(sys.argv[1])), Path(sys.argv[2])
    for _ in range(50):
        with store.lock("one"):
            count = int(counter.read_text())
            time.sleep(0)
            counter.write_text(str(count + 1))
"""


def test_a_lock_is_held_by_one_process_at_a_time(store: Store, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", textwrap.dedent(LOCKED_COUNTER), str(store.root), str(counter)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [p.wait(timeout=60) for p in processes] == [0, 0]
    assert counter.read_text() == "100"


def test_a_killed_process_frees_its_lock(store: Store) -> None:
    done = run_python(
        """
        import os, sys
        from pathlib import Path
        from edgekit.store import Store
        with Store(Path(sys.argv[1])).lock("one"):
            os.kill(os.getpid(), 9)
        """,
        store.root,
    )
    assert done.returncode == -9
    with store.lock("one"):
        pass


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def assert_disk_full(error: StoreError) -> None:
    assert "the disk is full while" in str(error)
    assert error.hint and "EDGEKIT_CACHE" in error.hint


@pytest.mark.parametrize("what", ["put_file", "put_bytes", "save_step", "scratch"])
def test_a_full_disk_is_one_clear_error(tiny_disk: Path, tmp_path: Path, what: str) -> None:
    store = Store(tiny_disk / "store")
    (tmp_path / "big").write_bytes(bytes(1_000_000))
    with pytest.raises(StoreError) as caught:
        if what == "put_file":
            store.put_file(tmp_path / "big")
        elif what == "put_bytes":
            store.put_bytes(bytes(1_000_000))
        elif what == "save_step":
            store.save_step(KEY, {"objects": [], "text": "x" * 1_000_000})
        else:
            with store.scratch() as folder:
                (folder / "big").write_bytes(bytes(1_000_000))
    assert_disk_full(caught.value)
    assert [p for p in tiny_disk.rglob("*") if p.is_file() and p.stat().st_size] == []
    store.save_step(KEY, {"objects": [store.put_bytes(b"small")]})
    assert store.load_step(KEY) is not None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_kind_of_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError) as caught:
        store.put_bytes(b"x")
    assert_disk_full(caught.value)


def test_a_forbidden_folder_is_one_clear_error(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="a file is in the way while"):
        Store(tmp_path / "file" / "store").put_bytes(b"x")

    def fail(*arguments: object, **more: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(store.root))

    monkeypatch.setattr(Path, "mkdir", fail)
    for attempt in (lambda: store.put_bytes(b"x"), store.lock("one").__enter__, store.scratch().__enter__):
        with pytest.raises(StoreError, match="no permission while"):
            attempt()


def test_scratch_is_private_and_goes_away(store: Store) -> None:
    with store.scratch() as one, store.scratch() as other:
        assert one != other
        (one / "file").write_text("x")
    assert list((store.root / "tmp").iterdir()) == []
    with pytest.raises(RuntimeError, match="on purpose"), store.scratch() as one:
        raise RuntimeError("on purpose")
    assert list((store.root / "tmp").iterdir()) == []


def test_usage_and_clear_count_alike(store: Store) -> None:
    store.save_step(KEY, {"objects": [store.put_bytes(b"12345"), store.put_bytes(b"678")]})
    (store.root / "native" / "x").mkdir(parents=True)
    used = store.usage()
    record = len(json.dumps(store.load_step(KEY)))
    assert (used.objects, used.steps, used.bytes) == (2, 1, 8 + record)
    assert store.clear() == used
    assert (store.usage().objects, store.usage().steps, store.usage().bytes) == (0, 0, 0)
    assert not (store.root / "native").exists()
    assert store.load_step(KEY) is None


def test_clear_leaves_what_is_not_ours(store: Store) -> None:
    store.put_bytes(b"x")
    (store.root / "my thesis.txt").write_text("do not delete")
    store.clear()
    assert (store.root / "my thesis.txt").exists()


def test_sweep_takes_old_scratch_only(store: Store) -> None:
    folder = store.root / "tmp"
    for name in ("old", "new"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("x")
    (folder / "old file").write_text("x")
    before = time.time() - 2 * 24 * 3600
    for name in ("old", "old file"):
        os.utime(folder / name, (before, before))
    store.sweep()
    assert [p.name for p in folder.iterdir()] == ["new"]


class TestRunner:
    """Steps: once when they succeed, again when they fail."""

    def test_an_equal_step_runs_once(self, store: Store) -> None:
        runs = []

        def work() -> dict[str, object]:
            runs.append(1)
            return {"objects": [], "n": len(runs)}

        for expected in (False, True):
            runner = Runner(store, ignore_events, seed=0)
            assert runner.run("step", {"a": 1}, work)["n"] == 1
            assert runner.outcomes[0].cached is expected
        assert len(runs) == 1

    @pytest.mark.parametrize("changed", ["name", "inputs", "seed", "source"])
    def test_whatever_changes_makes_it_another_step(
        self, store: Store, changed: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Runner(store, ignore_events, seed=0).run("step", {"a": 1}, lambda: {"objects": []})
        if changed == "source":
            monkeypatch.setattr("edgekit.build.runner.source_digest", lambda: "other")
        runner = Runner(store, ignore_events, seed=1 if changed == "seed" else 0)
        name, inputs = ("other" if changed == "name" else "step"), {"a": 2 if changed == "inputs" else 1}
        runner.run(name, inputs, lambda: {"objects": []})
        assert runner.outcomes[0].cached is False

    def test_a_failure_is_never_cached(self, store: Store) -> None:
        runner = Runner(store, ignore_events, seed=0)

        def fail() -> dict[str, object]:
            raise RuntimeError("out of luck")

        for _ in range(2):
            with pytest.raises(RuntimeError, match="out of luck"):
                runner.run("step", {}, fail)
        assert store.usage().steps == 0
        assert runner.run("step", {}, lambda: {"objects": [], "fine": True})["fine"] is True

    def test_a_step_runs_again_when_its_file_is_damaged(self, store: Store) -> None:
        def work() -> dict[str, object]:
            return {"objects": [store.put_bytes(b"the result")]}

        first = Runner(store, ignore_events, seed=0).run("step", {}, work)
        path = store.get(first["objects"][0])
        path.chmod(0o644)
        path.write_bytes(b"the re")
        runner = Runner(store, ignore_events, seed=0)
        again = runner.run("step", {}, work)
        assert runner.outcomes[0].cached is False
        assert store.get(again["objects"][0]).read_bytes() == b"the result"

    def test_arrays_come_back_in_order_and_equal_arrays_have_one_name(self, store: Store) -> None:
        import numpy as np

        runner = Runner(store, ignore_events, seed=0)
        arrays = [np.full((2, 3), i, dtype=np.float32) for i in range(12)]
        sha = runner.put_arrays(arrays)
        assert runner.put_arrays([a.copy() for a in arrays]) == sha
        for want, got in zip(arrays, runner.get_arrays(sha), strict=True):
            np.testing.assert_array_equal(want, got)
