"""Beams and spectra smoothed; planes that failed stay out of it."""

from pathlib import Path

import numpy as np
import pytest

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.pipelines.cubes.opening import beams_deg, pixels
from batch_imaging.pipelines.cubes.smoothing import (
    common_beam,
    good_planes,
    parse_beam,
    smooth_spectra,
    smooth_to_beam,
)

HERE = Path("cube.fits")
FWHM = np.array([60.0, 50.0, np.nan, 40.0, 300.0])
CELL = 10.0


@pytest.fixture
def source(opened):
    """A point source of 1 Jy; the plane without a beam is blank, another has a huge beam."""
    y, x = np.mgrid[-32:33, -32:33]
    planes = [np.exp(-4 * np.log(2) * (x**2 + y**2) * CELL**2 / fwhm**2) for fwhm in FWHM]
    beams = np.stack([FWHM, FWHM, np.zeros(5)], axis=1)
    return opened(np.array(planes, np.float32), beams, along="planes", chunk=(2, 0, 0))


def test_planes_come_to_the_common_beam_of_the_good_ones(source):
    good = good_planes(source, HERE, limit_arcsec=100.0)
    assert good.tolist() == [True, True, False, True, False]
    beam = common_beam(source, good, HERE)
    assert beam.major.to_value("arcsec") == pytest.approx(60, rel=1e-3)
    smoothed = smooth_to_beam(source, beam, good, HERE)
    planes = pixels(smoothed).compute()
    assert np.isnan(planes[[2, 4]]).all()
    for channel in (1, 3):
        np.testing.assert_allclose(planes[channel], planes[0], atol=2e-3)
    assert beams_deg(smoothed).shape == (1, 3)


def test_a_given_beam_keeps_the_flux_per_area(source):
    good = good_planes(source, HERE, limit_arcsec=100.0)
    planes = pixels(smooth_to_beam(source, parse_beam("90arcsec"), good, HERE)).compute()
    np.testing.assert_allclose(planes[[0, 1, 3], 32, 32], 1.0, atol=5e-3)


def test_a_beam_that_is_too_small_names_the_channels(source):
    with pytest.raises(DataError, match=r"2 channels \(0, 4\).*--common-beam"):
        smooth_to_beam(source, parse_beam("55,55,0"), good_planes(source, HERE), HERE)


def test_no_plane_within_the_limit(source, opened):
    with pytest.raises(DataError, match="none of its planes"):
        good_planes(source, HERE, limit_arcsec=1.0)
    with pytest.raises(DataError, match="no beam"):
        good_planes(opened(np.zeros((2, 5, 5), np.float32)), HERE)


@pytest.mark.parametrize("kernel", ["gaussian", "box"])
def test_spectra_are_smoothed_and_blank_channels_stay_blank(opened, kernel):
    spectrum = np.zeros(21, np.float32)
    spectrum[10] = 1
    spectrum[3] = np.nan
    cube = opened(np.tile(spectrum[:, None, None], (1, 4, 4)), along="spectra", chunk=(0, 2, 4))
    smoothed = pixels(smooth_spectra(cube, 3, kernel, HERE)).compute()
    assert np.isnan(smoothed[3]).all()
    assert np.nansum(smoothed[:, 1, 2]) == pytest.approx(1, rel=1e-3)
    assert smoothed[10, 0, 0] == pytest.approx(1 / 3, abs=0.03)


def test_spectra_of_many_beams_are_not_smoothed(source):
    with pytest.raises(DataError, match="--common-beam"):
        smooth_spectra(source, 3, "box", HERE)


def test_beams_as_users_write_them():
    beam = parse_beam("20arcsec,0.2arcmin,0.5rad")
    assert beam.minor.to_value("arcsec") == pytest.approx(12)
    assert beam.pa.to_value("deg") == pytest.approx(np.rad2deg(0.5))
    assert parse_beam("20").minor.to_value("arcsec") == 20
    for text in ("big", "1,2,3,4", "3arcsec,1Hz"):
        with pytest.raises(ParameterError, match="--beam"):
            parse_beam(text)
