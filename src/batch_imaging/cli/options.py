"""Options that several commands have, and what they mean for the log."""

import logging
from typing import Annotated

import typer

from batch_imaging.logging_format import LogFormat

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more; tracebacks too.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")]
LogForm = Annotated[LogFormat, typer.Option("--log-format", help="Form of the log lines.")]


def log_level(verbose: bool, quiet: bool = False) -> int:
    """Return the level of the log that these options ask for."""
    if verbose:
        return logging.DEBUG
    return logging.WARNING if quiet else logging.INFO
