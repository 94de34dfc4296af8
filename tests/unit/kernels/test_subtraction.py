"""Polynomial fits of the continuum: exact on polynomials, honest about what cannot be fitted."""

import numpy as np
import pytest

from batch_imaging.errors import DataError
from batch_imaging.kernels.subtraction import (
    clip_lines,
    fit_polynomials,
    make_basis,
    require_channels,
    shown_channels,
    subtract_fit,
    subtract_image_continuum,
)

N_CHAN = 48
FREQ_HZ = 1.4e9 + np.cumsum(np.random.default_rng(0).uniform(1e3, 5e3, N_CHAN))
LINE = np.exp(-0.5 * ((np.arange(N_CHAN) - 25) / 2) ** 2)
LINE_FREE = LINE < 1e-6


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def continuum(rng, shape, order=2):
    x = (FREQ_HZ - FREQ_HZ.mean()) / np.ptp(FREQ_HZ)
    basis = np.vander(x, order + 1)
    terms = rng.normal(size=(*shape, order + 1)) + 1j * rng.normal(size=(*shape, order + 1))
    return terms @ basis.T


def test_a_polynomial_is_taken_out_and_the_line_stays(rng):
    vis = np.moveaxis(continuum(rng, (30, 4)), 2, 1) + LINE[:, np.newaxis]
    weight = rng.uniform(0, 1, vis.shape)
    weight[weight < 0.2] = 0
    rest = subtract_fit(vis, weight, LINE_FREE, make_basis(FREQ_HZ, 2))
    np.testing.assert_allclose(rest, np.broadcast_to(LINE[:, np.newaxis], vis.shape), atol=1e-5)


def test_weights_are_those_of_least_squares(rng):
    values = rng.normal(size=(5, N_CHAN)) + 1j * rng.normal(size=(5, N_CHAN))
    weight = rng.uniform(0.1, 2, (5, N_CHAN))
    basis = make_basis(FREQ_HZ, 3)
    fit = fit_polynomials(values, weight, LINE_FREE, basis)
    for row in range(5):
        root = np.sqrt(weight[row, LINE_FREE])
        expected, *_ = np.linalg.lstsq(
            basis[LINE_FREE] * root[:, np.newaxis], values[row, LINE_FREE] * root, rcond=None
        )
        np.testing.assert_allclose(fit.coefficients[row], expected, rtol=1e-9)


def test_a_spectrum_with_too_few_channels_becomes_blank(rng):
    vis = np.ones((2, N_CHAN, 1), dtype=np.complex64)
    weight = np.ones(vis.shape, dtype=np.float32)
    weight[1, 1:] = 0
    rest = subtract_fit(vis, weight, LINE_FREE, make_basis(FREQ_HZ, 1))
    np.testing.assert_allclose(rest[0], 0, atol=1e-6)
    assert np.isnan(rest[1]).all()


def test_what_is_flagged_does_not_count(rng):
    vis = np.ones((1, N_CHAN, 1), dtype=np.complex64)
    weight = np.ones(vis.shape, dtype=np.float32)
    vis[0, 3], weight[0, 3] = np.nan, 0
    rest = subtract_fit(vis, weight, LINE_FREE, make_basis(FREQ_HZ, 1))
    assert np.abs(np.delete(rest, 3, axis=1)).max() < 1e-6


def test_clipping_finds_the_line(rng):
    vis = np.moveaxis(continuum(rng, (200, 2)), 2, 1) + 2 * LINE[:, np.newaxis]
    vis += 0.5 * (rng.normal(size=vis.shape) + 1j * rng.normal(size=vis.shape))
    everywhere = np.ones(N_CHAN, dtype=bool)
    weight = np.ones(vis.shape, dtype=np.float32)
    weight[:, 5] = 0
    basis = make_basis(FREQ_HZ, 2)
    left = clip_lines(vis, weight, everywhere, basis, 5.0, "a.ms")
    assert not left[LINE > 0.2].any()
    assert not left[5]
    assert np.count_nonzero(left[LINE < 1e-3]) >= np.count_nonzero(LINE < 1e-3) - 3


def test_too_few_channels_are_named():
    few = np.zeros(N_CHAN, dtype=bool)
    few[[3, 4, 9]] = True
    with pytest.raises(DataError, match=r"a\.ms: only 3 of 48 channels .*3~4, 9~9.* needs 4"):
        require_channels(few, 3, "a.ms")
    with pytest.raises(DataError, match=r"a\.ms: all 48 channels"):
        require_channels(few & False, 0, "a.ms")
    require_channels(few, 2, "a.ms")


def test_clipping_of_flagged_data_is_refused(rng):
    vis = np.zeros((3, N_CHAN, 1), dtype=complex)
    with pytest.raises(DataError, match="all 48 channels"):
        clip_lines(vis, vis.real, LINE_FREE, make_basis(FREQ_HZ, 1), 5.0, "a.ms")


def test_shown_channels():
    assert shown_channels(np.array([True, True, False, True])) == "0~1, 3~3"
    assert shown_channels(np.zeros(3, dtype=bool)) == ""


def test_pixels_of_a_cube(rng):
    cube = continuum(rng, (6, 5)).real.transpose(2, 0, 1) + LINE[:, np.newaxis, np.newaxis]
    cube[7] = np.nan
    cube[1:, 2, 2] = np.nan
    rest = subtract_image_continuum(cube, FREQ_HZ, LINE_FREE, 2)
    assert np.isnan(rest[7]).all()
    assert np.isnan(rest[:, 2, 2]).all()
    good = np.isfinite(rest)
    assert np.count_nonzero(good) == (N_CHAN - 1) * (6 * 5 - 1)
    np.testing.assert_allclose((rest - LINE[:, np.newaxis, np.newaxis])[good], 0, atol=1e-6)


def test_a_blank_cube_is_refused():
    with pytest.raises(DataError, match="the cube: all 48 channels"):
        subtract_image_continuum(np.full((N_CHAN, 2, 2), np.nan), FREQ_HZ, LINE_FREE, 1)
