"""The `edgekit` command: lazy commands, global options, one error boundary."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback

import click

from edgekit import __version__
from edgekit.errors import EXIT_BUG, EXIT_OK, EdgekitError

COMMANDS = {
    "build": ("edgekit.cli.build", "build", "Make a bundle and a report from a model and a device profile."),
    "plan": ("edgekit.cli.plan", "plan", "Explain what `build` would do, and stop."),
    "profiles": ("edgekit.cli.profiles", "profiles", "List, show and check device profiles."),
    "inspect": (
        "edgekit.cli.inspect",
        "inspect",
        "Show operators, precisions, coverage and size of a model file.",
    ),
    "verify": ("edgekit.cli.verify", "verify", "Run a bundle's golden samples, here or on a device."),
    "bench": (
        "edgekit.cli.bench",
        "bench",
        "Measure a bundle or a model file on a device, emulator or this host.",
    ),
    "doctor": ("edgekit.cli.doctor", "doctor", "Say what is missing here and the command that mends it."),
    "cache": ("edgekit.cli.cache", "cache", "Show or clear the store of artifacts and finished steps."),
}
"""Name, where it is, and its line in --help; a command is imported only when it runs."""


class LazyGroup(click.Group):
    """A group whose commands are imported on first use, so that --help stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"there is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


_EPILOG = """\
Exit codes: 0 done, 2 mistake in what was asked, 3 something is not installed, 4 not possible on this
target, 5 a step failed, 6 a gate failed, 7 device error, 70 bug in edgekit.

Every option can be set by an environment variable: EDGEKIT_<COMMAND>_<OPTION>, for example
EDGEKIT_BUILD_PROFILE=pi4.
"""


@click.group(
    cls=LazyGroup,
    epilog=_EPILOG,
    context_settings={"auto_envvar_prefix": "EDGEKIT", "help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="edgekit")
@click.option(
    "--cache",
    "cache_dir",
    envvar="EDGEKIT_CACHE",
    type=click.Path(file_okay=False),
    help="Folder of the artifact store (also EDGEKIT_CACHE).",
)
@click.option("-q", "--quiet", is_flag=True, help="Print results only, no progress.")
def main(cache_dir: str | None, quiet: bool) -> None:
    """From a PyTorch model and a device profile to the smallest bundle that keeps its accuracy.

    Start with `edgekit build --profile pi4`: it builds the built-in demo.
    """
    if cache_dir:
        os.environ["EDGEKIT_CACHE"] = cache_dir
    if quiet:
        os.environ["EDGEKIT_QUIET"] = "1"


def entry() -> None:
    """Console script: runs :func:`main` and turns every outcome into a message and an exit code."""
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Run the command line; returns the exit code. Prints errors as one sentence and a hint on stderr."""
    try:
        code = main.main(args=args, prog_name="edgekit", standalone_mode=False)
        return code if isinstance(code, int) else EXIT_OK
    except EdgekitError as error:
        return _complain(str(error), error.hint, error.exit_code)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _complain("stopped", "run the same command again: finished steps are kept", 130)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - so that the flush at exit finds a target
        return EXIT_OK
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _complain(
                f"the disk is full{f' at {error.filename}' if error.filename else ''}",
                "free some space, run `edgekit cache clear`, or set EDGEKIT_CACHE to a larger disk",
                5,
            )
        return _bug()
    except Exception:
        return _bug()


def _complain(message: str, hint: str | None, code: int) -> int:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"  next: {hint}", err=True)
    return code


def _bug() -> int:
    traceback.print_exc()
    click.echo(
        f"error: this is a bug in edgekit {__version__}, not a mistake of yours\n"
        "  next: report it with the traceback above and the output of `edgekit doctor --json`",
        err=True,
    )
    return EXIT_BUG
