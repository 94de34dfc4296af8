"""CLEAN with exact residuals between its calls, on dirty images that the gridder made."""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from batch_imaging.kernels.deconvolution import CleanSettings, choose_scales, deconvolve
from batch_imaging.kernels.gridding import make_dirty, predict_image
from batch_imaging.model.direction import Direction
from batch_imaging.model.image import ImageGeometry

GEOMETRY = ImageGeometry(npixel=128, cell_rad=1e-3, phase_centre=Direction(0.0, -0.5))
FREQ_HZ = 100e6 + 10e6 * np.arange(4)
EDGES_HZ = np.stack([FREQ_HZ - 5e6, FREQ_HZ + 5e6], axis=1)
BEAM_RAD = 7.5e-3  # full width of the transform of Gaussian baselines of 130 m at 115 MHz
POINTS = CleanSettings(
    scales_pixel=(), n_terms=0, gain=0.1, major_gain=0.8, threshold_jy=1e-3, max_iterations=2000
)


class Telescope:
    """Random baselines up to 400 m, the same for each plane: an exact major cycle."""

    def __init__(self, n_planes):
        rng = np.random.default_rng(1)
        self.uvw_m = rng.normal(size=(3000, 3)) * [130.0, 130.0, 40.0]
        self.n_planes = n_planes
        self.psf = self._images(lambda freq: np.ones((3000, 1), complex))

    def _images(self, vis_at):
        planes = (
            make_dirty(self.uvw_m, freq, vis_at(freq), None, GEOMETRY, accuracy=1e-5)
            for freq in FREQ_HZ[: self.n_planes, np.newaxis]
        )
        return np.stack(list(planes)).astype(np.float32) / 3000

    def observe(self, sky):
        """Return the dirty images of (plane, npixel, npixel) Jy/pixel."""
        plane_of = dict(zip(FREQ_HZ, sky, strict=False))
        return self._images(
            lambda freq: predict_image(self.uvw_m, freq, plane_of[freq[0]], GEOMETRY, accuracy=1e-5)
        )

    def clean(self, sky, settings, n_major=8):
        """Return the model and the residual after some major cycles."""
        dirty = residual = self.observe(sky)
        model = np.zeros_like(dirty)
        weight = np.ones(self.n_planes)
        for _ in range(n_major):
            edges = EDGES_HZ[: self.n_planes]
            result = deconvolve(
                residual, self.psf, edges, weight, GEOMETRY.cell_rad, BEAM_RAD, settings
            )
            model += result.components
            residual = dirty - self.observe(model)
        return model, residual


@pytest.fixture(scope="module")
def one_plane():
    return Telescope(1)


@pytest.fixture(scope="module")
def four_planes():
    return Telescope(4)


def point(row, column, flux_jy):
    """(plane, npixel, npixel) with one source of flux density (plane,)."""
    sky = np.zeros((len(flux_jy), *GEOMETRY.shape))
    sky[:, row, column] = flux_jy
    return sky


@pytest.mark.parametrize("scales_pixel", [(), (0, 4)], ids=["points", "scales"])
def test_a_point_off_the_centre_is_found(one_plane, scales_pixel):
    settings = replace(POINTS, scales_pixel=scales_pixel)
    model, residual = one_plane.clean(point(90, 31, [2.0]), settings)
    assert model[0, 90, 31] == pytest.approx(2.0, abs=2 * POINTS.threshold_jy)
    assert np.abs(residual).max() < 2 * POINTS.threshold_jy


def test_each_plane_keeps_its_own_flux(four_planes):
    flux_jy = np.array([1.0, 3.0, 0.5, 2.0])
    model, residual = four_planes.clean(point(40, 80, flux_jy), POINTS)
    np.testing.assert_allclose(model[:, 40, 80], flux_jy, atol=5e-3)
    assert np.abs(residual).max() < 5e-3


@pytest.mark.parametrize("scales_pixel", [(), (0, 4)], ids=["points", "scales"])
def test_two_terms_follow_a_linear_spectrum(four_planes, scales_pixel):
    flux_jy = 2.0 - 0.8 * (FREQ_HZ / 115e6 - 1)
    settings = replace(POINTS, scales_pixel=scales_pixel, n_terms=2)
    model, _ = four_planes.clean(point(70, 50, flux_jy), settings)
    np.testing.assert_allclose(model[:, 70, 50], flux_jy, atol=5e-3)


def test_two_terms_hold_components_to_a_line(four_planes):
    """Components lie on a straight line even where the source does not."""
    flux_jy = np.array([1.0, 1.4, 1.4, 1.0])
    settings = replace(POINTS, n_terms=2)
    model, _ = four_planes.clean(point(70, 50, flux_jy), settings, n_major=1)
    found = model[:, 70, 50]
    assert found.mean() > 0.7
    np.testing.assert_allclose(np.diff(found, 2), 0.0, atol=1e-5)


def test_weights_of_planes_decide_the_joint_fit(four_planes):
    """A plane without weight does not move the line that the others lie on."""
    flux_jy = np.array([1.0, 1.2, 1.4, 9.0])
    dirty = four_planes.observe(point(64, 64, flux_jy))
    settings = replace(POINTS, n_terms=2)
    weight = np.array([1.0, 1.0, 1.0, 1e-6])
    found = deconvolve(
        dirty, four_planes.psf, EDGES_HZ, weight, GEOMETRY.cell_rad, BEAM_RAD, settings
    ).components[:, 64, 64]
    np.testing.assert_allclose(found / found[0], [1.0, 1.2, 1.4, 1.6], rtol=2e-3)


def test_scales_recover_an_extended_source(one_plane):
    offset = np.arange(128) - 64
    profile = np.exp(-(((offset - 10) / 5.0) ** 2) / 2)
    sky = np.outer(profile, np.roll(profile, -25))[np.newaxis]
    sky *= 20.0 / sky.sum()
    settings = replace(POINTS, scales_pixel=(0, 6, 15), threshold_jy=5e-3)
    model, residual = one_plane.clean(sky, settings)
    assert model.sum() == pytest.approx(20.0, rel=0.02)
    assert np.abs(residual).max() < 0.02 * np.abs(one_plane.observe(sky)).max()


def test_scales_count_where_they_find_more_than_points(one_plane):
    offset = np.arange(128) - 64
    disc = (np.hypot(offset[:, np.newaxis], offset + 20) < 12)[np.newaxis] * 0.05
    scales = (0, 12, 25)
    for flux_jy, sky, found in ((5.0, 0.0, (0,)), (0.0, disc, scales), (0.01, disc, scales)):
        dirty = one_plane.observe(point(30, 90, [flux_jy]) + sky)
        assert choose_scales(dirty[0], one_plane.psf[0], scales) == found
    assert choose_scales(np.zeros_like(dirty[0]), one_plane.psf[0], scales) == (0,)


def test_arguments_are_left_alone_and_iterations_counted(one_plane):
    dirty = one_plane.observe(point(64, 70, [1.0]))
    given = dirty.copy(), one_plane.psf.copy()
    settings = replace(POINTS, max_iterations=7, major_gain=1.0)
    result = deconvolve(
        dirty, one_plane.psf, EDGES_HZ[:1], np.ones(1), GEOMETRY.cell_rad, BEAM_RAD, settings
    )
    np.testing.assert_array_equal(dirty, given[0])
    np.testing.assert_array_equal(one_plane.psf, given[1])
    assert result.iterations == 7
    # Seven times a tenth of what is left.
    assert result.components.sum() == pytest.approx(1 - 0.9**7, rel=1e-3)


def test_below_the_threshold_nothing_is_cleaned(one_plane):
    dirty = one_plane.observe(point(64, 70, [1.0]))
    settings = replace(POINTS, threshold_jy=1.5)
    result = deconvolve(
        dirty, one_plane.psf, EDGES_HZ[:1], np.ones(1), GEOMETRY.cell_rad, BEAM_RAD, settings
    )
    assert not result.components.any()


def test_nothing_is_printed(four_planes, capfd):
    settings = replace(POINTS, scales_pixel=(0, 4), n_terms=2)
    four_planes.clean(point(70, 50, np.ones(4)), settings, n_major=1)
    ctypes.CDLL(None).fflush(None)  # nor left in a buffer of C
    print("ours")
    assert capfd.readouterr() == ("ours\n", "")


def test_threads_may_clean_at_the_same_time(one_plane, capfd):
    sky = point(90, 31, [2.0])
    with ThreadPoolExecutor(4) as pool:
        models = [model for model, _ in pool.map(lambda _: one_plane.clean(sky, POINTS), range(8))]
    for model in models[1:]:
        np.testing.assert_array_equal(model, models[0])
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr() == ("", "")
