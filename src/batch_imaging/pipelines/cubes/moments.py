"""Moment maps: each spectrum is read once for all of them.

Moment 0 is the sum of I dv (unit of the cube times km/s), moment 1 the mean velocity weighted by I,
moment 2 the dispersion about it (both km/s); the peak is the largest I. Pixels whose spectrum is
blank, or all below the threshold, are NaN.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from astropy import units
from astropy.coordinates import EarthLocation, SkyCoord, SpectralCoord
from astropy.coordinates.spectral_coordinate import NoVelocityWarning
from astropy.io import fits
from astropy.time import Time
from astropy.wcs.utils import wcs_to_celestial_frame
from numpy.typing import NDArray

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.pipelines.cubes.opening import Cube, header_of, pixels
from batch_imaging.pipelines.cubes.schedule import Place, Schedule
from batch_imaging.pipelines.cubes.selection import spectral_axis
from batch_imaging.pipelines.cubes.statistics import measure_cube

Moment = Literal["0", "1", "2", "peak"]
Frame = Literal["TOPOCENT", "BARYCENT", "LSRK"]
ASTROPY_FRAMES = {"BARYCENT": "icrs", "LSRK": "lsrk"}


@dataclass(frozen=True, slots=True)
class Velocities:
    """How channels become velocities; what is None stands in the header."""

    rest_freq_hz: float | None = None
    convention: Literal["radio", "optical", "relativistic"] = "radio"
    frame: Frame | None = None

    def of(self, cube: Cube, path: Path) -> NDArray[np.float64]:
        """Return (chan,) velocities in km/s.

        Raises
        ------
        ParameterError: no rest frequency; DataError: the header does not allow the frame.
        """
        here = str(header_of(cube).get("SPECSYS", "")).strip()
        if self.frame in {None, here}:
            return spectral_axis(cube, "km/s", path, self.rest_freq_hz, self.convention)
        freq_hz = spectral_axis(cube, "Hz", path, self.rest_freq_hz)
        freq_hz = freq_hz * _frame_ratio(cube, here, self.frame or "", path)
        rest_hz = self.rest_freq_hz or header_of(cube).get("RESTFRQ")
        if not rest_hz:
            raise ParameterError(f"{path}: no rest frequency in its header: give --rest-freq")
        doppler = getattr(units, f"doppler_{self.convention}")(units.Quantity(rest_hz, "Hz"))
        return np.asarray(units.Quantity(freq_hz, "Hz").to_value("km/s", doppler))


def _frame_ratio(cube: Cube, here: str, frame: str, path: Path) -> float:
    """Return the factor of topocentric frequencies, at the start and towards the centre."""
    header = header_of(cube)
    missing = [k for k in ("DATE-OBS", "OBSGEO-X", "OBSGEO-Y", "OBSGEO-Z") if k not in header]
    if here != "TOPOCENT" or frame not in ASTROPY_FRAMES or missing:
        raise DataError(
            f"{path}: no way from frame {here or 'unknown'} to {frame}"
            + (f" without {', '.join(missing)} in the header" if missing else "")
            + ": leave --frame out"
        )
    place = EarthLocation.from_geocentric(*(header[f"OBSGEO-{x}"] for x in "XYZ"), unit="m")
    celestial = cube.wcs.celestial
    direction = units.Quantity(celestial.wcs.crval, "deg")
    frame_here = wcs_to_celestial_frame(celestial)
    target = SkyCoord(*direction, distance=units.Quantity(1, "Mpc"), frame=frame_here)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoVelocityWarning)  # at rest on the ground, as it should be
        here_hz = SpectralCoord(
            units.Quantity(1.0, "Hz"),
            observer=place.get_itrs(Time(header_of(cube)["DATE-OBS"])),
            target=target,
        )
        there = here_hz.with_observer_stationary_relative_to(ASTROPY_FRAMES[frame])
    return float(there.to_value("Hz"))


def make_moments(
    cube: Cube,
    schedule: Schedule,
    path: Path,
    *,
    moments: Sequence[Moment] = ("0", "1", "2"),
    velocities: Velocities | None = None,
    sigma: float | None = None,
    mask: Cube | None = None,
) -> dict[Moment, fits.PrimaryHDU]:
    """Return moment maps with their headers.

    Parameters
    ----------
    sigma: pixels below so many times the noise of their channel are left out; measuring the noise
        reads the cube once more.
    mask: a cube of the same shape; pixels where it is blank or zero are left out.

    Raises
    ------
    DataError: the mask does not fit the cube.
    """
    if mask is not None and mask.shape != cube.shape:
        raise DataError(f"{path}: the mask has shape {mask.shape}, the cube {cube.shape}")
    velocity_km_s = (velocities or Velocities()).of(cube, path)
    threshold = np.full(cube.shape[0], -np.inf)
    if sigma is not None:
        _, channels = measure_cube(cube, schedule, path)
        threshold = np.nan_to_num(sigma * np.array([c.noise for c in channels]), nan=np.inf)
    maps = {name: np.full(cube.shape[1:], np.nan, np.float32) for name in moments}
    cubes = [pixels(cube)]
    if mask is not None:
        cubes.append(pixels(mask).rechunk(pixels(cube).chunks))
    function = _Moments(velocity_km_s, threshold, tuple(moments))
    for place, found in schedule.map_chunks(function, cubes, "moments"):
        for name, values in found.items():
            maps[name][place[1:]] = values
    return {name: _map_hdu(cube, name, values) for name, values in maps.items()}


@dataclass(frozen=True, slots=True)
class _Moments:
    """Moments of a chunk of whole spectra.

    Attributes
    ----------
    velocity_km_s, threshold: (chan,)
    """

    velocity_km_s: NDArray[np.float64]
    threshold: NDArray[np.float64]
    moments: tuple[Moment, ...]

    def __call__(
        self, place: Place, chunk: NDArray[Any], mask: NDArray[Any] | None = None
    ) -> dict[Moment, NDArray[np.float64]]:
        kept = np.isfinite(chunk) & (chunk >= self.threshold[:, None, None])
        if mask is not None:
            kept &= np.nan_to_num(mask) != 0
        flux = np.where(kept, chunk, 0.0).astype(np.float64)
        velocity = self.velocity_km_s
        # The ends of an irregular axis, and a lone channel, count as their neighbours do.
        width = np.abs(np.gradient(velocity)) if len(velocity) > 1 else np.ones(1)
        flux *= width[:, None, None]
        nothing = ~kept.any(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            total = np.where(nothing, np.nan, flux.sum(axis=0))
            middle = np.tensordot(velocity, flux, 1) / total
            found: dict[Moment, NDArray[np.float64]] = {"0": total, "1": middle}
            if "2" in self.moments:
                apart = (velocity[:, None, None] - middle) ** 2
                found["2"] = np.sqrt((flux * apart).sum(axis=0) / total)
            if "peak" in self.moments:
                peak = np.where(kept, chunk, -np.inf).max(axis=0)
                found["peak"] = np.where(nothing, np.nan, peak)
        return {name: found[name] for name in self.moments}


def _map_hdu(cube: Cube, name: Moment, values: NDArray[np.float32]) -> fits.PrimaryHDU:
    header, whole = cube.wcs.celestial.to_header(), header_of(cube)
    for key in ("OBJECT", "TELESCOP", "DATE-OBS", "SPECSYS", "RESTFRQ", "BMAJ", "BMIN", "BPA"):
        if key in whole:
            header[key] = whole[key]
    unit = "Jy/beam" if cube.unit.is_equivalent("Jy/beam") else cube.unit.to_string("fits")
    header["BUNIT"] = {"0": f"{unit} km/s".strip(), "peak": unit}.get(name, "km/s")
    header["BTYPE"] = {"0": "Moment 0", "1": "Velocity", "2": "Dispersion", "peak": "Peak"}[name]
    return fits.PrimaryHDU(values, header)
