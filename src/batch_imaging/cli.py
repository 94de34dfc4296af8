"""The command line `batch-imaging`.

Data go to stdout, messages to stderr; `main` is the process boundary, where errors become lines and
exit codes (see `errors`). Commands import what they need when they run, so that help comes at once.
"""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from batch_imaging import __version__
from batch_imaging.errors import BatchImagingError
from batch_imaging.logging_format import LogFormat, configure_logging

if TYPE_CHECKING:
    from batch_imaging.parameters import Parameters

LOG = logging.getLogger(__name__)

app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ParametersFile = Annotated[
    Path, typer.Argument(metavar="PARAMS.json", help="Parameters as JSON; - reads stdin.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Set one parameter; may be repeated."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more; tracebacks too.")]


@app.callback(invoke_without_command=True)
def batch_imaging(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
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
        typer.echo(f"batch-imaging {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def run(
    params: ParametersFile,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the products.")],
    engine: Annotated[
        Literal["local", "serial"],
        typer.Option(help="Dask workers on this machine, or all in this process."),
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(help="Number of workers, instead of n_workers.")
    ] = None,
    sets: Annotated[
        list[Path] | None,
        typer.Option(
            "--measurement-set", metavar="MS", help="Image this (repeatable), do not simulate."
        ),
    ] = None,
    settings: Settings = None,
    log_format: Annotated[LogFormat, typer.Option(help="Form of the log lines.")] = "plain",
    verbose: Verbose = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="No colours (or NO_COLOR=1).")
    ] = False,
) -> None:
    """Simulate, calibrate and image; write products and a report.

    \b
    Examples:
      batch-imaging run params.json --output products
      batch-imaging run - --output products --engine serial < params.json
      batch-imaging run params.json -o products --set ical.preset=original --set ntimes=3
      batch-imaging run params.json -o products --measurement-set a.ms --measurement-set b.ms
    """
    configure_logging(log_format, _log_level(verbose, quiet))
    if no_color:
        os.environ["NO_COLOR"] = "1"
    if workers is not None:
        settings = [*(settings or []), f"n_workers={workers}"]
    parameters = _load(params, settings)

    from batch_imaging.workflow.local_run import run_locally

    done = run_locally(parameters, output, engine, tuple(sets or ()))
    for product in (*done.products, done.report):
        typer.echo(product)


@app.command()
def plan(
    params: ParametersFile,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    settings: Settings = None,
    verbose: Verbose = False,
) -> None:
    """Print what a run would do, need and take.

    \b
    Examples:
      batch-imaging plan params.json
      batch-imaging plan params.json --json --set rmax=1500
    """
    configure_logging(level=_log_level(verbose))
    parameters = _load(params, settings)

    from batch_imaging.execution.plan import make_plan

    the_plan = make_plan(parameters)
    typer.echo(the_plan.to_json() if as_json else str(the_plan))


@app.command()
def validate(params: ParametersFile, settings: Settings = None) -> None:
    """Check parameters, array, sky and memory without starting anything.

    \b
    Example:
      batch-imaging validate params.json
    """
    parameters = _load(params, settings)

    from batch_imaging.execution.plan import make_plan
    from batch_imaging.parameters import parameter_hash

    for warning in make_plan(parameters).warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{params}: valid (hash {parameter_hash(parameters)})")


@app.command()
def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The reference page of the parameters instead.")
    ] = False,
) -> None:
    """Print the JSON schema of the parameters.

    \b
    Examples:
      batch-imaging schema > src/batch_imaging/parameters.schema.json
      batch-imaging schema --markdown > docs/parameters.md
    """
    from batch_imaging.parameters import parameters_markdown, schema_text

    typer.echo(parameters_markdown() if markdown else schema_text(), nl=False)


@app.command()
def explain(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="As in imaging.cellsize, or imaging.")
    ],
) -> None:
    """Describe a parameter: type, unit, default, range, meaning.

    \b
    Examples:
      batch-imaging explain imaging.cellsize
      batch-imaging explain ical
    """
    from batch_imaging.parameters import explain as explain_parameter

    typer.echo(explain_parameter(path))


def _load(path: Path, settings: list[str] | None) -> "Parameters":
    from batch_imaging.parameters import load_parameters

    return load_parameters(sys.stdin.read() if str(path) == "-" else path, settings or ())


def _log_level(verbose: bool, quiet: bool = False) -> int:
    if verbose:
        return logging.DEBUG
    return logging.WARNING if quiet else logging.INFO


def _terminate(*_: object) -> NoReturn:
    """End by an exception, so that everything is cleaned up; a second signal ends at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise SystemExit(128 + signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the process's exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return app(arguments, prog_name="batch-imaging", standalone_mode=False) or 0
    except BatchImagingError as error:
        _complain(str(error))
        return error.exit_code
    except typer.TyperException as error:
        # typer checks options by pydantic, whose word "Value error" means nothing here
        message = error.format_message().replace("Value error, ", "")
        _complain(f"{message} (batch-imaging --help shows how)")
        return error.exit_code
    except KeyboardInterrupt:
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
