"""The machine behind a link, whatever its kind: how to reach it, compile for it and break it."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boards.cable import Cable
from edgekit.devices import Link, open_link
from edgekit.profiles.loader import load_profile
from edgekit.store import Store


@dataclass
class Machine:
    """What is behind a link: how to reach it, compile for it and break it."""

    kind: str
    spec: str
    compiler: str
    store: Store
    base: Path | None = None
    """Where edgekit's files lie there, as this machine sees it; None where that is the store."""
    cable: Cable | None = None
    end: Any = None
    """The device end: an Sshd or a Phone."""

    def open(self) -> Link:
        return open_link(self.spec, load_profile("pi4"), self.store)

    def build(self, folder: Path, source: str, *flags: str, name: str = "program") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.c").write_text(source)
        program = folder / name
        subprocess.run([self.compiler, "-o", program, folder / f"{name}.c", *flags], check=True)
        return program

    def cut(self) -> None:
        """Break every connection."""
        if self.kind == "adb":
            self.end.vanish()
        else:
            assert self.cable is not None
            self.cable.plugged = False
            self.cable.cut()

    def mend(self) -> None:
        """Plug it in again."""
        if self.kind == "adb":
            self.end.attach()
        else:
            assert self.cable is not None
            self.cable.plugged = True

    def is_clean(self) -> bool:
        """Whether nothing of edgekit is left there; waits for what the machine itself still removes."""
        if self.base is None:
            return not any((self.store.root / "tmp").glob("*"))
        deadline = time.monotonic() + 20
        while self.base.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return not self.base.exists()
