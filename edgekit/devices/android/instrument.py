"""What `am instrument -w -r` prints, and what it means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

RESULT_OK = -1
"""android.app.Activity.RESULT_OK, the code of an instrumentation that finished by itself."""

_RECORD = re.compile(r"^INSTRUMENTATION_(RESULT|STATUS|CODE|STATUS_CODE|FAILED|ABORTED): ?(.*)$")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """``code`` is None when none was printed; ``results`` is the bundle that came back, of a crash its
    "shortMsg" and "longMsg"; ``problem`` is what am says when it could not start or lost it."""

    code: int | None = None
    results: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""

    @property
    def finished(self) -> bool:
        """Whether the instrumentation came to its own end."""
        return self.code == RESULT_OK and not self.problem

    @property
    def not_there(self) -> bool:
        """Whether the phone has no such app or instrumentation."""
        return "Unable to find instrumentation" in self.problem or "INSTRUMENTATION_FAILED" in self.problem

    @property
    def words(self) -> str:
        """One sentence of what went wrong, as the phone says it."""
        short = self.results.get("shortMsg", "")
        long = self.results.get("longMsg", "").partition("\n")[0]
        said = long if short in long else ": ".join(filter(None, (short, long)))
        return said or self.problem or self.results.get("error") or f"it ended with code {self.code}"


def parse_instrumentation(text: str) -> Outcome:
    """The outcome from all that am printed, stdout and stderr.

    A value goes on over the lines that follow it, up to the next record; am ends lines with CR LF on some
    versions.
    """
    code: int | None = None
    results: dict[str, str] = {}
    problems: list[str] = []
    key: str | None = None
    for line in text.replace("\r\n", "\n").splitlines():
        record = _RECORD.match(line)
        if record is None:
            if key is not None:
                results[key] += f"\n{line}"
            elif "Exception" in line:
                problems.append(line.strip())
            continue
        kind, rest = record.groups()
        name, _, value = rest.partition("=")
        key = None
        if kind == "RESULT":
            key = name
            results[name] = value
        elif kind == "STATUS" and name == "Error":
            problems.append(value)
        elif kind == "CODE" and re.fullmatch(r"-?\d+", rest.strip()):
            code = int(rest)
        elif kind in ("FAILED", "ABORTED"):
            problems.append(f"INSTRUMENTATION_{kind}: {rest}")
    return Outcome(
        code=code, results={k: v.rstrip("\n") for k, v in results.items()}, problem="; ".join(problems)
    )
