"""The command that hands a whole run to a batch system."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from batch_imaging.cli.jobs import Settings
from batch_imaging.errors import ParameterError, ProductError


def submit(
    params: Annotated[
        Path, typer.Argument(metavar="PARAMS.json", help="Parameters as JSON, a file.")
    ],
    *,
    engine: Annotated[Literal["slurm", "htcondor"], typer.Option(help="The batch system.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory of products and the job's log.")
    ] = Path("products"),
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the job script, submit nothing.")
    ] = False,
    settings: Settings = None,
) -> None:
    """Submit a run as one job; its workers are in the same job.

    engine.queue, account, walltime, cores, memory and directives are the job's.

    \b
    Examples:
      batch-imaging submit params.json --engine slurm --set engine.walltime=04:00:00
      batch-imaging submit params.json --engine htcondor --print
    """
    from batch_imaging.execution.plan import make_plan
    from batch_imaging.execution.submission import job_script, submit_job
    from batch_imaging.parameters import load_parameters

    if str(params) == "-":
        raise ParameterError("PARAMS.json: a job cannot read stdin; give a file")
    chosen = [*(settings or []), f"engine.name={engine}"]
    parameters = load_parameters(params, chosen)
    folder = output.absolute()
    options = [part for setting in chosen for part in ("--set", setting)]
    arguments = ["run", str(params.absolute()), "--output", str(folder), *options]
    script = job_script(parameters.engine, make_plan(parameters), arguments, folder)
    if only_print:
        typer.echo(script, nl=False)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProductError(f"{output}: cannot be made ({error}); choose another") from error
    typer.echo(submit_job(parameters.engine, script))
