"""Geometry against closed formulae, astropy's coordinate frames and casacore's measures."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import CIRS, GCRS, ITRS, AltAz, EarthLocation, UnitSphericalRepresentation
from astropy.coordinates import CartesianRepresentation as Cartesian
from astropy.time import Time
from astropy.utils import iers
from casacore.measures import measures
from casacore.quanta import quantity

from batch_imaging.model import geometry
from batch_imaging.model.direction import Direction
from batch_imaging.model.geometry import GeodeticPosition

ARCSEC = np.deg2rad(1 / 3600)
CENTRE = GeodeticPosition.from_degrees(116.76444824, -26.824722084, 300.0)
PHASE_CENTRE = Direction.from_degrees(0.0, -30.0)
HOUR_ANGLES_RAD = np.deg2rad([-30.0, -15.0, 0.0, 15.0, 30.0])
DATE = "2020-05-23"


@pytest.fixture(autouse=True)
def _stay_offline():
    with iers.conf.set_temp("auto_download", False):
        yield


@pytest.fixture(scope="module")
def times_mjd_s():
    return geometry.times_for_hour_angles(HOUR_ANGLES_RAD, PHASE_CENTRE, CENTRE.longitude_rad, DATE)


@pytest.fixture(scope="module")
def itrf_m():
    enu_m = np.array([[0, 0, 0], [1000, 0, 0], [0, 1000, 0], [-300, 700, 20], [-9e3, -2e4, -30]])
    return geometry.itrf_from_enu(enu_m.astype(float), CENTRE)


def astropy_time(mjd_s):
    return Time(np.asarray(mjd_s) / 86400, format="mjd", scale="utc")


def astropy_itrs(vector, time):
    """A direction in GCRS axes as a unit vector in ITRS."""
    direction = UnitSphericalRepresentation.from_cartesian(Cartesian(vector))
    itrs = GCRS(direction, obstime=time).transform_to(ITRS(obstime=time))
    return itrs.represent_as(UnitSphericalRepresentation).to_cartesian().xyz.value


def test_geodetic_position_follows_the_ellipsoid():
    equatorial_m, flattening = 6_378_137.0, 1 / 298.257223563
    eccentricity2 = flattening * (2 - flattening)
    sin_lat, cos_lat = np.sin(CENTRE.latitude_rad), np.cos(CENTRE.latitude_rad)
    prime_m = equatorial_m / np.sqrt(1 - eccentricity2 * sin_lat**2)
    expected = [
        (prime_m + 300) * cos_lat * np.cos(CENTRE.longitude_rad),
        (prime_m + 300) * cos_lat * np.sin(CENTRE.longitude_rad),
        (prime_m * (1 - eccentricity2) + 300) * sin_lat,
    ]
    np.testing.assert_allclose(CENTRE.itrf_m(), expected, atol=1e-6, rtol=0)


def test_geodetic_position_returns_from_itrf():
    there_and_back = GeodeticPosition.from_itrf(CENTRE.itrf_m())
    assert there_and_back.longitude_rad == pytest.approx(CENTRE.longitude_rad, abs=1e-15)
    assert there_and_back.latitude_rad == pytest.approx(CENTRE.latitude_rad, abs=1e-15)
    assert there_and_back.height_m == pytest.approx(300, abs=1e-6)


def test_enu_axes_are_east_north_and_up():
    step_m = 1.0
    longitude, latitude, height = geometry.geodetic_from_itrf(
        geometry.itrf_from_enu(step_m * np.eye(3), CENTRE)
    )
    turn = np.array([longitude - CENTRE.longitude_rad, latitude - CENTRE.latitude_rad])
    assert turn[0, 0] > 0
    assert turn[1, 1] > 0
    # A metre along the tangent plane turns by a metre over a radius of 6,340 to 6,390 km.
    assert turn[1, 1] == pytest.approx(1 / 6.351e6, rel=2e-3)
    assert turn[0, 0] * np.cos(CENTRE.latitude_rad) == pytest.approx(1 / 6.382e6, rel=2e-3)
    np.testing.assert_allclose(turn[[1, 0, 0, 1], [0, 1, 2, 2]], 0, atol=1e-13)
    np.testing.assert_allclose(height, [300, 300, 301], atol=1e-6)


def test_enu_returns_from_itrf():
    enu_m = np.random.default_rng(1).normal(scale=2e4, size=(20, 3))
    back = geometry.enu_from_itrf(geometry.itrf_from_enu(enu_m, CENTRE), CENTRE)
    np.testing.assert_allclose(back, enu_m, atol=1e-8)


def test_basis_is_right_handed_with_w_to_the_source():
    u_axis, v_axis, w_axis = geometry.uvw_basis(PHASE_CENTRE)
    np.testing.assert_allclose(np.cross(u_axis, v_axis), w_axis, atol=1e-15)
    east, north = Direction.from_degrees(0.01, -30), Direction.from_degrees(0, -29.99)
    assert geometry.uvw_basis(east)[2] @ u_axis > 1e-4
    assert geometry.uvw_basis(north)[2] @ v_axis > 1e-4


def test_uvw_agrees_with_astropy_frames(itrf_m, times_mjd_s):
    """To 1e-8: astropy reads IERS bulletin B, whose UT1 differs from bulletin A's by 20 µs."""
    antenna1, antenna2 = np.triu_indices(len(itrf_m), k=1)
    stations_m = geometry.station_uvw_m(itrf_m, times_mjd_s, PHASE_CENTRE)
    assert stations_m.shape == (5, 5, 3)
    uvw_m = stations_m[:, antenna2] - stations_m[:, antenna1]
    baselines_m = itrf_m[antenna2] - itrf_m[antenna1]
    for time, computed in zip(astropy_time(times_mjd_s), uvw_m, strict=True):
        axes = [astropy_itrs(axis, time) for axis in geometry.uvw_basis(PHASE_CENTRE)]
        error_m = np.linalg.norm(computed - baselines_m @ np.transpose(axes), axis=1)
        assert (error_m < 1e-8 * np.linalg.norm(baselines_m, axis=1)).all()


def test_uvw_agrees_with_casacore(itrf_m, times_mjd_s):
    """To 1e-4: casacore turns the baselines by the aberration of the day (20″ are 1e-4), and
    without its own IERS tables takes UT1 for UTC (0.25 s are 2e-5)."""
    measure = measures()
    measure.do_frame(measure.position("itrf", *(f"{value:.6f}m" for value in itrf_m[0])))
    measure.do_frame(measure.direction("j2000", "0deg", "-30deg"))
    stations_m = geometry.station_uvw_m(itrf_m, times_mjd_s, PHASE_CENTRE)
    uvw_m = stations_m[:, 1:] - stations_m[:, :1]
    for time_mjd_s, computed in zip(times_mjd_s, uvw_m, strict=True):
        measure.do_frame(measure.epoch("utc", quantity(time_mjd_s, "s")))
        for baseline_m, uvw in zip(itrf_m[1:] - itrf_m[0], computed, strict=True):
            itrf = measure.baseline("itrf", *(f"{value:.6f}m" for value in baseline_m))
            expected = measure.to_uvw(measure.measure(itrf, "j2000"))["xyz"].get_value("m")
            assert np.abs(uvw - expected).max() < 1e-4 * np.linalg.norm(baseline_m)


def test_w_grows_towards_the_source():
    """At transit a station further up sees the source first: its w is larger."""
    array_latitude = Direction(0.0, CENTRE.latitude_rad)
    transit = geometry.times_for_hour_angles([0.0], array_latitude, CENTRE.longitude_rad, DATE)
    itrf_m = geometry.itrf_from_enu(np.array([[0, 0, 0], [0, 0, 100.0], [100.0, 0, 0]]), CENTRE)
    first, higher, further_east = geometry.station_uvw_m(itrf_m, transit, array_latitude)[0]
    np.testing.assert_allclose(higher - first, [0, 0, 100], atol=0.2)  # 20 years of precession
    np.testing.assert_allclose(further_east - first, [100, 0, 0], atol=0.2)


def test_baselines_keep_their_length(itrf_m, times_mjd_s):
    uvw_m = geometry.station_uvw_m(itrf_m, times_mjd_s, PHASE_CENTRE)
    lengths_m = np.linalg.norm(uvw_m[:, 4] - uvw_m[:, 0], axis=1)
    np.testing.assert_allclose(lengths_m, np.linalg.norm(itrf_m[4] - itrf_m[0]), rtol=1e-13)
    np.testing.assert_allclose(uvw_m.mean(axis=1), 0, atol=1e-9)


def test_times_reach_the_hour_angles_of_astropy(times_mjd_s):
    for time, wanted in zip(astropy_time(times_mjd_s), HOUR_ANGLES_RAD, strict=True):
        x, y, _ = astropy_itrs(geometry.uvw_basis(PHASE_CENTRE)[2], time)
        hour_angle = CENTRE.longitude_rad - np.arctan2(y, x)
        assert abs(np.angle(np.exp(1j * (hour_angle - wanted)))) < 0.01 * ARCSEC


def test_times_reach_the_hour_angles_of_sidereal_time(times_mjd_s):
    """To 0.5″: sidereal time is counted about the pole of the day, which stands 0.46″ off."""
    for time, wanted in zip(astropy_time(times_mjd_s), HOUR_ANGLES_RAD, strict=True):
        direction = GCRS(0 * u.deg, -30 * u.deg, obstime=time)
        ra = direction.transform_to(CIRS(obstime=time)).ra
        sidereal = time.earth_rotation_angle(CENTRE.longitude_rad * u.rad)
        hour_angle = (sidereal - ra).rad
        assert abs(np.angle(np.exp(1j * (hour_angle - wanted)))) < 0.5 * ARCSEC


def test_transit_is_on_the_date_and_times_ascend(times_mjd_s):
    midnight = Time(f"{DATE}T00:00:00").mjd * 86400
    assert midnight <= times_mjd_s[2] < midnight + 86400
    sidereal_hour_s = 3600 / 1.0027379
    np.testing.assert_allclose(np.diff(times_mjd_s), sidereal_hour_s, atol=0.01)


def test_hour_angles_are_met_to_a_microsecond(times_mjd_s):
    found = geometry.hour_angle_at(times_mjd_s, PHASE_CENTRE, CENTRE.longitude_rad)
    np.testing.assert_allclose(found, HOUR_ANGLES_RAD, atol=1e-10)


def test_times_outside_the_tables_are_rotated_too():
    for date in ("1970-01-01", "2029-06-30"):
        times = geometry.times_for_hour_angles([0.1], PHASE_CENTRE, 2.0, date)
        assert geometry.hour_angle_at(times, PHASE_CENTRE, 2.0) == pytest.approx(0.1, abs=1e-10)


def test_elevation_agrees_with_astropy(times_mjd_s):
    """To 0.12°: precession turns the sky by up to 0.11° from 2000 to 2020."""
    location = EarthLocation.from_geocentric(*CENTRE.itrf_m(), unit="m")
    elevation = geometry.elevation_rad(HOUR_ANGLES_RAD, PHASE_CENTRE.dec_rad, CENTRE.latitude_rad)
    for time, computed in zip(astropy_time(times_mjd_s), elevation, strict=True):
        direction = GCRS(0 * u.deg, -30 * u.deg, obstime=time)
        altaz = direction.transform_to(AltAz(obstime=time, location=location))
        assert np.rad2deg(computed) == pytest.approx(altaz.alt.deg, abs=0.12)


def test_elevation_at_zenith_and_below_the_horizon():
    assert geometry.elevation_rad(0.0, -0.5, -0.5) == pytest.approx(np.pi / 2)
    assert geometry.elevation_rad(np.pi, -0.5, -0.5) == pytest.approx(1.0 - np.pi / 2)


def test_max_baseline(itrf_m):
    assert geometry.max_baseline_m(itrf_m) == pytest.approx(
        max(np.linalg.norm(a - b) for a in itrf_m for b in itrf_m)
    )
