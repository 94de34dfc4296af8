"""The command that images Measurement Sets along an axis."""

import math
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
    from batch_imaging.io.fits_image import Provenance
    from batch_imaging.pipelines.cube_imaging import CubeResult

_LIMIT = 1.5  # times what a worker is expected to take: there it is ended


def image(
    sets: Annotated[list[Path], typer.Argument(metavar="MS...", help="Measurement Sets.")],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the cubes.")
    ],
    axis: Annotated[
        Literal["channel", "time", "none"], typer.Option(help="Along which planes lie.")
    ] = "channel",
    time_step: Annotated[
        Literal["scan", "integration"], typer.Option(help="Of a plane of --axis time.")
    ] = "scan",
    field: Annotated[str | None, typer.Option(help="Its number or name.")] = None,
    spw: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Numbers or names of windows, as in 0,2.")
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(metavar="RANGES", help="a~b,c~d: channels, or with Hz, kHz, MHz, GHz, km/s."),
    ] = None,
    times: Annotated[
        str | None, typer.Option(metavar="RANGES", help="UTC, as in 2020-06-25T10:00~2020-06-26.")
    ] = None,
    column: Annotated[str, typer.Option(help="Column to read.")] = "DATA",
    stokes: Annotated[
        str, typer.Option(help="I, IQUV, or products of the receivers as in XX,YY.")
    ] = "I",
    average: Annotated[
        int, typer.Option(metavar="N", min=1, help="Channels that make one plane.")
    ] = 1,
    frame: Annotated[
        Literal["TOPO", "BARY", "LSRK"] | None,
        typer.Option(help="Regrid to an axis in this frame; default: the channels of the data."),
    ] = None,
    velocities: Annotated[
        str | None,
        typer.Option(metavar="START,STEP,N", help="Regrid to these velocities, km/s."),
    ] = None,
    velocity: Annotated[
        Literal["radio", "optical"], typer.Option(help="Convention of velocities.")
    ] = "radio",
    rest_freq: Annotated[
        str | None, typer.Option(metavar="FREQ", help="Of the line, as in 1420.40575MHz.")
    ] = None,
    npixel: Annotated[int | None, typer.Option(help="imaging.npixel.")] = None,
    cellsize: Annotated[
        str | None,
        typer.Option(metavar="ANGLE", help="As in 2arcsec; default: a quarter of the beam."),
    ] = None,
    weighting: Annotated[str | None, typer.Option(help="imaging.weighting.")] = None,
    robust: Annotated[float | None, typer.Option(help="imaging.robust.")] = None,
    niter: Annotated[int | None, typer.Option(help="ical.niter: in a major cycle.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="ical.threshold, Jy; default: five times the noise.")
    ] = None,
    clean: Annotated[bool, typer.Option(help="Clean each plane.")] = True,
    mask: Annotated[
        Path | None,
        typer.Option(help="FITS image or cube: components only where it is not 0."),
    ] = None,
    mask_sigma: Annotated[
        float | None,
        typer.Option(metavar="SIGMA", min=0, help="Clean only what stands so far above the noise."),
    ] = None,
    weight_density: Annotated[
        Literal["plane", "all"],
        typer.Option(help="Planes whose density makes uniform and robust weights."),
    ] = "plane",
    file_format: Annotated[
        Literal["fits", "zarr"], typer.Option("--format", help="Of the cubes.")
    ] = "fits",
    model: Annotated[
        Path | None, typer.Option(help="Subtract this continuum first, as `subtract` does.")
    ] = None,
    fit: Annotated[
        int | None, typer.Option(metavar="ORDER", min=0, help="Fit it to the visibilities.")
    ] = None,
    fit_image: Annotated[
        int | None, typer.Option(metavar="ORDER", min=0, help="Fit it to the pixels of the cube.")
    ] = None,
    line_free: Annotated[
        str | None, typer.Option(metavar="RANGES", help="Of the fits; as for --channels.")
    ] = None,
    auto_mask: Annotated[
        float | None, typer.Option(metavar="SIGMA", help="Find the channels of --fit by clipping.")
    ] = None,
    order: Annotated[
        str | None, typer.Option(metavar="METHODS", help="model,fit (the default) or fit,model.")
    ] = None,
    moments: Annotated[
        float | None,
        typer.Option(
            metavar="SIGMA",
            min=0,
            help="Moments of what is above so many times the noise, and spectra; default: 5 if "
            "a continuum is subtracted, else none.",
        ),
    ] = None,
    settings: Settings = None,
    max_failed_planes: Annotated[
        int, typer.Option(min=0, help="Planes that may fail or diverge and stay blank.")
    ] = 10,
    workers: Annotated[int, typer.Option(min=1, help="Number of worker processes.")] = 1,
    engine: EngineOption = None,
    dashboard: Dashboard = False,
    performance_report: PerformanceReport = None,
    threads: Annotated[int, typer.Option(min=1, help="That a worker images a plane with.")] = 1,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="That a worker may take, as in 4GB.")
    ] = None,
    subtract_workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Workers that subtract, if other than --workers."),
    ] = None,
    subtract_threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Of one of these; default: its share of the cores."),
    ] = None,
    subtract_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="That one of these may take.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew; default: go on where a run ended.")
    ] = False,
    log_format: LogForm = "plain",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Image every channel, every time step, or all together, into FITS or zarr cubes.

    \b
    Examples:
      batch-imaging image a.ms --output cubes --npixel 512 --workers 2
      batch-imaging image a.ms b.ms -o cubes --column LINE_DATA --frame LSRK \\
          --rest-freq 1420.40575MHz --channels=-300~300km/s --no-clean
      batch-imaging image a.ms -o line --fit 1 --line-free 0~44,76~127 --rest-freq 1420.40575MHz
      batch-imaging image a.ms -o line --model a-sources.txt --fit 1 --auto-mask 5 --workers 2
      batch-imaging image a.ms -o cubes --workers 20 --engine slurm --set engine.queue=long
      batch-imaging image a.ms -o cubes --workers 4 --dashboard --performance-report dask.html
      batch-imaging image a.ms -o cubes --format zarr --mask-sigma 5 --weighting robust
      batch-imaging image a.ms -o cubes --axis time --time-step scan --field 3C286 --stokes IQUV
    """
    configure_logging(log_format, log_level(verbose, quiet))

    from batch_imaging.execution.engines import open_executor, own_memory_bytes
    from batch_imaging.execution.progress import Progress
    from batch_imaging.execution.worker_logs import LOGS
    from batch_imaging.model.spectral_axis import parse_ranges
    from batch_imaging.parameters import Engine, load_parameters
    from batch_imaging.pipelines.cube_imaging import make_setup
    from batch_imaging.pipelines.line_imaging import LineImaging, make_steps
    from batch_imaging.pipelines.planes import Selection, plan_planes
    from batch_imaging.pipelines.selection_text import (
        parse_line_free,
        parse_names,
        parse_stokes,
        parse_times,
        parse_velocities,
    )

    if not clean and (mask or mask_sigma):
        raise ParameterError(
            "--mask and --mask-sigma are of cleaning; leave them out, or --no-clean"
        )
    if velocities and frame is None:
        raise ParameterError("--velocities: in which frame? Give --frame LSRK, BARY or TOPO")
    selection = Selection(
        axis=axis,
        field=field,
        windows=parse_names(spw, "--spw") if spw else (),
        channels=parse_ranges(channels) if channels else (),
        times_mjd_s=parse_times(times, "--times") if times else (),
        step=time_step,
        column=column,
        stokes=parse_stokes(stokes, "--stokes"),
        average=average,
        frame=frame,
        rest_freq_hz=read_quantity("--rest-freq", rest_freq, "Hz", "1420.40575MHz")
        if rest_freq
        else None,
        convention=velocity,
        velocities=parse_velocities(velocities, "--velocities") if velocities else None,
    )
    options = {
        "imaging.npixel": npixel,
        "imaging.weighting": weighting,
        "imaging.robust": robust,
        "ical.niter": niter,
        "ical.threshold": threshold,
        "engine.name": engine,
        "engine.dashboard": "true" if dashboard else None,
    }
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    parameters = load_parameters({}, [*(settings or []), *given])
    cell_rad = (
        math.radians(read_quantity("--cellsize", cellsize, "arcsec", "2arcsec") / 3600)
        if cellsize
        else None
    )
    if any(setting.startswith("imaging.cellsize=") for setting in settings or ()):
        cell_rad = parameters.imaging.cellsize
    steps = make_steps(
        selection,
        model=model,
        fit_order=fit,
        image_order=fit_image,
        line_free=parse_line_free(line_free) if line_free else (),
        clip_sigma=auto_mask,
        order=order,
        moment_sigma=moments,
    )
    plan = plan_planes(sets, selection)
    setup = make_setup(
        plan,
        selection,
        parameters,
        clean=clean,
        cell_rad=cell_rad,
        threads=threads,
        mask=mask,
        mask_sigma=mask_sigma,
        weight_density=weight_density,
        file_format=file_format,
    )
    imaging = LineImaging(plan, selection, setup, steps, output, _provenance())
    if memory or own_memory_bytes(parameters.engine) is None:
        require_memory(imaging.worker_bytes, "--memory", memory, workers)
    if dry_run:
        typer.echo(imaging)
        return
    if overwrite:
        imaging.clear()
    wanted = parameters.engine
    watched = wanted.dashboard or performance_report
    if workers == 1 and wanted.name == "auto" and not watched:
        wanted = Engine(name="serial")
    if subtract_workers or subtract_threads or subtract_memory:
        n_workers, needed_bytes = subtract_workers or workers, imaging.subtraction_bytes
        if subtract_memory:
            require_memory(needed_bytes, "--subtract-memory", subtract_memory, n_workers)
        with open_executor(wanted, n_workers, int(_LIMIT * needed_bytes)) as executor:
            imaging.subtract(executor, Progress(), subtract_threads)
    with (
        open_executor(wanted, workers, int(_LIMIT * imaging.worker_bytes)) as executor,
        executor.log_to(output.absolute() / LOGS, combined=wanted.combined_log),
        executor.keep_performance_report(performance_report),
    ):
        result = imaging.run(executor, Progress(), max_failed=max_failed_planes)
    from batch_imaging.report.line_report import write_line_report  # matplotlib takes half a second

    typer.echo(_summary(result.cube), err=True)
    for path in (*result.files, *write_line_report(output, result)):
        typer.echo(path)


def _provenance() -> "Provenance":
    from batch_imaging import __version__
    from batch_imaging.io.fits_image import Provenance
    from batch_imaging.report.provenance import git_commit

    return Provenance("batch_imaging", __version__, git_commit() or "", "", "", "")


def _summary(result: "CubeResult") -> str:
    from batch_imaging.pipelines.plane_imaging import Outcome

    counts = [f"{n} {o}" for o in Outcome if (n := result.count(o))]
    lines = [f"{len(result.planes)} planes: {', '.join(counts)}"]
    lines += [f"blank: {plane.reason}" for plane in result.planes if plane.reason]
    return "\n".join(lines)
