"""Options that several commands have, and what they mean for the log."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from batch_imaging.logging_format import LogFormat

EngineName = Literal["auto", "local", "serial", "slurm", "htcondor", "ssh", "address", "kubernetes"]
EngineOption = Annotated[
    EngineName | None,
    typer.Option("--engine", help="engine.name: who runs the workers; more by --set engine.…"),
]
Dashboard = Annotated[
    bool, typer.Option("--dashboard", help="engine.dashboard: Dask's, while the command runs.")
]
PerformanceReport = Annotated[
    Path | None,
    typer.Option("--performance-report", metavar="FILE", help="Keep Dask's report, as HTML."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more; tracebacks too.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")]
LogForm = Annotated[LogFormat, typer.Option("--log-format", help="Form of the log lines.")]


def log_level(verbose: bool, quiet: bool = False) -> int:
    """Return the level of the log that these options ask for."""
    if verbose:
        return logging.DEBUG
    return logging.WARNING if quiet else logging.INFO
