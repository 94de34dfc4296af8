"""The command line `batch-imaging`.

Data go to stdout, messages to stderr; `main` is the process boundary, where errors become lines and
exit codes (see `errors`). Commands import what they need when they run, so that help comes at once.
"""

import logging
import signal
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from batch_imaging import __version__
from batch_imaging.cli import (
    buffers,
    config,
    cube,
    fetch,
    image,
    jobs,
    mosaic,
    partitioned,
    services,
    standalone,
    submit,
    subtract,
)
from batch_imaging.cli.inventory import installed_parts
from batch_imaging.errors import BatchImagingError
from batch_imaging.signals import RaisingSignals

LOG = logging.getLogger(__name__)

app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def batch_imaging(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="With --version: those of all parts, too.")
    ] = False,
) -> None:
    """Simulate, self-calibrate and image SKA1-Low observations.

    \b
    Examples:
      batch-imaging run params.json --output products
      batch-imaging run params.json --output products --set imaging.npixel=512 --workers 4
      batch-imaging plan params.json
      batch-imaging explain imaging.cellsize
    """
    if version:
        _show_version(verbose)
        raise typer.Exit
    if verbose:
        raise typer.BadParameter("-v comes after the command, or with --version")
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for command in (
    jobs.run,
    jobs.plan,
    jobs.validate,
    jobs.schema,
    jobs.explain,
    submit.submit,
    subtract.subtract,
    image.image,
    mosaic.mosaic,
    partitioned.partition,
    partitioned.dag,
    partitioned.unit,
    services.workflow,
    services.controller,
    services.deployer,
    services.helm_deployer,
    services.drain,
    standalone.up,
    standalone.down,
    standalone.status,
    standalone.logs,
    standalone.get,
    fetch.fetch,
):
    app.command()(command)
app.add_typer(config.app, name="config")
app.add_typer(buffers.app, name="buffers")
app.add_typer(cube.app, name="cube")


def _show_version(verbose: bool) -> None:
    if not verbose:
        typer.echo(f"batch-imaging {__version__}")
        return
    for name, its_version in installed_parts():
        typer.echo(f"{name:<18} {its_version}")


def _stop(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


STOPPING = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""Signals that end a command by an exception, so that all is cleaned up; then, each by itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the process's exit code."""
    try:
        with RaisingSignals(_stop, STOPPING):
            return app(arguments, prog_name="batch-imaging", standalone_mode=False) or 0
    except BatchImagingError as error:
        _complain(str(error))
        return error.exit_code
    except typer.TyperException as error:
        # typer checks options by pydantic, whose word "Value error" means nothing here
        message = error.format_message().replace("Value error, ", "")
        _complain(f"{message} (batch-imaging --help shows how)")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):  # the second is Ctrl-C at a question
        return 128 + signal.SIGINT
    except Exception as error:
        if LOG.isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        _complain(f"{type(error).__name__}: {error}")
        _complain("this is a bug: please report it with what the same command says with -v")
        return BatchImagingError.exit_code


def _complain(message: str) -> None:
    for line in message.split("\n"):
        typer.echo(f"error: {line}", err=True)
