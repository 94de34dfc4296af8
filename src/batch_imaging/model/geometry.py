"""Where stations stand on the rotating earth, and the (u, v, w) they make with a direction.

Stations are given in ITRF, directions in ICRS. The rotation between the two is the IAU 2006/2000A
matrix of erfa, with UT1 and polar motion from the IERS tables that astropy ships: nothing is ever
downloaded. Directions are astrometric: aberration, which turns a whole field by up to 20″ and
would turn uvw by 1e-4 with it, is left out. Baselines are antenna2 − antenna1.
"""

import warnings
from dataclasses import dataclass
from functools import cache

import erfa
import numpy as np
from astropy.utils import iers
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist

from batch_imaging.model.direction import Direction

Floats = NDArray[np.float64]

MJD_ZERO_JD = 2_400_000.5
SECONDS_PER_DAY = 86_400.0
# Rate of the earth rotation angle, rad per second of UT1 (IERS Conventions 2010, eq. 5.15).
EARTH_ROTATION_RAD_S = 2 * np.pi * 1.002_737_811_911_354_48 / SECONDS_PER_DAY
WGS84 = 1  # erfa's number for the ellipsoid


@dataclass(frozen=True, slots=True)
class GeodeticPosition:
    """A position on the WGS84 ellipsoid: longitude (east) and latitude, height above it."""

    longitude_rad: float
    latitude_rad: float
    height_m: float

    @classmethod
    def from_degrees(
        cls, longitude_deg: float, latitude_deg: float, height_m: float
    ) -> "GeodeticPosition":
        return cls(float(np.deg2rad(longitude_deg)), float(np.deg2rad(latitude_deg)), height_m)

    @classmethod
    def from_itrf(cls, itrf_m: Floats) -> "GeodeticPosition":
        """Return the position of a geocentric vector (3,), metres."""
        return cls(*(float(value) for value in geodetic_from_itrf(itrf_m)))

    def itrf_m(self) -> Floats:
        """Return the geocentric vector (3,), metres."""
        return np.asarray(erfa.gd2gc(WGS84, self.longitude_rad, self.latitude_rad, self.height_m))

    def enu_axes(self) -> Floats:
        """Return the unit vectors east, north and up as the rows of a (3, 3) matrix, in ITRF."""
        return _tangent_axes(self.longitude_rad, self.latitude_rad)


def geodetic_from_itrf(itrf_m: Floats) -> tuple[Floats, Floats, Floats]:
    """Return (longitude_rad, latitude_rad, height_m) of geocentric positions (..., 3), on WGS84."""
    longitude_rad, latitude_rad, height_m = erfa.gc2gd(WGS84, itrf_m)
    return np.asarray(longitude_rad), np.asarray(latitude_rad), np.asarray(height_m)


def itrf_from_enu(enu_m: Floats, reference: GeodeticPosition) -> Floats:
    """Return geocentric positions (..., 3) of points east, north, up of ``reference``, metres."""
    return reference.itrf_m() + enu_m @ reference.enu_axes()


def enu_from_itrf(itrf_m: Floats, reference: GeodeticPosition) -> Floats:
    """Return positions (..., 3) east, north, up of ``reference``, metres."""
    offset: Floats = (itrf_m - reference.itrf_m()) @ reference.enu_axes().T
    return offset


def celestial_to_terrestrial(time_mjd_s: ArrayLike) -> Floats:
    """Return the rotation from ICRS (GCRS) to ITRF axes at times UTC: (..., 3, 3).

    Before and after the years that the IERS tables and the list of leap seconds cover, their
    nearest values are used.
    """
    utc = MJD_ZERO_JD, np.asarray(time_mjd_s, dtype=float) / SECONDS_PER_DAY
    table = _earth_orientation()
    # Asking for the status keeps astropy from refusing times outside the table.
    ut1_utc, _ = table.ut1_utc(*utc, return_status=True)
    pole_x, pole_y, _ = table.pm_xy(*utc, return_status=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", erfa.ErfaWarning)  # “dubious year”: see above
        terrestrial = erfa.taitt(*erfa.utctai(*utc))
        ut1 = erfa.utcut1(*utc, ut1_utc.to_value("s"))
    return np.asarray(
        erfa.c2t06a(*terrestrial, *ut1, pole_x.to_value("rad"), pole_y.to_value("rad"))
    )


def uvw_basis(phase_centre: Direction) -> Floats:
    """Return the unit vectors u (east), v (north), w (to the source) as rows (3, 3), in ICRS."""
    return _tangent_axes(phase_centre.ra_rad, phase_centre.dec_rad)


def station_uvw_m(itrf_m: Floats, time_mjd_s: ArrayLike, phase_centre: Direction) -> Floats:
    """Return station coordinates (time, station, 3) along u, v, w, metres, about their mean.

    Parameters
    ----------
    itrf_m: (station, 3) geocentric positions, metres.
    time_mjd_s: (time,) UTC, modified Julian date in seconds.
    """
    to_itrf = celestial_to_terrestrial(np.atleast_1d(time_mjd_s))
    axes_itrf = np.einsum("tij,aj->tai", to_itrf, uvw_basis(phase_centre))
    # About the mean, so that no digits are spent on the radius of the earth.
    uvw: Floats = (itrf_m - itrf_m.mean(axis=0)) @ axes_itrf.swapaxes(1, 2)
    return uvw


def hour_angle_at(time_mjd_s: ArrayLike, phase_centre: Direction, longitude_rad: float) -> Floats:
    """Return how far the direction stands west of the meridian of a longitude, within ±π."""
    source_itrf = celestial_to_terrestrial(time_mjd_s) @ uvw_basis(phase_centre)[2]
    longitude_of_source = np.arctan2(source_itrf[..., 1], source_itrf[..., 0])
    return _within_half_turn(longitude_rad - longitude_of_source)


def times_for_hour_angles(
    hour_angle_rad: ArrayLike, phase_centre: Direction, longitude_rad: float, date: str
) -> Floats:
    """Return the times (time,) at which ``phase_centre`` stands at hour angles about one transit.

    The transit is the first of the UTC day ``date`` (YYYY-MM-DD); the session around it may reach
    into the neighbouring days. Times are modified Julian dates in seconds, UTC, good to 1 µs.
    """
    year, month, day = (int(part) for part in date.split("-"))
    midnight_mjd_s = erfa.cal2jd(year, month, day)[1] * SECONDS_PER_DAY

    angles = np.atleast_1d(np.asarray(hour_angle_rad, dtype=float))
    to_transit = np.mod(-hour_angle_at(midnight_mjd_s, phase_centre, longitude_rad), 2 * np.pi)
    times: Floats = midnight_mjd_s + (to_transit + angles) / EARTH_ROTATION_RAD_S
    for _ in range(2):  # precession and the drift of UT1 make steps of 1e-7 of the first
        missing = angles - hour_angle_at(times, phase_centre, longitude_rad)
        times = times + _within_half_turn(missing) / EARTH_ROTATION_RAD_S
    return times


def elevation_rad(hour_angle_rad: ArrayLike, dec_rad: float, latitude_rad: float) -> Floats:
    """Return elevations above the horizon at hour angles (radians), without refraction."""
    sine = np.sin(latitude_rad) * np.sin(dec_rad)
    sine = sine + np.cos(latitude_rad) * np.cos(dec_rad) * np.cos(hour_angle_rad)
    return np.asarray(np.arcsin(np.clip(sine, -1.0, 1.0)))


def max_baseline_m(itrf_m: Floats) -> float:
    """Return the longest distance between two of the positions (station, 3), metres."""
    return float(pdist(itrf_m).max())


@cache
def _earth_orientation() -> iers.IERS:
    # Bulletin A: measured values, then a year of predictions. The table that astropy would choose
    # by itself goes to the network for a newer one.
    return iers.IERS_A.open(iers.IERS_A_FILE)


def _tangent_axes(longitude_rad: float, latitude_rad: float) -> Floats:
    """Return east, north and outward unit vectors at a point of a sphere, as rows (3, 3)."""
    sin_lon, cos_lon = np.sin(longitude_rad), np.cos(longitude_rad)
    sin_lat, cos_lat = np.sin(latitude_rad), np.cos(latitude_rad)
    return np.array(
        [
            [-sin_lon, cos_lon, 0.0],
            [-sin_lat * cos_lon, -sin_lat * sin_lon, cos_lat],
            [cos_lat * cos_lon, cos_lat * sin_lon, sin_lat],
        ]
    )


def _within_half_turn(angle_rad: ArrayLike) -> Floats:
    return np.mod(np.asarray(angle_rad) + np.pi, 2 * np.pi) - np.pi
