"""What a model is predicted from: components, or planes of pixels, in a file or in memory.

WSClean's lists and catalogues are components. FITS images and ICAL's model are planes, each with a
share in some channels: an image cube is interpolated linearly between its frequencies and constant
beyond them, ICAL's planes are the terms of a polynomial.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from batch_imaging.errors import DataError
from batch_imaging.io.catalogue import read_catalogue
from batch_imaging.io.fits_image import read_fits_image
from batch_imaging.io.measurement_set import RowBlock
from batch_imaging.io.source_list import is_source_list, read_source_list
from batch_imaging.kernels.components import BaselineFactors, factor_baselines
from batch_imaging.kernels.prediction import (
    Components,
    Way,
    cost_of_degridding_s,
    cost_of_planes_s,
    cost_of_product_s,
    predict_components,
    predict_planes,
)
from batch_imaging.model.beam import SPEED_OF_LIGHT_M_S
from batch_imaging.model.continuum import ContinuumModel
from batch_imaging.model.direction import Direction, lmn_from_radec, radec_from_lm
from batch_imaging.model.image import ImageGeometry
from batch_imaging.model.sky import SkyModel

Floats = NDArray[np.float64]

_FACTORS_WITHIN_WAVELENGTHS = 1e-6
_SAME_CENTRE_RAD = 1e-10


@dataclass(frozen=True, slots=True)
class Sampling:
    """Where visibilities are taken, as far as the cost of a prediction depends on it.

    ``longest_m`` are the largest |u|, |v| and |w|.
    """

    centre: Direction
    freq_hz: Floats
    longest_m: Floats
    n_rows: int
    n_times: int
    n_stations: int


class ModelSource(Protocol):
    """Something with visibilities."""

    def cost_s(self, sampling: Sampling, way: Way) -> float:
        """Return about how many seconds of one core a prediction takes."""

    def predict(
        self,
        block: RowBlock,
        centre: Direction,
        freq_hz: Floats,
        n_stations: int,
        way: Way,
        threads: int,
    ) -> NDArray[np.complexfloating]:
        """Return Stokes I visibilities (row, chan) of rows sorted by time."""


@dataclass(frozen=True, slots=True, eq=False)
class SkySource:
    """Components with spectra."""

    sky: SkyModel

    def cost_s(self, sampling: Sampling, way: Way) -> float:
        if way == "product":
            n_gaussians = sum(c.bmaj_rad > 0 for c in self.sky.components)
            return cost_of_product_s(
                len(self.sky) - n_gaussians,
                n_gaussians,
                sampling.n_rows,
                len(sampling.freq_hz),
                sampling.n_stations,
                sampling.n_times,
            )
        edges_hz = sampling.freq_hz[[0, -1]]
        components = self._components(sampling.centre, edges_hz)
        return cost_of_degridding_s(
            components, sampling.longest_m, sampling.freq_hz, sampling.n_rows
        )

    def predict(
        self,
        block: RowBlock,
        centre: Direction,
        freq_hz: Floats,
        n_stations: int,
        way: Way,
        threads: int,
    ) -> NDArray[np.complexfloating]:
        factors = _factors(block, freq_hz, n_stations) if way == "product" else None
        components = self._components(centre, freq_hz)
        return predict_components(components, block.uvw_m, freq_hz, factors, way, threads=threads)

    def _components(self, centre: Direction, freq_hz: Floats) -> Components:
        lmn = np.stack(lmn_from_radec(self.sky.ra_rad, self.sky.dec_rad, centre))
        widths_rad = np.array(
            [(c.bmaj_rad, c.bmin_rad, c.bpa_rad) for c in self.sky.components]
        ).reshape(-1, 3)
        flux_jy = _fluxes(self, tuple(map(float, freq_hz)))
        return Components(lmn, flux_jy, widths_rad).select(lmn[2] > -1)


@lru_cache(maxsize=4)
def _fluxes(source: SkySource, freq_hz: tuple[float, ...]) -> Floats:
    """Return (component, chan); thousands of spectra take longer than their visibilities."""
    return source.sky.flux_jy(freq_hz)


@dataclass(frozen=True, slots=True, eq=False)
class PlaneSource:
    """Images in Jy/pixel, (plane, npixel, npixel).

    Attributes
    ----------
    freq_hz: (plane,) their frequencies, ascending, or the one of reference if ``polynomial``.
    polynomial: planes are coefficients of powers of ν/ν₀ − 1.
    """

    planes: NDArray[np.floating]
    geometry: ImageGeometry
    freq_hz: Floats
    polynomial: bool = False

    @classmethod
    def of(cls, model: ContinuumModel) -> "PlaneSource":
        """Return ICAL's model as planes."""
        freq_hz = np.array([model.ref_freq_hz])
        return cls(model.term_planes(), model.geometry, freq_hz, polynomial=True)

    def cost_s(self, sampling: Sampling, way: Way) -> float:
        n_chan, n_pixels = len(sampling.freq_hz), len(self._pixels())
        if way == "product":
            return cost_of_product_s(
                n_pixels, 0, sampling.n_rows, n_chan, sampling.n_stations, sampling.n_times
            )
        if self._is_about(sampling.centre):
            shares = self._shares(sampling.freq_hz)
            n_planes = int(np.count_nonzero(shares.any(axis=0)))
            return cost_of_planes_s(self.geometry.npixel, n_planes, sampling.n_rows * n_chan)
        return cost_of_degridding_s(
            self._components(sampling.centre, sampling.freq_hz[[0, -1]]),
            sampling.longest_m,
            sampling.freq_hz,
            sampling.n_rows,
        )

    def predict(
        self,
        block: RowBlock,
        centre: Direction,
        freq_hz: Floats,
        n_stations: int,
        way: Way,
        threads: int,
    ) -> NDArray[np.complexfloating]:
        if way == "degrid" and self._is_about(centre):
            shares = self._shares(freq_hz)
            return predict_planes(
                self.planes, shares, self.geometry, block.uvw_m, freq_hz, threads=threads
            )
        factors = _factors(block, freq_hz, n_stations) if way == "product" else None
        components = self._components(centre, freq_hz)
        return predict_components(components, block.uvw_m, freq_hz, factors, way, threads=threads)

    def _is_about(self, centre: Direction) -> bool:
        l, m, _ = lmn_from_radec(centre.ra_rad, centre.dec_rad, self.geometry.phase_centre)
        return bool(np.hypot(l, m) < _SAME_CENTRE_RAD)

    def _shares(self, freq_hz: Floats) -> Floats:
        """Return (chan, plane)."""
        n_planes = len(self.planes)
        if self.polynomial:
            return np.vander(freq_hz / self.freq_hz[0] - 1, n_planes, increasing=True)
        if n_planes == 1:
            return np.ones((len(freq_hz), 1))
        return np.stack([np.interp(freq_hz, self.freq_hz, hat) for hat in np.eye(n_planes)], axis=1)

    def _pixels(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.planes.reshape(len(self.planes), -1).any(axis=0))

    def _components(self, centre: Direction, freq_hz: Floats) -> Components:
        pixels = self._pixels()
        l, m = self.geometry.lm_grid()
        row, column = np.divmod(pixels, self.geometry.npixel)
        sky_rad = radec_from_lm(l[0, column], m[row, 0], self.geometry.phase_centre)
        terms = self.planes.reshape(len(self.planes), -1)[:, pixels].astype(float)
        lmn = np.stack(lmn_from_radec(*sky_rad, centre))
        flux_jy = terms.T @ self._shares(freq_hz).T
        return Components(lmn, flux_jy, np.zeros((len(pixels), 3))).select(lmn[2] > -1)


def _factors(block: RowBlock, freq_hz: Floats, n_stations: int) -> BaselineFactors | None:
    return factor_baselines(
        block.uvw_m,
        block.time_mjd_s,
        block.antenna1,
        block.antenna2,
        n_stations,
        _FACTORS_WITHIN_WAVELENGTHS * SPEED_OF_LIGHT_M_S / float(freq_hz.max()),
    )


def load_source(path: Path, ref_freq_hz: float) -> ModelSource:
    """Read a FITS image or cube, a source list of WSClean or a catalogue, once in each process.

    Parameters
    ----------
    ref_freq_hz: of flux densities in a catalogue that names no frequency.

    Raises
    ------
    DataError: the file is none of these, or an image without Jy/pixel or frequencies.
    """
    try:
        return _load(path, path.stat().st_mtime_ns, ref_freq_hz)
    except OSError as error:
        raise DataError(f"{path}: cannot be read as a model: {error}") from error


@lru_cache(maxsize=2)
def _load(path: Path, _mtime_ns: int, ref_freq_hz: float) -> ModelSource:
    if is_source_list(path):
        return SkySource(read_source_list(path))
    if path.suffix.lower() in (".fits", ".fit") and _is_image(path):
        planes, geometry, freq_hz, _ = read_fits_image(path)
        if len(planes) > 1 and not np.isfinite(freq_hz).all():
            raise DataError(f"{path}: a model cube needs frequencies; add an axis FREQ")
        order = np.argsort(freq_hz)
        return PlaneSource(
            np.nan_to_num(planes[order], posinf=0, neginf=0), geometry, freq_hz[order]
        )
    sky = read_catalogue(path, ref_freq_hz=ref_freq_hz)
    if not sky.components:
        raise DataError(f"{path}: has no source; give a catalogue with some")
    return SkySource(sky)


def _is_image(path: Path) -> bool:
    """Return whether a FITS file holds an image, which must be in jansky per pixel."""
    with fits.open(path) as hdus:
        header = hdus[0].header
    if header["NAXIS"] < 2:
        return False
    unit = str(header.get("BUNIT", "")).strip().lower()
    if unit not in ("jy/pixel", "jy/pix"):
        raise DataError(
            f"{path}: its unit is {header.get('BUNIT', 'not given')}, a model needs Jy/pixel; "
            "give the model of a deconvolution, not the restored image"
        )
    return True
