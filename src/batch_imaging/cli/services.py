"""Commands that are the processes of the control system; people rarely call them themselves."""

from pathlib import Path
from typing import Annotated

import typer

from batch_imaging.cli.options import LogForm, Verbose, log_level
from batch_imaging.logging_format import configure_logging


def workflow(
    pb_id: Annotated[str, typer.Argument(metavar="PB_ID", help="Id of the processing block.")],
    log_format: LogForm = "plain",
    verbose: Verbose = False,
) -> None:
    """Process a block of the configuration database: claim, wait, deploy, run, clean up.

    \b
    Where the database is stands in SDP_CONFIG_HOST, SDP_CONFIG_PORT and so on.
    Example:
      batch-imaging workflow pb-mvp01-20200523-00001
    """
    configure_logging(log_format, log_level(verbose))

    from batch_imaging.workflow.script import process

    process(pb_id)


def controller(
    max_workers: Annotated[
        int | None, typer.Option(help="Dask workers of all running blocks together.")
    ] = None,
    max_buffers: Annotated[
        str | None, typer.Option(help="Size of all buffers together, as in 500Gi.")
    ] = None,
    workflows: Annotated[
        str | None, typer.Option(help="File or URL of workflow definitions, besides our own.")
    ] = None,
    retention: Annotated[
        float, typer.Option(help="Seconds that the deployment of a finished script stays.")
    ] = 3600.0,
    log_format: LogForm = "plain",
    verbose: Verbose = False,
) -> None:
    """Start and release processing blocks, and clean up after them, until it is told to end.

    \b
    Example:
      batch-imaging controller --max-workers 16 --max-buffers 2Ti
    """
    configure_logging(log_format, log_level(verbose))

    from batch_imaging.control.config import Config
    from batch_imaging.control.controller import Capacity, run_controller

    with Config() as config:
        run_controller(config, Capacity.of(max_workers, max_buffers), workflows, retention)


def deployer(
    folder: Annotated[Path, typer.Option(help="Directory of buffers and logs.")],
    log_format: LogForm = "plain",
    verbose: Verbose = False,
) -> None:
    """Make deployments real as processes and directories of this machine.

    \b
    Example:
      batch-imaging deployer --folder control
    """
    configure_logging(log_format, log_level(verbose))

    from batch_imaging.control.config import Config
    from batch_imaging.control.deployer import LocalDeployer, run_deployer

    with Config() as config:
        run_deployer(config, LocalDeployer(folder))
