"""Pixels against astropy's WCS: rows to the north, columns to the west."""

import numpy as np
import pytest
from astropy.wcs import WCS

from batch_imaging.model.direction import Direction, radec_from_lm
from batch_imaging.model.image import ImageGeometry


@pytest.fixture(params=[(0.0, -30.0), (300.0, 85.0)], ids=str)
def geometry(request):
    return ImageGeometry(256, 1e-3, Direction.from_degrees(*request.param))


@pytest.fixture
def wcs(geometry):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = np.rad2deg([geometry.phase_centre.ra_rad, geometry.phase_centre.dec_rad])
    wcs.wcs.crpix = [129, 129]  # counted from one
    wcs.wcs.cdelt = np.rad2deg([-1e-3, 1e-3])
    return wcs


def test_sky_positions_have_the_pixels_of_the_wcs(geometry, wcs):
    columns, rows = np.random.default_rng(1).uniform(0, 255, (2, 50))
    ra_deg, dec_deg = wcs.all_pix2world(columns, rows, 0)
    found = geometry.pixel_of(np.deg2rad(ra_deg), np.deg2rad(dec_deg))
    np.testing.assert_allclose(found, [rows, columns], atol=1e-8)


def test_the_grid_and_the_pixels_agree(geometry, wcs):
    l, m = geometry.lm_grid()
    assert l.shape == (1, 256)
    assert m.shape == (256, 1)
    l, m = np.broadcast_arrays(l, m)
    ra_rad, dec_rad = radec_from_lm(l, m, geometry.phase_centre)
    np.testing.assert_allclose(geometry.pixel_of(ra_rad, dec_rad), np.mgrid[:256, :256], atol=1e-8)
    np.testing.assert_allclose(
        wcs.all_world2pix(np.rad2deg(ra_rad[::16, ::16]), np.rad2deg(dec_rad[::16, ::16]), 0),
        np.mgrid[:256:16, :256:16][::-1],
        atol=1e-8,
    )


def test_the_phase_centre_is_the_reference_pixel(geometry):
    assert geometry.shape == (256, 256)
    centre = geometry.phase_centre
    assert geometry.pixel_of(centre.ra_rad, centre.dec_rad) == (128.0, 128.0)
    l, m = geometry.lm_grid()
    assert l[0, 128] == m[128, 0] == 0.0


def test_east_is_left_and_north_is_up(geometry):
    centre = geometry.phase_centre
    _, east_column = geometry.pixel_of(centre.ra_rad + 0.01, centre.dec_rad)
    north_row, _ = geometry.pixel_of(centre.ra_rad, centre.dec_rad + 0.01)
    assert east_column < 128
    assert north_row > 128


def test_what_is_behind_has_no_pixel(geometry):
    centre = geometry.phase_centre
    assert np.isnan(geometry.pixel_of(centre.ra_rad + np.pi, -centre.dec_rad)).all()
