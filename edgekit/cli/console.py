"""What commands print with: results on stdout, progress on stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, Literal

import click

from edgekit.types import Emit, Event

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def print_json(data: Any) -> None:
    """JSON on stdout, for programs."""
    click.echo(json.dumps(data, indent=1, allow_nan=False, default=str))


def console() -> Console:
    """A rich console on stdout."""
    from rich.console import Console

    return Console(soft_wrap=False)


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Label and text, aligned; long texts wrap under themselves on a terminal."""
    out = console()
    width = max((len(label) for label, _ in rows), default=0)
    if not out.is_terminal:
        for label, text in rows:
            click.echo(f"{label.ljust(width)}  {text}")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for label, text in rows:
        style = {"Warning": "yellow", "warning": "yellow"}.get(label, "bold")
        table.add_row(Text(label, style=style), Text(text))
    out.print(table)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table: ruled on a terminal, aligned plain columns elsewhere. Figures align right."""
    out = console()
    if out.is_terminal:
        from rich.table import Table
        from rich.text import Text

        numeric = [all(_is_figure(row[i]) for row in rows) for i in range(len(columns))]
        widths = _widths(columns, rows, numeric, out.width - 3 * len(columns) - 1)
        table = Table()
        for name, figures, width in zip(columns, numeric, widths, strict=True):
            justify: Literal["left", "right"] = "right" if figures else "left"
            table.add_column(name, justify=justify, width=width, no_wrap=figures, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        out.print(table)
        return
    widths = [max(len(c), *(len(r[i]) for r in rows)) if rows else len(c) for i, c in enumerate(columns)]
    for row in [list(columns), *rows]:
        click.echo("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def _widths(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], room: int
) -> list[int]:
    """Widths of columns that fit into ``room``: the widest text gives way first, figures and titles never."""
    widths = [max(len(c), *(len(r[i]) for r in rows), 1) for i, c in enumerate(columns)]
    while sum(widths) > room:
        soft = [i for i, c in enumerate(columns) if not numeric[i] and widths[i] > len(c)]
        if not soft:
            break
        widths[max(soft, key=lambda i: widths[i])] -= 1
    return widths


def _is_figure(text: str) -> bool:
    return (bool(text) and (text[0].isdigit() or text[0] in "-+.")) or text == ""


@contextmanager
def progress() -> Iterator[Emit]:
    """An ``Emit`` that shows a build on stderr: bars on a terminal, else plain lines; nothing with -q.

    While it runs, what the user's code and libraries print goes to stderr too: stdout is for the result.
    """
    with _stdout_to_stderr(), _shown() as emit:
        yield emit


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Also for child processes and C libraries, which write to the descriptor and not to sys.stdout."""
    try:
        kept = os.dup(1)
    except OSError:  # there is no stdout
        yield
        return
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def _shown() -> Iterator[Emit]:
    if click.get_current_context().find_root().params.get("quiet"):
        yield lambda event: None
        return
    from rich.console import Console

    target = Console(stderr=True)
    if not target.is_terminal:
        yield _plain
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}", style="dim"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=target) as bars:
        yield _Bars(bars)


class _Bars:
    """One bar for each step."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        task = self._tasks.get(event.step)
        if event.kind == "step_started" or (task is None and event.kind == "progress"):
            self._tasks[event.step] = self._bars.add_task(event.step, total=None, note="")
        elif event.kind == "progress" and task is not None:
            self._bars.update(
                task, completed=event.data.get("done"), total=event.data.get("total"), note=_figures(event)
            )
        elif event.kind == "step_finished" and task is not None:
            note = "from the cache" if event.data.get("cached") else ""
            self._bars.update(task, total=1, completed=1, note=note)
            self._bars.stop_task(task)
        elif event.kind in ("warning", "info"):
            from rich.text import Text

            self._bars.console.print(Text(_line(event), style="yellow" if event.kind == "warning" else ""))


def _line(event: Event) -> str:
    return f"{event.step}: {'warning: ' if event.kind == 'warning' else ''}{event.message}"


_last_line = [0.0]


def _plain(event: Event) -> None:
    """Lines for logs; progress at most every ten seconds."""
    if event.kind == "step_finished":
        seconds = event.data.get("seconds")
        took = "" if seconds is None else f" in {seconds:.1f} s"
        click.echo(f"{event.step}: {'cached' if event.data.get('cached') else 'done'}{took}", err=True)
    elif event.kind in ("warning", "info"):
        click.echo(_line(event), err=True)
    elif event.kind == "progress" and time.monotonic() - _last_line[0] > 10:
        _last_line[0] = time.monotonic()
        click.echo(
            f"{event.step}: {event.data.get('done')} of {event.data.get('total')} {_figures(event)}".rstrip(),
            err=True,
        )


def _figures(event: Event) -> str:
    shown = {
        k: v for k, v in event.data.items() if k not in ("done", "total") and isinstance(v, (int, float))
    }
    return " ".join(f"{k} {v:.4g}" for k, v in shown.items())
