"""The fitted beam and the convolution with it, against Gaussians written out."""

import numpy as np
import pytest

from batch_imaging.kernels.gridding import make_dirty
from batch_imaging.kernels.restoring import convolve_with_beam, fit_beam
from batch_imaging.model.beam import SPEED_OF_LIGHT_M_S, RestoringBeam
from batch_imaging.model.direction import Direction
from batch_imaging.model.image import ImageGeometry

CELL_RAD = 5e-4
N = 128
ANGLES_DEG = [-89.0, -60.0, -17.0, 0.0, 30.0, 45.0, 80.0]


def gaussian(beam, row, column, n=N):
    """A unit-peak Gaussian about a pixel: the major axis turns from north (up) to east (left)."""
    rows, columns = np.mgrid[:n, :n]
    north, east = (rows - row) * CELL_RAD, (column - columns) * CELL_RAD
    along = east * np.sin(beam.bpa_rad) + north * np.cos(beam.bpa_rad)
    radius2 = (along / beam.bmaj_rad) ** 2
    radius2 += (east**2 + north**2 - along**2) / beam.bmin_rad**2
    return np.exp(-4 * np.log(2) * radius2)


def beam_of(bmaj_pixel, bmin_pixel, bpa_deg):
    return RestoringBeam(bmaj_pixel * CELL_RAD, bmin_pixel * CELL_RAD, np.deg2rad(bpa_deg))


def assert_same_beam(found, expected, rel):
    assert found.bmaj_rad == pytest.approx(expected.bmaj_rad, rel=rel)
    assert found.bmin_rad == pytest.approx(expected.bmin_rad, rel=rel)
    assert abs(np.sin(found.bpa_rad - expected.bpa_rad)) < rel  # an axis has no direction
    assert -np.pi / 2 <= found.bpa_rad <= np.pi / 2


@pytest.mark.parametrize("bpa_deg", ANGLES_DEG)
def test_the_beam_of_a_gaussian_is_found(bpa_deg):
    beam = beam_of(7.3, 3.9, bpa_deg)
    found = fit_beam(3.0 * gaussian(beam, N // 2, N // 2), CELL_RAD)
    assert_same_beam(found, beam, rel=1e-6)


def test_a_round_beam_is_round():
    found = fit_beam(gaussian(beam_of(5.0, 5.0, 0.0), N // 2, N // 2), CELL_RAD)
    assert found.bmaj_rad / found.bmin_rad == pytest.approx(1.0, abs=1e-6)
    assert found.bmaj_rad == pytest.approx(5.0 * CELL_RAD, rel=1e-6)


def test_sidelobes_do_not_pull_the_fit():
    beam = beam_of(6.0, 4.0, 20.0)
    psf = gaussian(beam, 64, 64) + 0.6 * gaussian(beam, 90, 80) + 0.6 * gaussian(beam, 38, 48)
    assert_same_beam(fit_beam(psf, CELL_RAD), beam, rel=1e-6)


@pytest.mark.parametrize("long_deg", [0.0, 35.0, 120.0])
def test_long_baselines_make_the_minor_axis(long_deg):
    """The psf of a Gaussian cloud of baselines is a Gaussian of widths 1/(2πσ), turned by 90°."""
    rng = np.random.default_rng(1)
    geometry = ImageGeometry(N, CELL_RAD, Direction(0.0, -0.5))
    waves_long, waves_short = rng.normal(size=(2, 20_000)) * [[100.0], [60.0]]
    sin, cos = np.sin(np.deg2rad(long_deg)), np.cos(np.deg2rad(long_deg))
    u, v = waves_long * sin + waves_short * cos, waves_long * cos - waves_short * sin
    uvw_m = np.stack([u, v, 0 * u], axis=1) * SPEED_OF_LIGHT_M_S / 150e6
    vis = np.ones((20_000, 1), complex)
    psf = make_dirty(uvw_m, np.array([150e6]), vis, None, geometry, accuracy=1e-4) / 20_000

    fwhm = 2 * np.sqrt(2 * np.log(2)) / (2 * np.pi)
    expected = RestoringBeam(fwhm / 60, fwhm / 100, np.deg2rad(long_deg + 90))
    assert_same_beam(fit_beam(psf, CELL_RAD), expected, rel=0.03)


def fringe():
    return np.cos(np.arange(N) - N // 2)[np.newaxis, :] * np.ones((N, 1))


@pytest.mark.parametrize(
    ("psf", "message"),
    [
        (gaussian(beam_of(1.0, 1.0, 0.0), 64, 64), "too few"),
        (np.zeros((N, N)), "no data"),
        (np.full((N, N), np.nan), "no data"),
        (np.ones((N, N)), "as large as the image"),
        (fringe(), "as large as the image"),
    ],
    ids=["one pixel", "zero", "nan", "flat", "one baseline"],
)
def test_what_is_no_beam_is_refused(psf, message):
    with pytest.raises(ValueError, match=message):
        fit_beam(psf, CELL_RAD)


@pytest.mark.parametrize("bpa_deg", ANGLES_DEG)
def test_a_point_becomes_the_beam(bpa_deg):
    beam = beam_of(9.0, 5.0, bpa_deg)
    model = np.zeros((N, N))
    model[N // 2, N // 2] = 2.0
    restored = convolve_with_beam(model, beam, CELL_RAD)
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, 2 * gaussian(beam, N // 2, N // 2), atol=2e-6)
    assert_same_beam(fit_beam(restored, CELL_RAD), beam, rel=1e-4)


@pytest.mark.parametrize("width_pixel", [0.7, 1.5, 2.0, 3.0])
def test_a_narrow_beam_keeps_the_peak(width_pixel):
    model = np.zeros((32, 32))
    model[10, 20] = 1.0
    restored = convolve_with_beam(model, beam_of(width_pixel, width_pixel, 0.0), CELL_RAD)
    assert restored[10, 20] == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, N - 1), (N - 1, 60), (3, 2)])
def test_nothing_wraps_round_the_border(row, column):
    beam = beam_of(30.0, 12.0, 50.0)
    model = np.zeros((N, N))
    model[row, column] = 1.0
    restored = convolve_with_beam(model, beam, CELL_RAD)
    np.testing.assert_allclose(restored, gaussian(beam, row, column), atol=1e-6)


def test_the_scale_is_the_solid_angle_of_the_beam():
    """Jy/beam summed and divided by the pixels of a beam is the flux density again."""
    beam = beam_of(8.0, 5.0, -40.0)
    model = np.zeros((N, N))
    model[40:80, 50:70] = np.random.default_rng(2).uniform(size=(40, 20))
    restored = convolve_with_beam(model, beam, CELL_RAD)
    pixels = beam.solid_angle_sr / CELL_RAD**2
    assert pixels == pytest.approx(gaussian(beam, 64, 64).sum(), rel=1e-6)
    assert restored.sum(dtype=float) / pixels == pytest.approx(model.sum(), rel=1e-5)
