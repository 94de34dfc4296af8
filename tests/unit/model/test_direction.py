"""Direction cosines against astropy's spherical geometry and the FITS SIN projection."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st

from batch_imaging.model.direction import Direction, lmn_from_radec, radec_from_lm

CENTRES_DEG = [(0.0, -30.0), (359.9, 10.0), (0.1, 60.0), (180.0, 0.0), (45.0, -89.5), (200.0, 90.0)]


@pytest.fixture(params=CENTRES_DEG, ids=str)
def centre_deg(request):
    return request.param


@pytest.fixture
def ring(centre_deg):
    """Twelve directions at 0.01° to 60° from the centre, all around it."""
    angle = np.arange(12) * 30 * u.deg
    return SkyCoord(*centre_deg, unit="deg").directional_offset_by(
        angle, np.geomspace(0.01, 60, 12) * u.deg
    )


def test_cosines_are_those_of_separation_and_position_angle(centre_deg, ring):
    centre = SkyCoord(*centre_deg, unit="deg")
    l, m, n_minus_1 = lmn_from_radec(ring.ra.rad, ring.dec.rad, Direction.from_degrees(*centre_deg))
    separation, angle = centre.separation(ring).rad, centre.position_angle(ring).rad
    np.testing.assert_allclose(l, np.sin(separation) * np.sin(angle), atol=1e-14)
    np.testing.assert_allclose(m, np.sin(separation) * np.cos(angle), atol=1e-14)
    np.testing.assert_allclose(n_minus_1, -2 * np.sin(separation / 2) ** 2, atol=1e-14)


def test_cosines_are_intermediate_coordinates_of_the_sin_projection(centre_deg, ring):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = centre_deg
    wcs.wcs.cdelt = np.rad2deg([1.0, 1.0])  # pixels of one radian, increasing to the east
    wcs.wcs.crpix = [1, 1]
    wcs.wcs.lonpole = 180.0  # at the pole itself the default is 0: north would be down
    l, m, _ = lmn_from_radec(ring.ra.rad, ring.dec.rad, Direction.from_degrees(*centre_deg))
    expected = wcs.all_world2pix(ring.ra.deg, ring.dec.deg, 0)
    np.testing.assert_allclose([l, m], expected, atol=1e-12)


def test_there_and_back(centre_deg, ring):
    centre = Direction.from_degrees(*centre_deg)
    l, m, _ = lmn_from_radec(ring.ra.rad, ring.dec.rad, centre)
    ra_rad, dec_rad = radec_from_lm(l, m, centre)
    back = SkyCoord(ra_rad, dec_rad, unit="rad")
    assert back.separation(ring).to_value("uas").max() < 1
    assert ((ra_rad >= 0) & (ra_rad <= 2 * np.pi)).all()


@given(
    ra0=st.floats(0, 2 * np.pi),
    dec0=st.floats(-np.pi / 2, np.pi / 2),
    radius=st.floats(0, 0.99),
    angle=st.floats(0, 2 * np.pi),
)
def test_back_and_there(ra0, dec0, radius, angle):
    centre = Direction(ra0, dec0)
    l, m = radius * np.sin(angle), radius * np.cos(angle)
    again = lmn_from_radec(*radec_from_lm(l, m, centre), centre)
    n_minus_1 = -(radius**2) / (1 + np.sqrt(1 - radius**2))
    np.testing.assert_allclose(again, [l, m, n_minus_1], atol=2e-8)


def test_small_n_keeps_its_digits():
    """At one arcsecond n − 1 is −1.2e-11: 1 − cos would leave five digits."""
    centre = Direction(1.0, -0.5)
    _, _, n_minus_1 = lmn_from_radec(1.0, -0.5 + np.deg2rad(1 / 3600), centre)
    assert n_minus_1 == pytest.approx(-(np.deg2rad(1 / 3600) ** 2) / 2, rel=1e-9)


def test_behind_the_observer_and_beyond_the_circle():
    centre = Direction.from_degrees(0.0, 0.0)
    _, _, n_minus_1 = lmn_from_radec(np.pi, 0.0, centre)
    assert n_minus_1 == pytest.approx(-2.0)
    ra_rad, dec_rad = radec_from_lm([0.8, 0.0], [0.8, 0.0], centre)
    assert np.isnan([ra_rad[0], dec_rad[0]]).all()
    assert np.isfinite([ra_rad[1], dec_rad[1]]).all()
