"""Beams: the elliptical Gaussian an image is restored with, and the primary beam of a station."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import j1

SPEED_OF_LIGHT_M_S = 299_792_458.0
FWHM_PER_SIGMA = float(2 * np.sqrt(2 * np.log(2)))


@dataclass(frozen=True, slots=True)
class RestoringBeam:
    """An elliptical Gaussian: full widths at half maximum, angle east of north, radians."""

    bmaj_rad: float
    bmin_rad: float
    bpa_rad: float

    @property
    def solid_angle_sr(self) -> float:
        """Integral of the unit-peak Gaussian, steradian."""
        return float(np.pi * self.bmaj_rad * self.bmin_rad / (4 * np.log(2)))


def station_power_beam(
    l: ArrayLike, m: ArrayLike, freq_hz: float, diameter_m: float
) -> NDArray[np.float64]:
    """Return the power pattern of a uniformly filled circular aperture pointed at l = m = 0.

    (2 J1(x)/x)² with x = π D ν sin(θ) / c: the mean pattern of an aperture-array station of
    diameter D whose elements are weighted alike. Its squared voltage pattern is what multiplies
    the sky in a baseline of two such stations.
    """
    x = np.pi * diameter_m * freq_hz / SPEED_OF_LIGHT_M_S * np.hypot(l, m)
    x = np.where(x < 1e-6, 1e-6, x)
    return np.asarray((2 * j1(x) / x) ** 2)
