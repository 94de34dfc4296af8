"""Planes brought to one beam, and spectra smoothed: lazily, computed when the cube is written."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import dask.array as da
import numpy as np
from astropy import units
from astropy.convolution import Box1DKernel, Gaussian1DKernel, convolve
from astropy.wcs.utils import proj_plane_pixel_area
from numpy.typing import NDArray
from radio_beam import Beam
from radio_beam.utils import BeamError

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.kernels.smoothing import fit_common_beam, smooth_plane
from batch_imaging.pipelines.cubes.opening import (
    Cube,
    beams_deg,
    has_many_beams,
    pixels,
    quiet,
    with_pixels,
)
from batch_imaging.pipelines.quantities import parse_quantity

SIGMA_TO_FWHM = 2.3548200450309493


def good_planes(cube: Cube, path: Path, limit_arcsec: float | None = None) -> NDArray[np.bool_]:
    """Return (chan,) whether a plane has a beam, whose major axis is within the limit.

    Raises
    ------
    DataError: no plane is left.
    """
    major_deg = _beams(cube, path)[:, 0]
    limit_deg = np.inf if limit_arcsec is None else limit_arcsec / 3600
    good = np.broadcast_to(major_deg <= limit_deg, cube.shape[0])  # False for NaN
    if not good.any():
        raise DataError(f"{path}: none of its planes has a beam within the limit")
    return good


def common_beam(cube: Cube, good: NDArray[np.bool_], path: Path) -> Beam:
    """Return the smallest beam that all good planes can be brought to."""
    beams = np.broadcast_to(_beams(cube, path), (cube.shape[0], 3))
    return _beam(fit_common_beam(beams[good]))


def smooth_to_beam(cube: Cube, beam: Beam, good: NDArray[np.bool_], path: Path) -> Cube:
    """Convolve good planes to ``beam``; the others become NaN.

    Raises
    ------
    DataError: the beam of a good plane is larger.
    """
    beams = np.broadcast_to(_beams(cube, path), (cube.shape[0], 3))
    too_large = [
        int(channel) for channel in np.flatnonzero(good) if not _fits(beams[channel], beam)
    ]
    if too_large:
        raise DataError(
            f"{path}: the beams of {len(too_large)} channels ({_listed(too_large)}) do not fit "
            f"into {shown_beam(beam)}: give a larger --beam, or --common-beam"
        )
    cell_deg = float(proj_plane_pixel_area(cube.wcs.celestial)) ** 0.5
    wanted_deg = np.array([axis.to_value("deg") for axis in (beam.major, beam.minor, beam.pa)])
    convolve_planes = _Convolve(
        wanted_deg, beams, good, cell_deg, cube.unit.is_equivalent("Jy/beam")
    )
    convolved = da.map_blocks(convolve_planes, pixels(cube), dtype=pixels(cube).dtype)
    return with_pixels(cube, convolved, np.tile(wanted_deg, (cube.shape[0], 1)))


@dataclass(frozen=True, slots=True)
class _Convolve:
    """Convolves the planes of a chunk.

    spectral-cube's `convolve_to` counts the factors of Jy/beam from the first channel of each chunk
    instead of the cube's (0.7.0), so fluxes are wrong in all chunks but the first; and it samples
    kernels in pixels, so those of less than a pixel are wrong.
    """

    wanted_deg: NDArray[np.float64]  # a Beam does not survive pickling
    beams_deg: NDArray[np.float64]
    good: NDArray[np.bool_]
    cell_deg: float
    per_beam: bool

    def __call__(self, chunk: NDArray[Any], block_info: Any = None) -> NDArray[Any]:
        first, _ = block_info[0]["array-location"][0]
        planes = (self._plane(plane, channel) for channel, plane in enumerate(chunk, first))
        return np.stack(list(planes)).astype(chunk.dtype)

    def _plane(self, plane: NDArray[Any], channel: int) -> NDArray[Any]:
        if not self.good[channel] or not np.isfinite(plane).any():
            return np.full_like(plane, np.nan)
        beam, wanted = self.beams_deg[channel], self.wanted_deg
        smoothed = smooth_plane(plane, beam, wanted, self.cell_deg)
        return smoothed * (np.prod(wanted[:2] / beam[:2]) if self.per_beam else 1.0)


def smooth_spectra(cube: Cube, fwhm: float, kernel: Literal["gaussian", "box"], path: Path) -> Cube:
    """Smooth spectra over ``fwhm`` channels; blank channels are bridged by their neighbours.

    Raises
    ------
    DataError: beams differ between channels.
    """
    if has_many_beams(cube):
        raise DataError(
            f"{path}: beams differ between its channels: bring them to one by --common-beam"
        )
    shape = Gaussian1DKernel(fwhm / SIGMA_TO_FWHM) if kernel == "gaussian" else Box1DKernel(fwhm)
    with quiet():
        smoothed = cube.spectral_smooth(shape, convolve=partial(convolve, preserve_nan=True))
    return with_pixels(cube, pixels(smoothed))


def parse_beam(text: str) -> Beam:
    """Return the beam of ``15arcsec,12arcsec,30deg``; one axis is round, numbers are arcsec, deg.

    Raises
    ------
    ParameterError: it is no beam.
    """
    try:
        major, *rest = text.split(",")
        minor, pa = [*rest, *(major, "0")[len(rest) :]]
        axes = (parse_quantity(axis, "arcsec") for axis in (major, minor))
        return Beam(*axes, parse_quantity(pa, "deg"))
    except (ValueError, TypeError) as error:
        raise ParameterError(
            f"--beam {text}: give major,minor,pa as in 15arcsec,12arcsec,30deg ({error})"
        ) from error


def shown_beam(beam: Beam) -> str:
    """Return a beam in arcsec and degrees."""
    major, minor = beam.major.to_value("arcsec"), beam.minor.to_value("arcsec")
    return f"{major:.4g} × {minor:.4g} arcsec at {beam.pa.to_value('deg'):.4g} deg"


def _beams(cube: Cube, path: Path) -> NDArray[np.float64]:
    beams = beams_deg(cube)
    if beams is None:
        raise DataError(f"{path}: it has no beam: give a cube with BMAJ or a BEAMS table")
    return beams


def _fits(inner_deg: NDArray[np.float64], outer: Beam) -> bool:
    inner = _beam(inner_deg)
    if inner == outer:
        return True
    try:
        outer.deconvolve(inner)
    except (BeamError, ValueError):
        return False
    return True


def _beam(beam_deg: NDArray[np.float64]) -> Beam:
    return Beam(*(units.Quantity(value, "deg") for value in beam_deg))


def _listed(channels: list[int]) -> str:
    return ", ".join(map(str, channels[:5])) + (", …" if len(channels) > 5 else "")
