"""User code: ``file.py:callable`` and ``package.module:callable``.

A file is imported once per content, under a name of its own, with its folder on ``sys.path`` while
its code runs, so that ``import helper`` finds the helper beside it. Everything that such code
raises becomes one sentence with the file and line of the last frame in the user's own code.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import site
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError, SourceError, UserError

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass
class UserCode:
    """One imported user module. ``came_in`` grows: names of user modules that it pulled in."""

    module: types.ModuleType
    folder: Path | None
    came_in: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the user's code inside: its folder is importable, and what it imports is noted."""
        before = set(sys.modules)
        entry = str(self.folder) if self.folder else None
        if entry:
            sys.path.insert(0, entry)
        try:
            yield
        finally:
            if entry and entry in sys.path:
                sys.path.remove(entry)
            self.came_in |= {name for name in set(sys.modules) - before if _is_user_module(name)}


@dataclass(frozen=True)
class Entry:
    """A callable of the user's, and the code that it came from."""

    name: str
    call: Callable[[], Any]
    code: UserCode


_FILES: dict[tuple[Path, str], UserCode] = {}
_MODULES: dict[str, UserCode] = {}


def is_callable_spec(spec: str) -> bool:
    """Whether ``spec`` has the form ``something:callable`` (and is not a file of that name)."""
    target, _, attribute = spec.rpartition(":")
    return bool(target) and attribute.isidentifier() and not Path(spec).exists()


def resolve(spec: str, *, error: type[UserError] = SourceError) -> Entry:
    """Import what ``spec`` names and return its callable, not yet called.

    Raises ``error`` (SourceError or DataError) when the file, module or attribute is missing or the
    import itself fails; the message names file and line.
    """
    target, _, attribute = spec.rpartition(":")
    code = _import_file(Path(target), error) if target.endswith(".py") else _import_module(target, error)
    found = getattr(code.module, attribute, None)
    if found is None:
        public = [k for k, v in vars(code.module).items() if callable(v) and not k.startswith("_")]
        near = get_close_matches(attribute, public, n=3) or public[:8]
        raise error(
            f"{target} has no {attribute!r}",
            hint=f"did you mean {', '.join(near)}?" if near else "name a function without arguments",
        )
    if not callable(found):
        raise error(f"{spec} is a {type(found).__name__}, not a callable", hint="name a function or class")
    return Entry(attribute, found, code)


@contextlib.contextmanager
def blamed(doing: str, code: UserCode | None, error: type[EdgekitError]) -> Iterator[None]:
    """Run user code inside; whatever it raises becomes ``error`` naming file, line and exception."""
    try:
        with code.running() if code else contextlib.nullcontext():
            yield
    except EdgekitError:
        raise
    except (Exception, SystemExit) as exc:
        where = blame(exc)
        reason = f"{type(exc).__name__}: {_first_line(exc)}"
        raise error(
            f"{doing} failed{f' at {where}' if where else ''}: {reason}",
            hint="run that code on its own in Python to see the whole traceback",
        ) from exc


def blame(exc: BaseException) -> str:
    """``file.py:12 (in forward)`` of the last frame in user code, or "" when there is none."""
    if isinstance(exc, SyntaxError) and exc.filename and is_user_file(exc.filename):
        return f"{_shown(exc.filename)}:{exc.lineno}"
    place = ""
    trace = exc.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if is_user_file(frame.f_code.co_filename):
            place = f"{_shown(frame.f_code.co_filename)}:{trace.tb_lineno} (in {frame.f_code.co_name})"
        trace = trace.tb_next
    return place


def user_modules(code: UserCode) -> set[str]:
    """Names of the loaded user modules that ``code`` depends on.

    Those that came in while it was imported or ran, and those reachable from its globals: modules,
    and the home modules of functions and classes.
    """
    seen: set[str] = set()
    queue = [code.module.__name__, *code.came_in]
    while queue:
        name = queue.pop()
        if name in seen or not _is_user_module(name):
            continue
        seen.add(name)
        for value in list(vars(sys.modules[name]).values()):
            home = (
                value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
            )
            if isinstance(home, str):
                queue.append(home)
    return seen


@cache
def _library_roots() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    found = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple({Path(p).resolve() for p in found} | {_PACKAGE})


@cache
def is_user_file(filename: str) -> bool:
    """Whether a source file belongs to the user: no library, no standard library, not edgekit."""
    if filename.startswith("<"):
        return False
    path = Path(filename).resolve()
    return not any(path.is_relative_to(root) for root in _library_roots())


def _is_user_module(name: str) -> bool:
    """The program that was started is not part of a model, nor are torch.ops and its like, whose
    ``__file__`` is no path."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if name in ("__main__", "__mp_main__") or not isinstance(file, str):
        return False
    return Path(file).is_absolute() and is_user_file(file)


def _import_file(given: Path, error: type[UserError]) -> UserCode:
    path = given.expanduser().absolute()
    if not path.is_file():
        raise error(f"no such file: {given}", hint="check the path; it is relative to the current folder")
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    known = _FILES.get((path, content))
    if known is not None:
        return known
    _forget_helpers_of_other_folders(path.parent)
    mark = hashlib.sha256(f"{path}\0{content}".encode()).hexdigest()[:12]
    name = f"edgekit_user_{mark}_{path.stem if path.stem.isidentifier() else 'file'}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise error(f"{given} cannot be imported as Python source", hint="give a .py file")
    module = importlib.util.module_from_spec(spec)
    code = UserCode(module, path.parent)
    sys.modules[name] = module
    try:
        with blamed(f"importing {given}", code, error):
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    _FILES[path, content] = code
    return code


def _forget_helpers_of_other_folders(folder: Path) -> None:
    """Two folders may each have a ``helper.py``: a file must get the one beside it."""
    for code in _FILES.values():
        if code.folder != folder:
            for name in code.came_in - {code.module.__name__}:
                sys.modules.pop(name, None)


def _import_module(name: str, error: type[UserError]) -> UserCode:
    known = _MODULES.get(name)
    if known is not None:
        return known
    # A package that lies in the current folder is importable, as with `python -m`.
    code = UserCode(types.ModuleType(name), Path.cwd())
    with blamed(f"importing {name}", code, error):
        code.module = importlib.import_module(name)
    _MODULES[name] = code
    return code


def _shown(filename: str) -> str:
    path = Path(filename)
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _first_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[0][:400] if lines else "(no message)"
