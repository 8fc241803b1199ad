"""The `edgekit` command: lazy commands, global options, one error boundary."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import traceback

import click

from edgekit import __version__
from edgekit.errors import EXIT_BUG, EXIT_OK, EdgekitError, StepFailed

EXIT_INTERRUPTED = 130
_EXIT_BROKEN_PIPE = 141
_EXIT_TERMINATED = 143
"""What a shell says of programs that SIGINT, SIGPIPE and SIGTERM ended."""

COMMANDS = {
    "build": ("edgekit.cli.build", "build", "Make a bundle and a report from a model and a device profile."),
    "plan": ("edgekit.cli.plan", "plan", "Explain what `build` would do, and stop."),
    "profiles": ("edgekit.cli.profiles", "profiles", "List, show, check and draft device profiles."),
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
    "estimate": (
        "edgekit.cli.estimate",
        "estimate",
        "Predict the latency of a bundle or a model file, without the device.",
    ),
    "calibrate": (
        "edgekit.cli.calibrate",
        "calibrate",
        "Fit a profile's latency coefficients to a device.",
    ),
    "deploy": (
        "edgekit.cli.deploy",
        "deploy",
        "Push a bundle to a device, check it and run its golden samples there.",
    ),
    "devices": ("edgekit.cli.devices", "devices", "List devices that can be reached, and what they can run."),
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
        _name_variables(command, f"EDGEKIT_{cmd_name.upper()}")
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


def _name_variables(command: click.Command, prefix: str) -> None:
    """Give each option the environment variable of its own name: --eval of build is EDGEKIT_BUILD_EVAL.

    click would take the names of the Python parameters, which differ where an option is a keyword.
    """
    for option in command.params:
        if isinstance(option, click.Option):
            flag = max(option.opts, key=len).lstrip("-")
            option.envvar = f"{prefix}_{flag.replace('-', '_').upper()}"
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            _name_variables(inner, f"{prefix}_{name.upper()}")


_EPILOG = """\
Exit codes: 0 done, 2 mistake in what was asked, 3 something is not installed, 4 not possible on this
target, 5 a step failed, 6 a gate failed, 7 device error, 70 bug in edgekit, 130 stopped by Ctrl-C.

Every option can be set by an environment variable: EDGEKIT_<COMMAND>_<OPTION>, for example
EDGEKIT_BUILD_PROFILE=pi4.
"""


@click.group(
    cls=LazyGroup,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="edgekit")
@click.option(
    "--cache",
    "cache_dir",
    envvar="EDGEKIT_CACHE",
    type=click.Path(file_okay=False),
    help="Folder of the artifact store (also EDGEKIT_CACHE).",
)
@click.option("-q", "--quiet", is_flag=True, envvar="EDGEKIT_QUIET", help="Print results only, no progress.")
def main(cache_dir: str | None, quiet: bool) -> None:
    """From a PyTorch model and a device profile to the smallest bundle that keeps its accuracy.

    Start with `edgekit build --profile pi4`: it builds the built-in demo.
    """
    # ``quiet`` is read by console.progress, from the context.
    if cache_dir:
        os.environ["EDGEKIT_CACHE"] = cache_dir


class _Terminated(KeyboardInterrupt):
    """SIGTERM: unwinds like Ctrl-C, so that child processes and scratch folders go too."""


def _terminate(signum: int, frame: object) -> None:
    raise _Terminated


def entry() -> None:
    """Console script: runs :func:`main` and turns every outcome into a message and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Run the command line; returns the exit code. Prints errors as one sentence and a hint on stderr."""
    try:
        code = main.main(args=args, prog_name="edgekit", standalone_mode=False)
        return code if isinstance(code, int) else EXIT_OK
    except EdgekitError as error:
        return _complain(str(error), error.hint, error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        where = f"{error.ctx.command_path} " if isinstance(error, click.UsageError) and error.ctx else ""
        return _complain(error.format_message(), f"see `{where or 'edgekit '}--help`", error.exit_code)
    except (click.Abort, KeyboardInterrupt) as stop:
        terminated = isinstance(stop, _Terminated) or isinstance(stop.__cause__, _Terminated)
        code = _EXIT_TERMINATED if terminated else EXIT_INTERRUPTED
        return _complain("stopped", "run the same command again: finished steps are kept", code)
    except (BrokenPipeError, SystemExit):
        # click ends by SystemExit when the reader of stdout is gone (`| head`), and for nothing else here.
        # No success: what was printed was not read.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - the flush at exit needs a target
        return _EXIT_BROKEN_PIPE
    except MemoryError:
        return _complain(
            "this machine has too little memory for that",
            "give less data (--calib, --eval, --train), or a smaller input",
            StepFailed.exit_code,
        )
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _complain(
                f"the disk is full{f' at {error.filename}' if error.filename else ''}",
                "free some space, run `edgekit cache clear`, or set EDGEKIT_CACHE to a larger disk",
                StepFailed.exit_code,
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
