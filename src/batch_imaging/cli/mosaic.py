"""The command that makes one cube of those of several fields."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from batch_imaging.cli.options import LogForm, Quiet, Verbose, log_level
from batch_imaging.cli.quantities import read_quantity
from batch_imaging.errors import ParameterError
from batch_imaging.logging_format import configure_logging

if TYPE_CHECKING:
    from batch_imaging.kernels.mosaic import PrimaryBeam, Shape


def mosaic(
    cubes: Annotated[list[Path], typer.Argument(metavar="CUBE...", help="Cubes or images.")],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="FITS file; weights beside it.")
    ],
    primary_beam: Annotated[
        Literal["gaussian", "airy"], typer.Option(help="Main lobe that fields are weighted by.")
    ] = "gaussian",
    dish_diameter: Annotated[
        float | None, typer.Option(metavar="M", min=0.1, help="Of a dish or station, metres.")
    ] = None,
    fwhm: Annotated[
        str | None,
        typer.Option(metavar="ANGLE@FREQ", help="Width of the primary beam, as in 1.1deg@1.4GHz."),
    ] = None,
    centres: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="file,ra,dec of beams; default: reference directions."),
    ] = None,
    cutoff: Annotated[
        float, typer.Option(help="Leave a field out where its primary beam is below this.")
    ] = 0.1,
    beam: Annotated[
        str | None,
        typer.Option(help="Beam of the mosaic, as in 15arcsec,12arcsec,30deg; default: smallest."),
    ] = None,
    common_beam: Annotated[
        bool, typer.Option("--common-beam", help="One beam for all channels, not one for each.")
    ] = False,
    beam_limit: Annotated[
        str | None, typer.Option(metavar="ANGLE", help="Leave out planes with larger beams.")
    ] = None,
    like: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="Take the grid of this FITS image.")
    ] = None,
    stokes: Annotated[str, typer.Option(help="Which, if a cube has several.")] = "I",
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Number of worker processes.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    log_format: LogForm = "plain",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Average fields or beams into a mosaic, weighted by primary beam and noise.

    \b
    Examples:
      batch-imaging mosaic field*.fits -o mosaic.fits --dish-diameter 13.5
      batch-imaging mosaic beam*.fits -o mosaic.fits --fwhm 1.1deg@1.4GHz --centres beams.csv \\
          --beam-limit 20arcsec --common-beam --workers 4
    """
    configure_logging(log_format, log_level(verbose, quiet))

    from batch_imaging.execution.engines import open_executor
    from batch_imaging.execution.progress import Progress
    from batch_imaging.pipelines.cubes.smoothing import parse_beam
    from batch_imaging.pipelines.mosaic import (
        MosaicWish,
        plan_mosaic,
        read_centres,
        run_mosaic,
        shown_left_out,
    )

    beam_deg = None
    if beam:
        wanted = parse_beam(beam)
        beam_deg = tuple(axis.to_value("deg") for axis in (wanted.major, wanted.minor, wanted.pa))
    wish = MosaicWish(
        _primary_beam(primary_beam, dish_diameter, fwhm),
        cutoff,
        beam_deg,
        common_beam,
        read_quantity("--beam-limit", beam_limit, "arcsec", "20arcsec") if beam_limit else None,
        like,
        stokes,
    )
    plan = plan_mosaic(cubes, wish, read_centres(centres) if centres else None)
    if dry_run:
        typer.echo(plan)
        return
    engine: Literal["local", "serial"] = "serial" if workers == 1 else "local"
    with open_executor(engine, workers, plan.worker_bytes) as executor:
        result = run_mosaic(plan, output, executor, Progress(), overwrite=overwrite)
    for line in shown_left_out(result.left_out):
        typer.echo(line, err=True)
    typer.echo(result.image)
    typer.echo(result.weights)


def _primary_beam(shape: "Shape", diameter_m: float | None, fwhm: str | None) -> "PrimaryBeam":
    from batch_imaging.kernels.mosaic import PrimaryBeam

    if (diameter_m is None) == (fwhm is None):
        raise ParameterError("how wide is the primary beam? give --dish-diameter or --fwhm")
    if diameter_m is not None:
        return PrimaryBeam.of_dish(shape, diameter_m)
    assert fwhm is not None
    angle, _, freq = fwhm.partition("@")
    width_deg = read_quantity("--fwhm", angle, "deg", "1.1deg@1.4GHz")
    freq_hz = read_quantity("--fwhm", freq, "Hz", "1.1deg@1.4GHz")
    return PrimaryBeam(shape, math.radians(width_deg), freq_hz)
