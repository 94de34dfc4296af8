"""What is made of the cube of a line: spectra without continuum, moments, spectra at its peaks."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs.utils import pixel_to_skycoord
from numpy.typing import NDArray

from batch_imaging.model.spectral_axis import Convention
from batch_imaging.pipelines.cubes.continuum import ImageContinuum, subtract_continuum
from batch_imaging.pipelines.cubes.extraction import (
    Position,
    Spectrum,
    extract_spectra,
    write_spectra,
)
from batch_imaging.pipelines.cubes.moments import Moment, Velocities, make_moments
from batch_imaging.pipelines.cubes.opening import Cube, open_cube, quiet
from batch_imaging.pipelines.cubes.schedule import Schedule
from batch_imaging.pipelines.cubes.selection import spectral_axes
from batch_imaging.pipelines.cubes.statistics import measure_cube
from batch_imaging.pipelines.cubes.writing import creating, write_cube

Source = tuple[Path, str]
"""A cube and one of its Stokes parameters."""
VelocityKind = tuple[float | None, Convention]
"""Rest frequency, Hz, or None for that of the header, and convention."""


def subtract_from_cube(
    source: Source, how: ImageContinuum, line: Path, schedule: Schedule
) -> tuple[list[float], list[float]]:
    """Write a cube without its continuum; return the noise and peak of each channel.

    Raises
    ------
    DataError: too few channels are line-free.
    ProductError: the cube cannot be written.
    """
    path, stokes = source
    cube = subtract_continuum(open_cube(path, schedule, "spectra", stokes=stokes), how, path)
    write_cube(cube, line, schedule, "subtract", overwrite=True)
    _, channels = measure_cube(open_cube(line, schedule), schedule, line)
    return [each.noise for each in channels], [each.max for each in channels]


def write_moments(
    source: Source,
    velocities: VelocityKind,
    sigma: float,
    paths: Mapping[Moment, Path],
    schedule: Schedule,
) -> None:
    """Write moments of what stands ``sigma`` times above the noise of its channel.

    Raises
    ------
    ProductError: one cannot be written.
    """
    path, stokes = source
    maps = make_moments(
        open_cube(path, schedule, "spectra", stokes=stokes),
        schedule,
        path,
        moments=tuple(paths),
        velocities=Velocities(*velocities),
        sigma=sigma,
    )
    for moment, hdu in maps.items():
        with creating(paths[moment], overwrite=True) as partial:
            hdu.writeto(partial)


def read_spectra(
    cubes: Mapping[str, Source],
    moment_0: Path,
    n_positions: int,
    apart_pixels: float,
    velocities: VelocityKind,
    table: Path,
    schedule: Schedule,
) -> tuple[dict[str, tuple[Spectrum, ...]], NDArray[np.float64]]:
    """Write the spectra of cubes at the brightest positions of a moment map, so far apart, as CSV.

    Parameters
    ----------
    cubes: by what tells them apart in the table, if there is more than one.

    Returns
    -------
    spectra: by the same.
    velocity_km_s: (chan,) of all of them.
    """
    opened = {
        when: open_cube(path, schedule, stokes=stokes) for when, (path, stokes) in cubes.items()
    }
    cube = next(iter(opened.values()))
    places = find_brightest(fits.getdata(moment_0), n_positions, apart_pixels, cube)
    spectra = {
        when: tuple(extract_spectra(each, places, schedule, cubes[when][0]))
        for when, each in opened.items()
    }
    columns = [
        _named(spectrum, when) if len(cubes) > 1 else spectrum
        for when, of_cube in spectra.items()
        for spectrum in of_cube
    ]
    (path, _) = next(iter(cubes.values()))
    freq_hz, velocity_km_s = spectral_axes(cube, path, *velocities)
    with creating(table, overwrite=True) as partial:
        write_spectra(partial, columns, freq_hz, velocity_km_s)
    return spectra, velocity_km_s


def find_brightest(
    moment: NDArray[np.floating], n_positions: int, apart_pixels: float, cube: Cube
) -> tuple[Position, ...]:
    """Return the brightest pixels of a map (row, column), so far apart, named by their direction.

    NaN does not count; none may be left.
    """
    left = np.where(np.isfinite(moment), moment, -np.inf)
    rows, columns = np.ogrid[: left.shape[0], : left.shape[1]]
    found: list[Position] = []
    while len(found) < n_positions and left.max() > 0:
        row, column = map(int, np.unravel_index(left.argmax(), left.shape))
        with quiet():
            direction = pixel_to_skycoord(column, row, cube.wcs.celestial)
        name = direction.to_string("hmsdms", precision=1)
        found.append(Position(name, float(column), float(row)))
        left[(rows - row) ** 2 + (columns - column) ** 2 < apart_pixels**2] = -np.inf
    return tuple(found)


def _named(spectrum: Spectrum, when: str) -> Spectrum:
    position = replace(spectrum.position, name=f"{spectrum.position.name} {when}")
    return replace(spectrum, position=position)
