"""The command that images Measurement Sets along an axis."""

import math
import re
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from batch_imaging.cli.jobs import Settings
from batch_imaging.cli.options import LogForm, Quiet, Verbose, log_level
from batch_imaging.cli.quantities import read_quantity
from batch_imaging.errors import ParameterError, ResourceError
from batch_imaging.logging_format import configure_logging

if TYPE_CHECKING:
    from batch_imaging.io.fits_image import Provenance
    from batch_imaging.pipelines.cube_imaging import CubeResult
    from batch_imaging.pipelines.planes import VelocityAxis

_VELOCITIES = re.compile(r"\s*([-+\d.e]+)\s*,\s*([-+\d.e]+)\s*,\s*(\d+)\s*")
_LIMIT = 1.5  # times what a worker is expected to take: there it is ended
_UNIX_EPOCH_MJD_S = 40_587 * 86_400.0


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
        str | None, typer.Option(metavar="NUMBERS", help="Spectral windows, as in 0,2.")
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
    settings: Settings = None,
    max_failed_planes: Annotated[
        int, typer.Option(min=0, help="Planes that may fail or diverge and stay blank.")
    ] = 10,
    workers: Annotated[int, typer.Option(min=1, help="Number of worker processes.")] = 1,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="That a worker may take, as in 4GB.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew; default: go on where a run ended.")
    ] = False,
    log_format: LogForm = "plain",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Image every channel, every time step, or all together, into FITS cubes.

    \b
    Examples:
      batch-imaging image a.ms --output cubes --npixel 512 --workers 2
      batch-imaging image a.ms b.ms -o cubes --column LINE_DATA --frame LSRK \\
          --rest-freq 1420.40575MHz --channels=-300~300km/s --no-clean
      batch-imaging image a.ms -o cubes --axis time --time-step scan --field 3C286 --stokes IQUV
    """
    configure_logging(log_format, log_level(verbose, quiet))

    from batch_imaging.execution.engines import open_executor
    from batch_imaging.execution.progress import Progress
    from batch_imaging.model.spectral_axis import parse_ranges
    from batch_imaging.parameters import load_parameters
    from batch_imaging.pipelines.cube_imaging import CubeImaging, make_setup, worker_bytes
    from batch_imaging.pipelines.planes import Selection, plan_planes
    from batch_imaging.report.plane_report import write_plane_report

    if velocities and frame is None:
        raise ParameterError("--velocities: in which frame? Give --frame LSRK, BARY or TOPO")
    selection = Selection(
        axis=axis,
        field=field,
        windows=_numbers(spw) if spw else (),
        channels=parse_ranges(channels) if channels else (),
        times_mjd_s=tuple(map(_time_range, times.split(","))) if times else (),
        step=time_step,
        column=column,
        stokes=_stokes(stokes),
        average=average,
        frame=frame,
        rest_freq_hz=read_quantity("--rest-freq", rest_freq, "Hz", "1420.40575MHz")
        if rest_freq
        else None,
        convention=velocity,
        velocities=_velocity_axis(velocities) if velocities else None,
    )
    options = {
        "imaging.npixel": npixel,
        "imaging.weighting": weighting,
        "imaging.robust": robust,
        "ical.niter": niter,
        "ical.threshold": threshold,
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
    plan = plan_planes(sets, selection)
    setup = make_setup(plan, selection, parameters, clean=clean, cell_rad=cell_rad)
    needed_bytes = worker_bytes(plan, setup)
    _require_memory(needed_bytes, memory, workers)
    if overwrite and not dry_run:
        _clear(output)
    imaging = CubeImaging(plan, selection, setup, output, _provenance())
    if dry_run:
        typer.echo(imaging)
        return
    engine: Literal["local", "serial"] = "serial" if workers == 1 else "local"
    with open_executor(engine, workers, int(_LIMIT * needed_bytes)) as executor:
        result = imaging.run(executor, Progress(), max_failed=max_failed_planes)
    typer.echo(_summary(result), err=True)
    for path in (*result.files.values(), write_plane_report(output, result)):
        typer.echo(path)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ParameterError(f"--spw {text}: give numbers of windows, as in 0,2") from error


def _time_range(text: str) -> tuple[float, float]:
    try:
        begin, end = (datetime.fromisoformat(part.strip()) for part in text.split("~"))
    except ValueError as error:
        raise ParameterError(
            f"--times {text}: give a range of UTC, as in 2020-06-25T10:00~2020-06-25T12:00"
        ) from error
    return _mjd_s(begin), _mjd_s(end)


def _mjd_s(moment: datetime) -> float:
    utc = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return utc.timestamp() + _UNIX_EPOCH_MJD_S


def _stokes(text: str) -> tuple[str, ...]:
    from batch_imaging.io.fits_image import STOKES_CODES

    names = tuple(text.split(",")) if "," in text or text in STOKES_CODES else tuple(text)
    steps = {
        STOKES_CODES[b] - STOKES_CODES[a]
        for a, b in pairwise(names)
        if a in STOKES_CODES and b in STOKES_CODES
    }
    if set(names) <= set(STOKES_CODES) and len(steps) <= 1 and 0 not in steps:
        return names
    raise ParameterError(
        f"--stokes {text}: give I, Q, U, V or products as in XX,YY, in the order of FITS (I Q U V, "
        "RR LL RL LR, XX YY XY YX) and without gaps"
    )


def _velocity_axis(text: str) -> "VelocityAxis":
    from batch_imaging.pipelines.planes import VelocityAxis

    found = _VELOCITIES.fullmatch(text)
    try:
        if found is None or float(found[2]) == 0 or int(found[3]) == 0:
            raise ValueError(text)
        return VelocityAxis(1e3 * float(found[1]), 1e3 * float(found[2]), int(found[3]))
    except ValueError as error:
        raise ParameterError(
            f"--velocities {text}: give START,STEP,N as in --velocities=-300,2,301, km/s"
        ) from error


def _require_memory(needed_bytes: int, memory: str | None, workers: int) -> None:
    from batch_imaging.execution.memory import available_memory_bytes, shown_bytes
    from batch_imaging.pipelines.cubes.schedule import parse_bytes

    try:
        given_bytes = parse_bytes(memory) if memory else available_memory_bytes() / workers
    except ValueError as error:
        raise ParameterError(f"--memory {memory}: give a size as in 4GB") from error
    if needed_bytes > given_bytes:
        raise ResourceError(
            f"a worker takes about {shown_bytes(needed_bytes)} and may have "
            f"{shown_bytes(given_bytes)}; give fewer --workers, a smaller --npixel or more --memory"
        )


def _clear(folder: Path) -> None:
    """Remove the cubes, the journal and the report of earlier runs, and nothing else."""
    from batch_imaging.pipelines.cube_imaging import JOURNAL
    from batch_imaging.pipelines.plane_imaging import product_names

    for name in product_names(clean=True):
        for suffix in ("", ".partial", ".previous"):
            (folder / f"{name}.fits{suffix}").unlink(missing_ok=True)
    (folder / JOURNAL).unlink(missing_ok=True)


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
