"""A place of a model that may suffer in int8, and such places by rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One operator that a rule has found.

    ``node`` is its name in the exported graph, ``where`` the module's path in the user's model ("" at the
    top), ``line`` the place in the user's code ("net.py:41", "" if unknown). ``reason`` says why int8
    suffers, ``hint`` what to do. ``matters`` is None as long as nothing was measured; ``measured`` then says
    what was. ``loss`` orders findings of one rule, the worst has the largest.
    """

    rule: str
    op: str
    node: str
    where: str
    line: str
    reason: str
    hint: str
    matters: bool | None = None
    measured: str = ""
    loss: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Group:
    """All findings of one rule that matter equally; ``worst`` first among them."""

    rule: str
    findings: tuple[Finding, ...]
    worst: Finding

    @property
    def matters(self) -> bool | None:
        """Of all of them; None where nothing was measured."""
        return self.worst.matters

    @property
    def places(self) -> str:
        """The worst and some others: "stem.2, blocks.3.conv.2 and 17 more"."""
        names = list(dict.fromkeys(f.where or f.line or f.node for f in self.findings))
        more = len(names) - _NAMED
        return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")

    def __str__(self) -> str:
        """One sentence for a warning: places, what was measured (else why), and what to do."""
        worst = self.worst
        told = f"{worst.reason}: {worst.measured}" if worst.measured else worst.reason
        return f"{self.rule} at {self.places}: {told}; {worst.hint}"


def grouped(findings: Sequence[Finding]) -> list[Group]:
    """Findings by rule and by whether they matter: those that do first."""
    parts: dict[tuple[str, bool | None], list[Finding]] = {}
    for finding in findings:
        parts.setdefault((finding.rule, finding.matters), []).append(finding)
    groups = []
    for (rule, _), members in parts.items():
        ordered = sorted(members, key=lambda f: -f.loss)
        groups.append(Group(rule=rule, findings=tuple(ordered), worst=ordered[0]))
    return sorted(groups, key=lambda g: {True: 0, None: 1, False: 2}[g.matters])
