"""Linear mosaics: planes of several fields, resampled and summed with primary-beam weights.

A field k shows the sky S as I = A S + noise of deviation σ, with A its primary beam. The sum
Σ(A I / σ²) / Σ(A² / σ²) is the estimate of S with the least noise (Sault, Staveley-Smith & Brouw
1996, A&AS 120, 375); the denominator is its weight, one over its variance.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, spline_filter
from scipy.optimize import brentq

from batch_imaging.model.beam import SPEED_OF_LIGHT_M_S, station_power_beam

Shape = Literal["gaussian", "airy"]
DISH_FWHM: dict[Shape, float] = {"gaussian": 1.09, "airy": 1.02899}
"""Full width at half maximum in λ/D: of a dish with tapered feed, of a uniform aperture."""
AIRY_NULL = 1.21967  # of a uniform aperture, λ/D

Positions = NDArray[np.floating] | NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class PrimaryBeam:
    """The round main lobe of a power pattern, whose width goes with one over the frequency.

    Attributes
    ----------
    fwhm_rad: full width at half maximum, at ``freq_hz``.
    """

    shape: Shape
    fwhm_rad: float
    freq_hz: float

    @classmethod
    def of_dish(cls, shape: Shape, diameter_m: float) -> "PrimaryBeam":
        return cls(shape, DISH_FWHM[shape] * SPEED_OF_LIGHT_M_S / 1e9 / diameter_m, 1e9)

    def power(self, separation_rad: NDArray[np.floating], freq_hz: float) -> NDArray[np.float64]:
        """Return the response, 1 in the centre, 0 beyond the main lobe, at angles from there."""
        fwhm_rad = self._fwhm_rad(freq_hz)
        if self.shape == "gaussian":
            return np.asarray(np.exp(-4 * np.log(2) * (separation_rad / fwhm_rad) ** 2))
        wavelengths = DISH_FWHM["airy"] / fwhm_rad
        offset = np.sin(np.minimum(separation_rad, np.pi / 2))
        diameter_m = wavelengths * SPEED_OF_LIGHT_M_S / freq_hz
        power = station_power_beam(offset, 0.0, freq_hz, diameter_m)
        return np.where(offset * wavelengths < AIRY_NULL, power, 0.0)

    def radius_rad(self, level: float, freq_hz: float) -> float:
        """Return the angle at which the response falls to ``level``."""
        widest_rad = min(np.pi, self._fwhm_rad(freq_hz) * np.sqrt(np.log2(1 / level)))

        def excess(angle_rad: float) -> float:
            return float(self.power(np.asarray(angle_rad), freq_hz)) - level

        return float(brentq(excess, 0.0, widest_rad)) if excess(widest_rad) < 0 else widest_rad

    def _fwhm_rad(self, freq_hz: float) -> float:
        return self.fwhm_rad * self.freq_hz / freq_hz


class Interpolator:
    """A plane (row, column) between its pixels, by cubic splines.

    Brightness is interpolated, not rescaled: Jy/beam stay Jy/beam whatever the size of a pixel.
    """

    def __init__(self, plane: NDArray[np.floating]) -> None:
        known = np.isfinite(plane)
        self._known = known.astype(np.float32)
        self._spline = spline_filter(np.where(known, plane, 0), output=np.float32)

    def __call__(self, row: Positions, column: Positions) -> NDArray[np.float32]:
        """Return values at positions in pixels, NaN off the plane and beside blank pixels."""
        at = np.stack([row, column])
        values = map_coordinates(self._spline, at, order=3, mode="mirror", prefilter=False)
        known = map_coordinates(self._known, at, order=1, mode="grid-constant")
        return np.where(known > 0.999, values, np.float32(np.nan))


class WeightedSum:
    """The sums of a mosaic's plane, to which one field after the other is added."""

    def __init__(self, rows: int, columns: int) -> None:
        self._total = np.zeros((rows, columns), np.float32)
        self.weight = np.zeros((rows, columns), np.float32)

    def add(
        self,
        at: tuple[NDArray[np.integer], NDArray[np.integer]],
        values: NDArray[np.floating],
        power: NDArray[np.floating],
        noise: float,
    ) -> None:
        """Add values where they are known, at rows and columns that are all different."""
        weighted = power / noise**2
        self._total[at] += np.where(np.isfinite(values), weighted * values, 0)
        self.weight[at] += np.where(np.isfinite(values), weighted * power, 0)

    def mean(self) -> NDArray[np.float32]:
        """Return the mosaic, NaN where nothing was added."""
        blank = np.full_like(self._total, np.nan)
        return np.divide(self._total, self.weight, out=blank, where=self.weight > 0)
