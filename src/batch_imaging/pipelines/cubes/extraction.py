"""Spectra at positions: pixels, or what an aperture of so many beams holds."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.wcs.utils import proj_plane_pixel_scales, skycoord_to_pixel
from numpy.typing import NDArray

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.pipelines.cubes.opening import Cube, beams_deg, pixels, quiet
from batch_imaging.pipelines.cubes.schedule import Schedule
from batch_imaging.pipelines.cubes.selection import parse_direction


@dataclass(frozen=True, slots=True)
class Position:
    """A named place in a cube: column and row in pixels, from zero."""

    name: str
    column: float
    row: float


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Values (chan,) at a position, and their unit."""

    position: Position
    values: NDArray[np.float64]
    unit: str


def sky_position(cube: Cube, text: str, name: str = "") -> Position:
    """Return the pixel of a direction such as ``12h30m49.4s +12d23m28s`` or ``187.7 12.39``.

    Raises
    ------
    ParameterError: it is no direction.
    """
    try:
        column, row = skycoord_to_pixel(parse_direction(text), cube.wcs.celestial)
    except ValueError as error:
        raise ParameterError(
            f"{text!r} is no direction ({error}): give degrees as in '187.7 12.39', or "
            "'12h30m49s +12d23m28s'"
        ) from error
    return Position(name or text, float(column), float(row))


def pixel_position(text: str) -> Position:
    """Return the position ``x,y``.

    Raises
    ------
    ParameterError: it is none.
    """
    try:
        column, row = map(float, text.split(","))
    except ValueError as error:
        raise ParameterError(f"--pixel {text}: give column,row from zero, as in 10,20") from error
    return Position(f"pixel {text}", column, row)


def read_positions(cube: Cube, path: Path) -> list[Position]:
    """Read a CSV file with columns ra,dec or x,y, and name if wanted.

    Raises
    ------
    DataError: it is not such a file.
    """
    try:
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        return [_from_row(cube, row, f"{number}") for number, row in enumerate(rows, 1)]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: no list of positions ({type(error).__name__} {error}): give CSV with the "
            "columns ra,dec (degrees or sexagesimal) or x,y, and name if you like"
        ) from error


def _from_row(cube: Cube, row: dict[str, str], number: str) -> Position:
    name = row.get("name") or number
    if "x" in row:
        return Position(name, float(row["x"]), float(row["y"]))
    return sky_position(cube, f"{row['ra']} {row['dec']}", name)


def extract_spectra(
    cube: Cube, positions: Sequence[Position], schedule: Schedule, path: Path, aperture: float = 0.0
) -> list[Spectrum]:
    """Return a spectrum a position; only the pixels around it are read.

    Parameters
    ----------
    aperture: diameter in beams of the ellipse that is summed; 0 takes the nearest pixel. Sums over
        Jy/beam are divided by the beam's area, and come in Jy.

    Raises
    ------
    DataError: a position outside the cube, or no beam to measure apertures in.
    """
    beams = beams_deg(cube)
    if aperture and beams is None:
        raise DataError(f"{path}: it has no beam to measure the aperture in: leave --aperture out")
    scales_deg = proj_plane_pixel_scales(cube.wcs.celestial)
    reach = 0
    if aperture and beams is not None:
        beams = np.broadcast_to(beams, (cube.shape[0], 3))
        reach = int(np.ceil(aperture * np.nanmax(beams[:, 0]) / scales_deg.min() / 2))
    per_beam = cube.unit.is_equivalent("Jy/beam")
    unit = "Jy" if per_beam and aperture else "Jy/beam" if per_beam else cube.unit.to_string()
    spectra = []
    with schedule.progress.stage("spectra", len(positions)) as bar, quiet():
        for position in bar.track(positions):
            box, offsets = _around(cube, position, reach, path)
            block = pixels(cube)[(slice(None), *box)].compute(scheduler="synchronous")
            if aperture and beams is not None:
                values = _sum_apertures(
                    block, *offsets, aperture * beams / 2, beams, scales_deg, per_beam
                )
            else:
                values = block[:, 0, 0].astype(np.float64)
            spectra.append(Spectrum(position, values, unit))
    return spectra


def _around(
    cube: Cube, position: Position, reach: int, path: Path
) -> tuple[tuple[slice, slice], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return rows and columns of the pixels within ``reach``, and their offsets from the place."""
    _, rows, columns = cube.shape
    if not (-0.5 <= position.column < columns - 0.5 and -0.5 <= position.row < rows - 0.5):
        raise DataError(
            f"{path}: {position.name} is at column {position.column:.1f}, row {position.row:.1f}, "
            f"outside its {columns} columns and {rows} rows"
        )
    box = []
    for centre, n in ((round(position.row), rows), (round(position.column), columns)):
        box.append(slice(max(centre - reach, 0), min(centre + reach + 1, n)))
    y, x = np.mgrid[box[0], box[1]]
    return (box[0], box[1]), (x - position.column, y - position.row)


def _sum_apertures(
    block: NDArray[np.floating],
    dx: NDArray[np.float64],
    dy: NDArray[np.float64],
    half_axes_deg: NDArray[np.float64],
    beams: NDArray[np.float64],
    scales_deg: NDArray[np.float64],
    per_beam: bool,
) -> NDArray[np.float64]:
    """Return (chan,) sums over each channel's own ellipse; NaN where it has no pixel or beam."""
    east, north = -dx * scales_deg[0], dy * scales_deg[1]
    sums = np.full(len(block), np.nan)
    for channel, (plane, half, beam) in enumerate(zip(block, half_axes_deg, beams, strict=True)):
        pa = np.deg2rad(beam[2])
        along, across = (
            east * np.sin(pa) + north * np.cos(pa),
            east * np.cos(pa) - north * np.sin(pa),
        )
        inside = (along / half[0]) ** 2 + (across / half[1]) ** 2 <= 1
        values = plane[inside & np.isfinite(plane)].astype(np.float64)
        if len(values):
            beam_pixels = np.pi * beam[0] * beam[1] / (4 * np.log(2)) / np.prod(scales_deg)
            sums[channel] = values.sum() / (beam_pixels if per_beam else 1.0)
    return sums


def write_spectra(
    path: Path,
    spectra: Sequence[Spectrum],
    freq_hz: NDArray[np.float64],
    velocity_km_s: NDArray[np.float64],
) -> None:
    """Write a CSV file: a row a channel, a column a position."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        titles = (f"{spectrum.position.name} [{spectrum.unit}]" for spectrum in spectra)
        writer.writerow(["channel", "freq_hz", "velocity_km_s", *titles])
        columns = (freq_hz, velocity_km_s, *(spectrum.values for spectrum in spectra))
        for channel, row in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            writer.writerow([channel, *row])
