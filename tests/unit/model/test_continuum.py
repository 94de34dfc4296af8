"""The continuum model: polynomials in frequency on pixels."""

import numpy as np
import pytest

from batch_imaging.model.continuum import ContinuumModel
from batch_imaging.model.direction import Direction
from batch_imaging.model.image import ImageGeometry

GEOMETRY = ImageGeometry(16, 0.01, Direction.from_degrees(30.0, -30.0))
REF_HZ = 1e8
FREQ_HZ = np.array([0.9e8, 0.95e8, 1.05e8, 1.1e8])


def planes_of(fluxes_by_pixel, n_planes):
    planes = np.zeros((n_planes, *GEOMETRY.shape), dtype=np.float32)
    for (row, column), fluxes in fluxes_by_pixel.items():
        planes[:, row, column] = fluxes
    return planes


def test_an_empty_model_has_no_flux():
    model = ContinuumModel.empty(GEOMETRY, 2, REF_HZ)
    assert len(model) == 0
    assert model.flux_jy(FREQ_HZ).shape == (0, 4)
    assert model.lmn().shape == (3, 0)
    assert not model.plane(REF_HZ).any()
    assert model.term_planes().shape == (2, 16, 16)


def test_planes_become_polynomials_in_frequency():
    x = FREQ_HZ / REF_HZ - 1
    planes = planes_of({(3, 5): 2 - 1.5 * x, (12, 4): -1 + 0.5 * x}, 4)
    model = ContinuumModel.empty(GEOMETRY, 2, REF_HZ).plus(planes, FREQ_HZ)
    assert model.pixels.tolist() == [3 * 16 + 5, 12 * 16 + 4]
    np.testing.assert_allclose(model.terms_jy, [[2, -1.5], [-1, 0.5]], atol=1e-6)
    np.testing.assert_allclose(model.flux_jy([1.2e8])[:, 0], [1.7, -0.9], atol=1e-6)
    np.testing.assert_allclose(model.plane(1.2e8)[3, 5], 1.7, atol=1e-6)
    constant, slope = model.term_planes()
    np.testing.assert_allclose([constant[12, 4], slope[12, 4]], [-1, 0.5], atol=1e-6)
    assert np.count_nonzero(constant) == np.count_nonzero(slope) == 2


def test_additions_add_up_at_every_frequency():
    x = FREQ_HZ / REF_HZ - 1
    first = planes_of({(3, 5): 2 - x, (0, 0): 1 + 0 * x}, 4)
    second = planes_of({(15, 15): 4 + x, (3, 5): 1 + 2 * x}, 4)
    model = ContinuumModel.empty(GEOMETRY, 2, REF_HZ).plus(first, FREQ_HZ).plus(second, FREQ_HZ)
    assert (np.diff(model.pixels) > 0).all()
    for plane, freq_hz in zip(first + second, FREQ_HZ, strict=True):
        np.testing.assert_allclose(model.plane(freq_hz), plane, atol=1e-6)


def test_a_single_plane_is_added_at_all_frequencies_alike():
    model = ContinuumModel.empty(GEOMETRY, 3, REF_HZ)
    model = model.plus(planes_of({(3, 5): [2.5]}, 1), FREQ_HZ[:1])
    np.testing.assert_allclose(model.flux_jy(FREQ_HZ), [[2.5] * 4], atol=1e-6)


def test_more_planes_than_terms_are_fitted_by_least_squares():
    fluxes = np.array([1.0, 1.3, 0.9, 1.1])
    model = ContinuumModel.empty(GEOMETRY, 2, REF_HZ).plus(planes_of({(7, 7): fluxes}, 4), FREQ_HZ)
    slope, constant = np.polyfit(FREQ_HZ / REF_HZ - 1, fluxes, 1)
    np.testing.assert_allclose(model.terms_jy, [[constant, slope]], atol=1e-5)


@pytest.mark.parametrize("pixel", [(0, 0), (8, 8), (3, 12), (15, 1)])
def test_pixels_stand_where_the_geometry_has_them(pixel):
    model = ContinuumModel.empty(GEOMETRY, 1, REF_HZ).plus(planes_of({pixel: [1.0]}, 1), [REF_HZ])
    l_grid, m_grid = GEOMETRY.lm_grid()
    l, m = l_grid[0, pixel[1]], m_grid[pixel[0], 0]
    expected = [[l], [m], [np.sqrt(1 - l**2 - m**2) - 1]]
    np.testing.assert_allclose(model.lmn(), expected, atol=1e-15)
