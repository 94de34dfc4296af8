"""Commands on spectral cubes: FITS files, zarr cubes and CASA images, of any size."""

import csv
import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from batch_imaging.cli.options import Quiet, Verbose, log_level
from batch_imaging.cli.quantities import read_quantity
from batch_imaging.cli.tables import show_table
from batch_imaging.errors import ParameterError
from batch_imaging.logging_format import configure_logging

if TYPE_CHECKING:
    from batch_imaging.pipelines.cubes.schedule import Schedule
    from batch_imaging.pipelines.cubes.selection import Selection
    from batch_imaging.pipelines.cubes.statistics import Statistics

LOG = logging.getLogger(__name__)
PIXEL_BYTES = 4
LINE_S = 20.0  # between lines about progress, where there is no terminal

app = typer.Typer(
    help="Statistics, moments, parts and copies of spectral cubes, a chunk at a time.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

CubePath = Annotated[
    Path, typer.Argument(metavar="CUBE", help="FITS file, zarr cube or CASA image.")
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Cube to write; zarr if it ends in .zarr, else FITS.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Chunk = Annotated[
    str | None,
    typer.Option(help="Size of a chunk (64MB), or channels,rows,columns with 0 for a whole axis."),
]
Scheduler = Annotated[
    str, typer.Option(help="synchronous, threads, or the address of a Dask scheduler.")
]
Workers = Annotated[int, typer.Option(min=1, help="Chunks in work at a time.")]
Memory = Annotated[str | None, typer.Option(help="Most memory to take, as in 4GB.")]
TargetChunk = Annotated[
    str | None,
    typer.Option(
        "--target-chunk-size", help="Of a CASA image, tiles up to so much are read at once: 16MB."
    ),
]
TmpDir = Annotated[
    Path | None,
    typer.Option(
        "--save-to-tmp-dir",
        metavar="DIR",
        help="Compute into a temporary zarr there first, then write the output in its own order.",
    ),
]
Stokes = Annotated[str, typer.Option(help="Which Stokes parameter, where a cube has several.")]
Channels = Annotated[
    str | None, typer.Option(metavar="A:B", help="Channels from zero, B excluded.")
]
Freq = Annotated[
    str | None, typer.Option(metavar="A:B", help="Range in Hz, or as 1.40GHz:1.43GHz.")
]
Velocity = Annotated[str | None, typer.Option(metavar="A:B", help="Range in km/s.")]
RestFreq = Annotated[
    str | None, typer.Option(help="Rest frequency in Hz or as 1.42GHz, instead of the header's.")
]
Convention = Annotated[
    Literal["radio", "optical", "relativistic"],
    typer.Option("--velocity-convention", help="How frequencies become velocities."),
]
Over = Literal["spectra", "planes"]


@app.command()
def stats(
    cube: CubePath,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, to stdout.")] = False,
    to_csv: Annotated[Path | None, typer.Option("--csv", help="Write a row a channel.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw noise and beam against channel.")] = None,
    overwrite: Overwrite = False,
    stokes: Stokes = "I",
    chunk: Chunk = None,
    scheduler: Scheduler = "threads",
    workers: Workers = 2,
    memory: Memory = None,
    target_chunk: TargetChunk = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Print statistics of each channel and of the whole cube; everything is read once.

    \b
    Examples:
      batch-imaging cube stats cube.fits
      batch-imaging cube stats cube.fits --csv channels.csv --png channels.png --memory 2GB
    """
    schedule = _schedule(chunk, scheduler, workers, memory, verbose, quiet, target_chunk)
    _require_free((to_csv, png), overwrite)

    from batch_imaging.pipelines.cubes.opening import open_cube
    from batch_imaging.pipelines.cubes.statistics import measure_cube

    opened = open_cube(cube, schedule, stokes=stokes)
    whole, channels = measure_cube(opened, schedule, cube)
    unit = opened.unit.to_string()
    if to_csv:
        with _creating(to_csv, overwrite) as partial, partial.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(asdict(whole)))
            writer.writeheader()
            writer.writerows(asdict(row) for row in channels)
    if png:
        from batch_imaging.report.cube_pictures import draw_statistics

        with _creating(png, overwrite) as partial:
            partial.write_bytes(draw_statistics(channels, unit))
    if as_json:
        typer.echo(json.dumps(_document(cube, unit, whole, channels), indent=2))
    else:
        _show_statistics(whole, channels)


@app.command()
def moments(
    cube: CubePath,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Beginning of the names: OUTPUT.moment0.fits …")
    ],
    which: Annotated[
        str, typer.Option("--moments", help="Any of 0, 1, 2, peak, with commas.")
    ] = "0,1,2,peak",
    rest_freq: RestFreq = None,
    convention: Convention = "radio",
    frame: Annotated[
        Literal["TOPOCENT", "BARYCENT", "LSRK"] | None,
        typer.Option(help="Of the velocities, instead of the header's."),
    ] = None,
    sigma: Annotated[
        float | None, typer.Option(help="Leave out what is below so many times the noise.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Cube that is zero or blank where pixels are left out.")
    ] = None,
    channels: Channels = None,
    freq: Freq = None,
    velocity: Velocity = None,
    png: Annotated[bool, typer.Option("--png", help="Draw the maps, too.")] = False,
    overwrite: Overwrite = False,
    stokes: Stokes = "I",
    chunk: Chunk = None,
    scheduler: Scheduler = "threads",
    workers: Workers = 2,
    memory: Memory = None,
    target_chunk: TargetChunk = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Make moment maps; spectra are read once for all of them.

    \b
    Examples:
      batch-imaging cube moments cube.fits -o line
      batch-imaging cube moments cube.fits -o line --moments 0,1 --velocity=-50:50 --sigma 3 --png
    """
    schedule = _schedule(chunk, scheduler, workers, memory, verbose, quiet, target_chunk)
    names = which.split(",")
    if unknown := set(names) - {"0", "1", "2", "peak"}:
        raise ParameterError(f"--moments {','.join(sorted(unknown))}: choose from 0, 1, 2, peak")
    files = {n: Path(f"{output}.{n if n == 'peak' else 'moment' + n}.fits") for n in names}
    drawings = [file.with_suffix(".png") for file in files.values() if png]
    _require_free((*files.values(), *drawings), overwrite)

    from batch_imaging.pipelines.cubes.moments import Velocities, make_moments
    from batch_imaging.pipelines.cubes.opening import open_cube
    from batch_imaging.report.cube_pictures import draw_map

    selection = _selection(channels, freq, velocity, rest_freq, convention)
    opened = open_cube(cube, schedule, "spectra", selection, stokes)
    maps = make_moments(
        opened,
        schedule,
        cube,
        moments=names,  # type: ignore[arg-type]
        velocities=Velocities(selection.rest_freq_hz, convention, frame),
        sigma=sigma,
        mask=open_cube(mask, schedule, "spectra", selection) if mask else None,
    )
    for name, hdu in maps.items():
        with _creating(files[name], overwrite) as partial:
            hdu.writeto(partial)
        typer.echo(files[name])
        if png:
            drawing = files[name].with_suffix(".png")
            with _creating(drawing, overwrite) as partial:
                partial.write_bytes(draw_map(hdu))
            typer.echo(drawing)


@app.command()
def extract(
    cube: CubePath,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Sub-cube, or CSV file of the spectra.")
    ],
    channels: Channels = None,
    freq: Freq = None,
    velocity: Velocity = None,
    rest_freq: RestFreq = None,
    convention: Convention = "radio",
    box: Annotated[
        str | None,
        typer.Option(metavar="X0:X1,Y0:Y1", help="Columns and rows from zero, ends excluded."),
    ] = None,
    sky_box: Annotated[
        str | None,
        typer.Option(metavar="RA DEC,WIDTH[,HEIGHT]", help="Box on the sky, in degrees or units."),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="RA DEC", help="Spectrum in this direction; repeatable."),
    ] = None,
    pixel: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y", help="Spectrum at this column and row; repeatable."),
    ] = None,
    positions: Annotated[
        Path | None, typer.Option(help="CSV file with columns ra,dec or x,y, and name.")
    ] = None,
    aperture: Annotated[
        float, typer.Option(min=0, help="Sum over an ellipse so many beams across.")
    ] = 0.0,
    png: Annotated[bool, typer.Option("--png", help="Draw the spectra, too.")] = False,
    overwrite: Overwrite = False,
    stokes: Stokes = "I",
    chunk: Chunk = None,
    scheduler: Scheduler = "threads",
    workers: Workers = 2,
    memory: Memory = None,
    target_chunk: TargetChunk = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Cut out a sub-cube, or spectra at positions as CSV.

    \b
    Examples:
      batch-imaging cube extract cube.fits -o part.fits --freq 1.40GHz:1.43GHz --box 100:200,50:150
      batch-imaging cube extract cube.fits -o spectra.csv --at "12h30m49s +12d23m28s" --aperture 2
      batch-imaging cube extract cube.fits -o spectra.csv --positions list.csv --png
    """
    schedule = _schedule(chunk, scheduler, workers, memory, verbose, quiet, target_chunk)
    drawing = output.with_suffix(".png") if png else None
    _require_free((output, drawing), overwrite)

    from batch_imaging.pipelines.cubes.opening import open_cube
    from batch_imaging.pipelines.cubes.writing import write_cube

    selection = _selection(channels, freq, velocity, rest_freq, convention, box, sky_box)
    opened = open_cube(cube, schedule, "any", selection, stokes)
    if not (at or pixel or positions):
        if aperture or png:
            raise ParameterError(
                "--aperture and --png are of spectra: give --at, --pixel or --positions"
            )
        write_cube(opened, output, schedule, "extract", overwrite=overwrite)
        typer.echo(output)
        return

    from batch_imaging.pipelines.cubes.extraction import (
        extract_spectra,
        pixel_position,
        read_positions,
        sky_position,
        write_spectra,
    )
    from batch_imaging.pipelines.cubes.selection import spectral_axes
    from batch_imaging.report.cube_pictures import draw_spectra

    places = [sky_position(opened, text) for text in at or ()]
    places += [pixel_position(text) for text in pixel or ()]
    places += read_positions(opened, positions) if positions else []
    spectra = extract_spectra(opened, places, schedule, cube, aperture)
    freq_hz, velocity_km_s = spectral_axes(opened, cube, selection.rest_freq_hz, convention)
    with _creating(output, overwrite) as partial:
        write_spectra(partial, spectra, freq_hz, velocity_km_s)
    typer.echo(output)
    if drawing:
        known = bool(math.isfinite(velocity_km_s[0]))
        axis, label = (
            (velocity_km_s, f"{convention} velocity [km/s]")
            if known
            else (freq_hz / 1e6, "frequency [MHz]")
        )
        with _creating(drawing, overwrite) as partial:
            partial.write_bytes(draw_spectra(spectra, axis, label))
        typer.echo(drawing)


@app.command()
def rechunk(
    cube: CubePath,
    *,
    output: Output,
    chunk: Annotated[
        str | None,
        typer.Option(help="Chunk of a zarr output: channels,rows,columns; 0 for a whole axis."),
    ] = None,
    tmp_dir: TmpDir = None,
    overwrite: Overwrite = False,
    stokes: Stokes = "I",
    scheduler: Scheduler = "threads",
    workers: Workers = 2,
    memory: Memory = None,
    target_chunk: TargetChunk = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Copy a cube between FITS and zarr, or into other chunks.

    \b
    Examples:
      batch-imaging cube rechunk cube.fits -o cube.zarr
      batch-imaging cube rechunk cube.zarr -o spectra.zarr --chunk 0,32,32
    """
    schedule = _schedule(None, scheduler, workers, memory, verbose, quiet, target_chunk)
    _require_free((output,), overwrite)

    from batch_imaging.pipelines.cubes.rechunking import rechunk_cube

    rechunk_cube(cube, output, schedule, chunk, stokes, overwrite=overwrite, tmp_dir=tmp_dir)
    typer.echo(output)


@app.command()
def smooth(
    cube: CubePath,
    *,
    output: Output,
    beam: Annotated[
        str | None,
        typer.Option(metavar="MAJOR,MINOR,PA", help="As in 15arcsec,12arcsec,30deg."),
    ] = None,
    common_beam: Annotated[
        bool, typer.Option("--common-beam", help="The smallest beam all planes can have.")
    ] = False,
    limit: Annotated[
        str | None,
        typer.Option("--beam-limit", help="Blank planes whose major axis is longer, as 20arcsec."),
    ] = None,
    spectral: Annotated[
        float | None, typer.Option(help="Smooth spectra over so many channels (FWHM).")
    ] = None,
    kernel: Annotated[Literal["gaussian", "box"], typer.Option(help="Of --spectral.")] = "gaussian",
    tmp_dir: TmpDir = None,
    overwrite: Overwrite = False,
    stokes: Stokes = "I",
    chunk: Chunk = None,
    scheduler: Scheduler = "threads",
    workers: Workers = 2,
    memory: Memory = None,
    target_chunk: TargetChunk = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Bring planes to one beam, smooth spectra, or both; planes without a beam become blank.

    \b
    Examples:
      batch-imaging cube smooth cube.fits -o same.fits --common-beam
      batch-imaging cube smooth cube.fits -o smooth.fits --beam 20arcsec --spectral 3
    """
    schedule = _schedule(chunk, scheduler, workers, memory, verbose, quiet, target_chunk)
    _require_free((output,), overwrite)
    if (beam and common_beam) or not (beam or common_beam or spectral):
        raise ParameterError("give --beam or --common-beam, or --spectral, or one of each kind")

    from batch_imaging.pipelines.cubes import smoothing
    from batch_imaging.pipelines.cubes.opening import open_cube
    from batch_imaging.pipelines.cubes.writing import temporary_folder, write_cube

    target = output
    with temporary_folder(tmp_dir or output.absolute().parent) as folder:
        if beam or common_beam:
            if spectral:
                target = folder / "planes.zarr"
            opened = open_cube(cube, schedule, "planes", stokes=stokes)
            limit_arcsec = smoothing.parse_beam(limit).major.to_value("arcsec") if limit else None
            good = smoothing.good_planes(opened, cube, limit_arcsec)
            wanted = (
                smoothing.parse_beam(beam) if beam else smoothing.common_beam(opened, good, cube)
            )
            LOG.info(
                "%s: %d of %d planes to the beam %s",
                cube,
                good.sum(),
                len(good),
                smoothing.shown_beam(wanted),
            )
            smoothed = smoothing.smooth_to_beam(opened, wanted, good, cube)
            write_cube(
                smoothed,
                target,
                schedule,
                "smooth planes",
                overwrite=overwrite,
                tmp_dir=None if spectral else tmp_dir,
            )
        if spectral:
            source = cube if target == output else target
            opened = open_cube(source, schedule, "spectra", stokes=stokes)
            smoothed = smoothing.smooth_spectra(opened, spectral, kernel, cube)
            write_cube(
                smoothed, output, schedule, "smooth spectra", overwrite=overwrite, tmp_dir=tmp_dir
            )
    typer.echo(output)


@app.command("sigma-clip")
def sigma_clip(
    cube: CubePath,
    *,
    output: Output,
    sigma: Annotated[float, typer.Option(min=0, help="Deviations from the median.")] = 5.0,
    iterations: Annotated[int, typer.Option(min=1, help="At most so many rounds.")] = 5,
    over: Annotated[Over, typer.Option(help="Deviations of each spectrum, or plane.")] = "spectra",
    as_mask: Annotated[
        bool, typer.Option("--mask", help="Write 1 for what is kept and 0, instead.")
    ] = False,
    tmp_dir: TmpDir = None,
    overwrite: Overwrite = False,
    stokes: Stokes = "I",
    chunk: Chunk = None,
    scheduler: Scheduler = "threads",
    workers: Workers = 2,
    memory: Memory = None,
    target_chunk: TargetChunk = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Blank outliers, or write a mask of them.

    \b
    Examples:
      batch-imaging cube sigma-clip cube.fits -o clean.fits --sigma 5
      batch-imaging cube sigma-clip cube.fits -o mask.zarr --over planes --mask
    """
    schedule = _schedule(chunk, scheduler, workers, memory, verbose, quiet, target_chunk)
    _require_free((output,), overwrite)

    from batch_imaging.pipelines.cubes.applying import clip_outliers
    from batch_imaging.pipelines.cubes.opening import open_cube
    from batch_imaging.pipelines.cubes.writing import write_cube

    opened = open_cube(cube, schedule, over, stokes=stokes)
    clipped = clip_outliers(opened, sigma, over, iterations, as_mask)
    write_cube(clipped, output, schedule, "sigma-clip", overwrite=overwrite, tmp_dir=tmp_dir)
    typer.echo(output)


@app.command()
def apply(
    cube: CubePath,
    function: Annotated[
        str, typer.Argument(metavar="MODULE.py:FUNCTION", help="Takes and returns an array.")
    ],
    *,
    output: Output,
    over: Annotated[Over, typer.Option(help="Chunks hold whole spectra, or planes.")] = "spectra",
    tmp_dir: TmpDir = None,
    overwrite: Overwrite = False,
    stokes: Stokes = "I",
    chunk: Chunk = None,
    scheduler: Scheduler = "threads",
    workers: Workers = 2,
    memory: Memory = None,
    target_chunk: TargetChunk = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Run your own function on chunks (channel, row, column) of a cube; it keeps their shape.

    \b
    Examples:
      batch-imaging cube apply cube.fits mine.py:flatten -o flat.fits
      batch-imaging cube apply cube.fits mine.py:despike -o clean.zarr --over planes
    """
    schedule = _schedule(chunk, scheduler, workers, memory, verbose, quiet, target_chunk)
    _require_free((output,), overwrite)

    from batch_imaging.pipelines.cubes.applying import apply_function, load_function
    from batch_imaging.pipelines.cubes.opening import open_cube
    from batch_imaging.pipelines.cubes.writing import write_cube

    loaded = load_function(function)
    opened = open_cube(cube, schedule, over, stokes=stokes)
    applied = apply_function(opened, loaded, function)
    write_cube(applied, output, schedule, "apply", overwrite=overwrite, tmp_dir=tmp_dir)
    typer.echo(output)


@app.command()
def subtract(
    cube: CubePath,
    *,
    output: Output,
    order: Annotated[int, typer.Option(min=0, help="Of the polynomial.")] = 1,
    line_free: Annotated[
        str | None,
        typer.Option(
            metavar="RANGES",
            help="a~b,c~d: channels, or with Hz, kHz, MHz, GHz, km/s; default: all.",
        ),
    ] = None,
    rest_freq: RestFreq = None,
    convention: Annotated[
        Literal["radio", "optical"], typer.Option("--velocity-convention", help="Of velocities.")
    ] = "radio",
    tmp_dir: TmpDir = None,
    overwrite: Overwrite = False,
    stokes: Stokes = "I",
    chunk: Chunk = None,
    scheduler: Scheduler = "threads",
    workers: Workers = 2,
    memory: Memory = None,
    target_chunk: TargetChunk = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Subtract the continuum: a polynomial through the line-free channels of each pixel.

    \b
    Examples:
      batch-imaging cube subtract cube.fits -o line.fits --order 1 --line-free 0~44,76~127
      batch-imaging cube subtract cube.zarr -o line.zarr --line-free=-500~-200km/s,200~500km/s
    """
    schedule = _schedule(chunk, scheduler, workers, memory, verbose, quiet, target_chunk)
    _require_free((output,), overwrite)

    from batch_imaging.model.spectral_axis import parse_ranges
    from batch_imaging.pipelines.cubes.continuum import ImageContinuum, subtract_continuum
    from batch_imaging.pipelines.cubes.opening import open_cube
    from batch_imaging.pipelines.cubes.writing import write_cube

    continuum = ImageContinuum(
        order,
        parse_ranges(line_free) if line_free else (),
        read_quantity("--rest-freq", rest_freq, "Hz", "1420.40575MHz") if rest_freq else None,
        convention,
    )
    opened = open_cube(cube, schedule, "spectra", stokes=stokes)
    line = subtract_continuum(opened, continuum, cube)
    write_cube(line, output, schedule, "subtract", overwrite=overwrite, tmp_dir=tmp_dir)
    typer.echo(output)


def _schedule(
    chunk: str | None,
    scheduler: str,
    workers: int,
    memory: str | None,
    verbose: bool,
    quiet: bool,
    target_chunk: str | None,
) -> "Schedule":
    configure_logging(level=log_level(verbose, quiet))

    from batch_imaging.execution.progress import Progress
    from batch_imaging.pipelines.cubes.schedule import Schedule, parse_chunk

    if scheduler not in {"synchronous", "threads"} and "://" not in scheduler:
        raise ParameterError(
            f"--scheduler {scheduler}: give synchronous, threads, or an address as in "
            "tcp://127.0.0.1:8786"
        )
    target_bytes = _bytes(target_chunk, "--target-chunk-size")
    progress = Progress()
    if not progress.show_bar:
        progress.listener = _LineNowAndThen()
    return Schedule(
        1 if scheduler == "synchronous" else workers,
        scheduler if "://" in scheduler else "",
        parse_chunk(chunk) if chunk else None,
        _bytes(memory, "--memory"),
        progress,
        int(target_bytes // PIXEL_BYTES) if target_bytes else None,
    )


def _bytes(text: str | None, option: str) -> float | None:
    from batch_imaging.pipelines.quantities import parse_bytes

    try:
        return parse_bytes(text) if text else None
    except ValueError as error:
        raise ParameterError(f"{option} {text}: give a size as in 4GB") from error


class _LineNowAndThen:
    """Logs how far a stage is."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, stage: str, fraction: float) -> None:
        if time.monotonic() - self.last >= LINE_S:
            self.last = time.monotonic()
            LOG.info("%s: %.0f %%", stage, 100 * fraction)


def _selection(
    channels: str | None,
    freq: str | None,
    velocity: str | None,
    rest_freq: str | None,
    convention: str,
    box: str | None = None,
    sky_box: str | None = None,
) -> "Selection":
    from batch_imaging.pipelines.cubes.selection import (
        Selection,
        parse_box,
        parse_range,
        parse_sky_box,
    )
    from batch_imaging.pipelines.quantities import parse_quantity

    if sum(option is not None for option in (channels, freq, velocity)) > 1:
        raise ParameterError("give only one of --channels, --freq and --velocity")
    try:
        first_last = tuple(map(int, channels.split(":"))) if channels else None
        rest_freq_hz = float(parse_quantity(rest_freq, "Hz").value) if rest_freq else None
    except (ValueError, TypeError) as error:
        raise ParameterError(f"--channels or --rest-freq: {error}") from error
    if first_last is not None and len(first_last) != 2:
        raise ParameterError(f"--channels {channels}: give first and last + 1, as in 10:20")
    return Selection(
        first_last,
        parse_range(freq, "Hz", "--freq") if freq else None,
        parse_range(velocity, "km/s", "--velocity") if velocity else None,
        parse_box(box) if box else None,
        parse_sky_box(sky_box) if sky_box else None,
        rest_freq_hz,
        convention,
    )


def _require_free(outputs: tuple[Path | None, ...], overwrite: bool) -> None:
    """Refuse before the work what would be refused after it."""
    for path in outputs:
        if path is not None and path.exists() and not overwrite:
            raise ParameterError(f"{path} exists: give another name, or --overwrite")


@contextmanager
def _creating(path: Path, overwrite: bool) -> Iterator[Path]:
    from batch_imaging.pipelines.cubes.writing import creating

    with creating(path, overwrite=overwrite) as partial:
        yield partial


def _document(
    cube: Path, unit: str, whole: "Statistics", channels: tuple["Statistics", ...]
) -> dict[str, Any]:
    rows = [_without_nan(asdict(row)) for row in channels]
    return {"cube": str(cube), "unit": unit, "whole": _without_nan(asdict(whole)), "channels": rows}


def _without_nan(record: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in record.items()
    }


def _show_statistics(whole: "Statistics", channels: tuple["Statistics", ...]) -> None:
    columns = ("min", "max", "mean", "std", "rms", "noise")
    titles = ("channel", "MHz", "km/s", "n", "NaN %", *columns, "beam [arcsec, deg]")
    rows = []
    for row in (*channels, whole):
        beam = (
            ""
            if math.isnan(row.bmaj_arcsec)
            else (f"{row.bmaj_arcsec:.4g} × {row.bmin_arcsec:.4g}, {row.bpa_deg:.4g}")
        )
        rows.append(
            (
                "whole" if row.channel is None else str(row.channel),
                "" if math.isnan(row.freq_hz) else f"{row.freq_hz / 1e6:.6f}",
                "" if math.isnan(row.velocity_km_s) else f"{row.velocity_km_s:.3f}",
                str(row.n),
                f"{100 * row.nan_share:.3g}",
                *(f"{getattr(row, name):.4g}" for name in columns),
                beam,
            )
        )
    show_table(titles, rows)
