"""The command that takes the continuum out of Measurement Sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from batch_imaging.cli.jobs import Settings
from batch_imaging.cli.memory import require_memory
from batch_imaging.cli.options import (
    Dashboard,
    EngineOption,
    LogForm,
    PerformanceReport,
    Quiet,
    Verbose,
    log_level,
)
from batch_imaging.cli.quantities import read_quantity
from batch_imaging.errors import ParameterError
from batch_imaging.logging_format import configure_logging

if TYPE_CHECKING:
    from batch_imaging.pipelines.subtraction import SetResult


def subtract(
    sets: Annotated[list[Path], typer.Argument(metavar="MS...", help="Measurement Sets.")],
    *,
    model: Annotated[
        Path | None,
        typer.Option(help="WSClean's source list, a catalogue, or a FITS model (Jy/pixel)."),
    ] = None,
    fit: Annotated[
        int | None, typer.Option(metavar="ORDER", min=0, help="Fit polynomials of this order.")
    ] = None,
    line_free: Annotated[
        str | None,
        typer.Option(
            metavar="RANGES",
            help="a~b,c~d: channels, or with Hz, kHz, MHz, GHz, km/s; or a file of --auto-mask.",
        ),
    ] = None,
    auto_mask: Annotated[
        float | None,
        typer.Option(metavar="SIGMA", help="Find the line's channels by clipping instead."),
    ] = None,
    frame: Annotated[
        Literal["TOPO", "BARY", "LSRK"], typer.Option(help="Of frequencies and velocities.")
    ] = "TOPO",
    rest_freq: Annotated[
        str | None, typer.Option(metavar="FREQ", help="Of the line, as in 1420.40575MHz.")
    ] = None,
    velocity: Annotated[
        Literal["radio", "optical"], typer.Option(help="Convention of velocities.")
    ] = "radio",
    order: Annotated[
        str | None, typer.Option(metavar="METHODS", help="model,fit (the default) or fit,model.")
    ] = None,
    predict: Annotated[
        Literal["product", "degrid"] | None,
        typer.Option(help="How to predict; default: the cheaper."),
    ] = None,
    field: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Numbers or names, as in 0,3C286.")
    ] = None,
    spw: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Numbers or names of windows, as in 0,2.")
    ] = None,
    column: Annotated[str, typer.Option(help="Column to read.")] = "DATA",
    output_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column to write; default: LINE_DATA, new sets: DATA."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder for new sets of the same names."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a column or set.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Number of worker processes.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Of a worker; default: its share of the cores."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="That a worker may take, as in 4GB.")
    ] = None,
    engine: EngineOption = None,
    dashboard: Dashboard = False,
    performance_report: PerformanceReport = None,
    settings: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    log_format: LogForm = "plain",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Subtract the continuum, by a model, by a polynomial fit or by both.

    \b
    Examples:
      batch-imaging subtract a.ms --model a-sources.txt --fit 1 --line-free 0~99,140~255
      batch-imaging subtract a.ms b.ms --fit 2 --auto-mask 5 --output line
      batch-imaging subtract c.ms --fit 2 --line-free line/a.ms.line_free.csv --field 3C286 --spw 0
      batch-imaging subtract a.ms --fit 1 --line-free=-500~-200km/s,200~500km/s \\
          --frame LSRK --rest-freq 1420.40575MHz
    """
    configure_logging(log_format, log_level(verbose, quiet))

    from batch_imaging.execution.engines import open_executor
    from batch_imaging.execution.progress import Progress
    from batch_imaging.execution.worker_logs import LOGS
    from batch_imaging.parameters import load_parameters
    from batch_imaging.pipelines.selection_text import parse_line_free, parse_names
    from batch_imaging.pipelines.subtraction import (
        LineFree,
        Subtraction,
        order_methods,
        plan_subtraction,
        run_subtraction,
        worker_bytes,
    )

    if fit is None and (line_free or auto_mask):
        raise ParameterError("--line-free and --auto-mask belong to --fit ORDER; give that too")
    wanted = Subtraction(
        order_methods(order, model is not None, fit is not None),
        model,
        fit or 0,
        LineFree(
            parse_line_free(line_free) if line_free else (),
            auto_mask,
            frame,
            read_quantity("--rest-freq", rest_freq, "Hz", "1420.40575MHz") if rest_freq else None,
            velocity,
        ),
        column,
        predict,
        parse_names(field, "--field") if field else (),
        parse_names(spw, "--spw") if spw else (),
    )
    plans = plan_subtraction(
        sets, wanted, output=output, output_column=output_column, overwrite=overwrite
    )
    if dry_run:
        for plan in plans:
            typer.echo(plan)
        return
    if memory:
        require_memory(worker_bytes(wanted), "--memory", memory, workers)
    chosen = [f"engine.name={engine}"] if engine else []
    chosen += ["engine.dashboard=true"] if dashboard else []
    wanted_engine = load_parameters({}, [*(settings or []), *chosen]).engine
    watched = wanted_engine.dashboard or performance_report
    alone = workers == 1 and wanted_engine.name == "auto" and not watched
    with (
        open_executor(
            "serial" if alone else wanted_engine, workers, worker_bytes(wanted)
        ) as executor,
        executor.log_to(output and output.absolute() / LOGS, combined=wanted_engine.combined_log),
        executor.keep_performance_report(performance_report),
    ):
        for result in run_subtraction(plans, wanted, executor, Progress(), threads):
            typer.echo(_summary(result), err=True)
            typer.echo(result.path)
            if result.line_free_file:
                typer.echo(result.line_free_file)


def _summary(result: "SetResult") -> str:
    from batch_imaging.kernels.subtraction import shown_channels

    channels = "; ".join(map(shown_channels, result.line_free))
    return (
        f"{result.path}: {result.column} of {result.n_samples:,} samples; rms over the line-free "
        f"channels {channels}: {result.rms_before_jy:.4g} Jy before, "
        f"{result.rms_after_jy:.4g} Jy after"
    )
