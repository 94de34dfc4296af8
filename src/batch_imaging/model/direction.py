"""A direction on the sky and its direction cosines about a phase centre."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Direction:
    """A direction in ICRS."""

    ra_rad: float
    dec_rad: float

    @classmethod
    def from_degrees(cls, ra_deg: float, dec_deg: float) -> "Direction":
        return cls(float(np.deg2rad(ra_deg)), float(np.deg2rad(dec_deg)))


def lmn_from_radec(
    ra_rad: ArrayLike, dec_rad: ArrayLike, centre: Direction
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return direction cosines (l, m, n − 1) about ``centre``.

    l grows to the east, m to the north (SIN projection; Thompson, Moran & Swenson, eq. 3.2 ff.).
    n − 1 is computed without cancellation; it is below −1 for directions behind the observer.
    """
    d_ra = np.asarray(ra_rad, dtype=float) - centre.ra_rad
    dec = np.asarray(dec_rad, dtype=float)
    sin0, cos0 = np.sin(centre.dec_rad), np.cos(centre.dec_rad)
    l = np.cos(dec) * np.sin(d_ra)
    m = np.sin(dec) * cos0 - np.cos(dec) * sin0 * np.cos(d_ra)
    # 1 − cos(separation) by haversines
    n_minus_1 = -2.0 * (
        np.sin((dec - centre.dec_rad) / 2) ** 2 + np.cos(dec) * cos0 * np.sin(d_ra / 2) ** 2
    )
    return l, m, n_minus_1


def radec_from_lm(
    l: ArrayLike, m: ArrayLike, centre: Direction
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (right ascension, declination) in radians of direction cosines about ``centre``.

    Right ascension is within [0, 2π). Points outside the unit circle give NaN.
    """
    l_arr, m_arr = np.asarray(l, dtype=float), np.asarray(m, dtype=float)
    radius2 = l_arr**2 + m_arr**2
    n = np.sqrt(np.where(radius2 <= 1.0, 1.0 - radius2, np.nan))
    sin0, cos0 = np.sin(centre.dec_rad), np.cos(centre.dec_rad)
    dec = np.arcsin(np.clip(m_arr * cos0 + n * sin0, -1.0, 1.0))
    ra = centre.ra_rad + np.arctan2(l_arr, n * cos0 - m_arr * sin0)
    return np.mod(ra, 2 * np.pi), dec
