"""Commands about one job on this machine: run it, plan it, check and explain its parameters."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batch_imaging.cli.options import (
    Dashboard,
    EngineOption,
    LogForm,
    PerformanceReport,
    Quiet,
    Verbose,
    log_level,
)
from batch_imaging.errors import ParameterError
from batch_imaging.logging_format import configure_logging

if TYPE_CHECKING:
    from batch_imaging.parameters import Parameters

ParametersFile = Annotated[
    Path, typer.Argument(metavar="PARAMS.json", help="Parameters as JSON; - reads stdin.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Set one parameter; may be repeated."),
]


def run(
    params: ParametersFile,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the products.")],
    engine: EngineOption = None,
    dashboard: Dashboard = False,
    performance_report: PerformanceReport = None,
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
    log_format: LogForm = "plain",
    verbose: Verbose = False,
    quiet: Quiet = False,
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
      batch-imaging run params.json -o products --engine slurm --set engine.queue=long
      batch-imaging run params.json -o products --dashboard --performance-report dask.html
    """
    configure_logging(log_format, log_level(verbose, quiet))
    if no_color:
        os.environ["NO_COLOR"] = "1"
    if workers is not None:
        settings = [*(settings or []), f"n_workers={workers}"]
    if engine is not None:
        settings = [*(settings or []), f"engine.name={engine}"]
    if dashboard:
        settings = [*(settings or []), "engine.dashboard=true"]
    parameters = _load(params, settings)

    from batch_imaging.workflow.local_run import run_locally

    done = run_locally(parameters, output, tuple(sets or ()), performance_report)
    for product in (*done.products, done.report):
        typer.echo(product)


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
    configure_logging(level=log_level(verbose))
    parameters = _load(params, settings)

    from batch_imaging.execution.plan import make_plan

    if parameters.input.buffer:
        raise ParameterError(
            "input.buffer: what its sets need is planned when they are seen; "
            "`batch-imaging image --dry-run` does that"
        )
    the_plan = make_plan(parameters)
    typer.echo(the_plan.to_json() if as_json else str(the_plan))


def validate(params: ParametersFile, settings: Settings = None) -> None:
    """Check parameters, array, sky and memory without starting anything.

    \b
    Example:
      batch-imaging validate params.json
    """
    parameters = _load(params, settings)

    from batch_imaging.execution.plan import make_plan
    from batch_imaging.parameters import parameter_hash

    warnings = () if parameters.input.buffer else make_plan(parameters).warnings
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{params}: valid (hash {parameter_hash(parameters)})")


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
