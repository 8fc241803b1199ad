"""Units that were asked to stay in float32 must be there: told before anything is trained or quantised."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.backends import get_backend
from edgekit.errors import UserError
from edgekit.types import Scheme, ignore_events

if TYPE_CHECKING:
    from edgekit.build.compression import Compressed
    from edgekit.build.inputs import Inputs
    from edgekit.build.runner import Runner
    from edgekit.types import Plan

_PROBES = 2
"""Samples of a conversion that is only made to see which units there are."""


def check_kept(scheme: Scheme, units: Sequence[str], target: str) -> None:
    """Raise UserError for a unit of ``scheme.overrides`` that a file does not have.

    ``units`` are the names of its float file. A name may also be a module's with all that is in it, or a
    node's without its module, as some backends take them.
    """
    for name in scheme.overrides:
        if any(name in (u, u.rpartition("/")[2]) or u.startswith((f"{name}.", f"{name}/")) for u in units):
            continue
        near = difflib.get_close_matches(name, units, n=3, cutoff=0.4) or list(units[:4])
        raise UserError(
            f"quantize.keep names {name!r}, which the {target} file does not have",
            hint=f"it has {', '.join(near)}{', ...' if len(units) > len(near) else ''}; "
            "`edgekit inspect` lists the units of a built file",
        )


def check_kept_of(plans: Sequence[Plan], inputs: Inputs, runner: Runner, compressed: Compressed) -> None:
    """The same for a module that is still to be trained: its structure is that of the file, its weights do
    not matter. Converts it once for each plan with such wishes. Raises what a conversion raises."""
    from edgekit.build.inputs import samples_of

    for plan in plans:
        if not plan.scheme.overrides:
            continue
        backend = get_backend(plan.backend)
        probes = samples_of(tuple(x[:_PROBES] for x in inputs.verification(seed=runner.seed)[0]))
        file = backend.export(
            compressed.module(),
            inputs.model.spec,
            probes,
            store=runner.store,
            scheme=Scheme(
                delegate=plan.delegate,
                delegate_version=plan.scheme.delegate_version,
                keep_nchw=plan.scheme.keep_nchw,
            ),
            emit=ignore_events,
        )
        check_kept(plan.scheme, [u.name for u in backend.units(file)], plan.target)
