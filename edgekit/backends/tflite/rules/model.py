"""What a rule and a delegate are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from edgekit.backends.tflite.rules.view import View

Condition = Callable[[View], str | None]
"""What an operator must fulfil; the answer is None, or a clause that follows "takes OP only "."""

LEVELS: Mapping[int, str] = {
    27: "API 27",
    28: "API 28",
    29: "API 29",
    30: "API 30",
    31: "API 31",
    1_000_006: "NNAPI feature level 6 (after API 31)",
    1_000_007: "NNAPI feature level 7 (after API 31)",
}
"""Names of the levels of a delegate that grows with the operating system (NNAPI)."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An operator that a delegate takes: the precisions that it computes it in, and under what conditions.

    ``max_version`` is the newest version of the operator in the file that the delegate reads, ``level`` the
    first level of the operating system that has the operator.
    """

    op: str
    precisions: frozenset[str]
    conditions: tuple[Condition, ...] = ()
    max_version: int | None = None
    level: int = 0


@dataclass(frozen=True, kw_only=True)
class Delegate:
    """A delegate: its rules by operator, and how much of a graph it takes.

    ``partitions`` is the largest number of partitions that it takes, None for any. ``source`` says where the
    rules come from. ``title`` stands in reasons, ``level`` is the level that they are judged for.
    """

    name: str
    title: str
    source: str
    rules: Mapping[str, Rule]
    conditions: tuple[Condition, ...] = ()
    partitions: int | None = None
    level: int = 0

    def refusal_of(self, op: str, precision: str) -> str | None:
        """Why not an operator in a precision, attributes left aside; None when it can be taken."""
        rule = self.rules.get(op)
        if rule is None:
            return f"{self.title} has no kernel for {op}"
        if precision not in rule.precisions:
            return f"{self.title} runs {op} in {', '.join(sorted(rule.precisions))} but not in {precision}"
        if rule.level > self.level:
            return f"{self.title} has {op} from {LEVELS[rule.level]} on"
        return None

    def refusal(self, view: View) -> str | None:
        """Why not this very operator; None when it is taken."""
        op = view.op
        reason = self.refusal_of(op.op, view.precision)
        if reason is not None:
            return reason
        rule = self.rules[op.op]
        if rule.max_version is not None and op.version > rule.max_version:
            return f"{self.title} reads {op.op} up to version {rule.max_version}, the file has {op.version}"
        for condition in (*self.conditions, *rule.conditions):
            clause = condition(view)
            if clause is not None:
                return f"{self.title} takes {op.op} only {clause}"
        return None


def rules_of(*groups: Iterable[Rule]) -> dict[str, Rule]:
    """Rules by operator. Raises ValueError when an operator is described twice."""
    found: dict[str, Rule] = {}
    for rule in (rule for group in groups for rule in group):
        if rule.op in found:
            raise ValueError(f"two rules for {rule.op}")
        found[rule.op] = rule
    return found


def each(
    ops: str,
    precisions: frozenset[str],
    *conditions: Condition,
    max_version: int | None = None,
    level: int = 0,
) -> list[Rule]:
    """The same rule for several operators, separated by spaces."""
    return [
        Rule(op=op, precisions=precisions, conditions=conditions, max_version=max_version, level=level)
        for op in ops.split()
    ]
