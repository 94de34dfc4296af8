"""The commands that cut Measurement Sets into parts and image these as independent jobs."""

import logging
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from batch_imaging.cli.jobs import Settings
from batch_imaging.cli.options import LogForm, Quiet, Verbose, log_level
from batch_imaging.errors import ParameterError
from batch_imaging.logging_format import configure_logging

if TYPE_CHECKING:
    from batch_imaging.execution.graph import Graph
    from batch_imaging.parameters import Parameters

LOG = logging.getLogger(__name__)

_LIMIT = 1.5  # times what a job is expected to take: there its worker is ended

Sets = Annotated[list[Path], typer.Argument(metavar="MS...", help="Measurement Sets.")]
By = Annotated[
    Literal["time", "spw", "channel", "baseline"], typer.Option(help="What is cut into ranges.")
]
MaxSize = Annotated[str, typer.Option(metavar="SIZE", help="Of a part, as in 2GB.")]
Field = Annotated[str | None, typer.Option(help="Its number or name.")]
Column = Annotated[str, typer.Option(help="Column to read.")]


def partition(
    sets: Sets,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Of the parts.")],
    max_size: MaxSize = "2GB",
    by: By = "time",
    field: Field = None,
    column: Column = "DATA",
    real: Annotated[
        bool, typer.Option("--real/--virtual", help="Write sets, or the manifest alone.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Cut Measurement Sets into parts, and write a manifest that says what is in which.

    \b
    Examples:
      batch-imaging partition a.ms --max-size 2GB --by time -o parts
      batch-imaging partition a.ms b.ms --max-size 500MB --by channel --real -o parts
    """
    configure_logging(level=log_level(verbose))

    from batch_imaging.pipelines.partitioned.partition import (
        plan_partition,
        require_space,
        write_manifest,
        write_parts,
    )

    plan = plan_partition(sets, by, _size(max_size), column=column, field=field, real=real)
    output.mkdir(parents=True, exist_ok=True)
    if real:
        require_space(plan, shutil.disk_usage(output).free)
        write_parts(plan, output)
        for number in range(len(plan.parts)):
            typer.echo(output / plan.file_of(number))
    typer.echo(write_manifest(plan, output))


def dag(
    sets: Sets,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Of jobs, their files, images.")
    ],
    params: Annotated[
        Path | None, typer.Option(metavar="PARAMS.json", help="Parameters; default: none.")
    ] = None,
    settings: Settings = None,
    max_size: MaxSize = "2GB",
    by: By = "time",
    field: Field = None,
    column: Column = "DATA",
    real: Annotated[
        bool,
        typer.Option(
            "--real/--virtual", help="Parts are sets that go with the jobs, or are read in place."
        ),
    ] = True,
    cpus: Annotated[int, typer.Option(min=1, help="Processors of each job.")] = 1,
    program: Annotated[
        Path | None, typer.Option(metavar="PATH", help="batch-imaging as it is where jobs run.")
    ] = None,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Write SLURM job arrays instead of DAGMan's files.")
    ] = False,
    run: Annotated[bool, typer.Option("--run", help="Run the jobs now, on --engine.")] = False,
    engine: Annotated[
        str | None, typer.Option(metavar="NAME", help="For --run: engine.name.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="For --run: n_workers.")] = None,
    log_format: LogForm = "plain",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Image Measurement Sets as a workflow of independent jobs: a DAG for HTCondor, or SLURM's.

    Data are cut into parts; each major cycle grids every part in a job of its own, sums the images,
    and cleans the sum. The images are those of uncut data. Gains are not solved for.

    \b
    Examples:
      batch-imaging dag a.ms -o work --max-size 2GB --set imaging.npixel=4096
      cd work && condor_submit_dag main.dag
      batch-imaging dag a.ms b.ms -o work --params params.json --slurm && work/submit.sh
      batch-imaging dag a.ms -o work --by channel --run --engine local --workers 4
    """
    configure_logging(log_format, log_level(verbose, quiet))

    from batch_imaging.execution.dagman import remove_rescue_dags, write_dag
    from batch_imaging.execution.slurm_array import write_slurm_arrays
    from batch_imaging.parameters import load_parameters
    from batch_imaging.pipelines.partitioned.graph import make_graph
    from batch_imaging.pipelines.partitioned.partition import plan_partition, require_space
    from batch_imaging.pipelines.partitioned.plan import make_plan
    from batch_imaging.pipelines.partitioned.steps import write_plan

    options = {"engine.name": engine, "n_workers": workers}
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    parameters = load_parameters(params or {}, [*(settings or []), *given])
    if parameters.ical.calibration_context:
        LOG.warning(
            "ical.calibration_context = %r has no effect: data are taken as calibrated",
            parameters.ical.calibration_context,
        )
    parts = plan_partition(sets, by, _size(max_size), column=column, field=field, real=real)
    plan = make_plan(parts, parameters, cpus)
    output.mkdir(parents=True, exist_ok=True)
    require_space(parts, shutil.disk_usage(output).free)
    if write_plan(plan, output):
        remove_rescue_dags(output)
    graph = make_graph(plan)
    if run:
        _run(graph, output, parameters)
        return
    writer = write_slurm_arrays if slurm else write_dag
    typer.echo(writer(graph, output, (program or _this_program()).absolute()))


def unit(
    step: Annotated[
        str,
        typer.Argument(
            metavar="STEP",
            help="partition, density, sum-density, grid, subtract, sum, deconvolve or restore.",
        ),
    ],
    *,
    cycle: Annotated[int | None, typer.Option(min=0, help="Major cycle, from 0.")] = None,
    part: Annotated[int | None, typer.Option(min=0, help="Part of the data, from 0.")] = None,
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Of the workflow.")] = Path(),
    log_format: LogForm = "plain",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Do one job of a workflow that `dag` wrote, unless it is done already.

    \b
    Examples:
      batch-imaging unit grid --cycle 0 --part 3
      batch-imaging unit sum --cycle 0 --folder work
      batch-imaging unit deconvolve --cycle 0 --folder work
    """
    configure_logging(log_format, log_level(verbose, quiet))

    from batch_imaging.pipelines.partitioned.graph import find_node
    from batch_imaging.pipelines.partitioned.plan import read_plan
    from batch_imaging.pipelines.partitioned.steps import run_node

    node = find_node(read_plan(folder), step, cycle, part)
    done = run_node(node, folder)
    for name in node.outputs:
        typer.echo(f"{folder / name}{'' if done else ' (there already)'}")


def _run(graph: "Graph", folder: Path, parameters: "Parameters") -> None:
    from batch_imaging.execution.engines import open_executor
    from batch_imaging.execution.graph import run_graph
    from batch_imaging.execution.progress import Progress
    from batch_imaging.pipelines.partitioned.steps import products, run_node, stopped_because

    memory_bytes = int(_LIMIT * max(node.memory_bytes for node in graph.nodes()))
    with open_executor(parameters.engine, parameters.n_workers, memory_bytes) as executor:
        run_graph(graph, run_node, folder.absolute(), executor, Progress())
    cycles, reason = stopped_because(folder)
    typer.echo(f"{cycles} major cycles; {reason}", err=True)
    for path in products(folder):
        typer.echo(path)


def _size(text: str) -> float:
    from batch_imaging.pipelines.quantities import parse_bytes

    try:
        return parse_bytes(text)
    except ValueError as error:
        raise ParameterError(f"--max-size {text}: give a size as in 2GB") from error


def _this_program() -> Path:
    beside = Path(sys.executable).with_name("batch-imaging")
    return beside if beside.exists() else Path(sys.argv[0])
