"""Devices that this machine could reach: what adb lists, and the hosts of ssh's configuration."""

from __future__ import annotations

import re
from pathlib import Path

_DEPTH = 8


def configured_hosts(config: Path | None = None) -> list[str]:
    """Host names of the user's ssh configuration that stand for one machine each, in its order.

    Patterns ("*.lan", "!x") are left out; Include is followed as ssh_config(5) says, relative to ~/.ssh.
    """
    config = config or Path.home() / ".ssh" / "config"
    found: dict[str, None] = {}
    for word in _hosts(config, config.parent, _DEPTH):
        found.setdefault(word)
    return list(found)


def _hosts(path: Path, base: Path, depth: int) -> list[str]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found: list[str] = []
    for line in lines:
        match = re.match(r"\s*(host|include)(?:\s*=\s*|\s+)(.+?)\s*$", line, re.IGNORECASE)
        if match is None:
            continue
        words = match[2].replace('"', "").split()
        if match[1].lower() == "host":
            found += [w for w in words if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", w)]
        elif depth > 0:
            for word in words:
                pattern = base / Path(word).expanduser()
                for name in sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))):
                    found += _hosts(name, base, depth - 1)
    return found
