"""Imaging weights: what each scheme does to uv cells, to the psf, to the noise, to the flux."""

from itertools import pairwise

import numpy as np
import pytest

from batch_imaging.kernels.gridding import make_dirty
from batch_imaging.kernels.weighting import make_imaging_weight, sum_weight_density
from batch_imaging.model.beam import SPEED_OF_LIGHT_M_S
from batch_imaging.model.direction import Direction
from batch_imaging.model.image import ImageGeometry

GEOMETRY = ImageGeometry(npixel=64, cell_rad=2e-3, phase_centre=Direction(0.0, -0.5))
FREQ_HZ = np.array([100e6, 110e6])


@pytest.fixture(scope="module")
def uvw_m():
    """(4000, 3) metres: a dense core and a thin outskirt, all within the grid of 750 m."""
    rng = np.random.default_rng(1)
    radius_m = rng.uniform(size=4000) ** 2 * 600
    angle = rng.uniform(0, 2 * np.pi, 4000)
    return np.stack([radius_m * np.cos(angle), radius_m * np.sin(angle), 0 * angle], axis=1)


@pytest.fixture(scope="module")
def weight():
    """(4000, 2) 1/Jy², some of them flagged."""
    rng = np.random.default_rng(2)
    weight = rng.uniform(0.5, 2.0, (4000, 2)).astype(np.float32)
    weight[rng.uniform(size=weight.shape) < 0.1] = 0.0
    return weight


@pytest.fixture(scope="module")
def density(uvw_m, weight):
    return sum_weight_density(uvw_m, FREQ_HZ, weight, GEOMETRY)


@pytest.fixture
def weigh(uvw_m, weight, density):
    """Imaging weights by scheme and robustness."""
    return lambda scheme, robust=0.0: make_imaging_weight(
        uvw_m, FREQ_HZ, weight, GEOMETRY, scheme, robust, density
    )


def relative_noise(imaging_weight, weight):
    """Noise of Σ w V / Σ w where each V has variance 1/weight, over the least there can be."""
    used = weight > 0
    variance = (imaging_weight[used].astype(float) ** 2 / weight[used]).sum()
    variance /= imaging_weight.sum(dtype=float) ** 2
    return np.sqrt(variance * weight.sum(dtype=float))


def mean_square_baseline(imaging_weight, uvw_m):
    """Weighted mean of u² + v², the curvature of the peak of the psf: large where it is narrow."""
    waves2 = np.outer((uvw_m[:, :2] ** 2).sum(axis=1), (FREQ_HZ / SPEED_OF_LIGHT_M_S) ** 2)
    return np.average(waves2, weights=imaging_weight)


def test_natural_keeps_the_weights(weigh, weight):
    np.testing.assert_array_equal(weigh("natural"), weight)


def test_uniform_gives_every_occupied_cell_the_same(weigh, uvw_m, weight):
    cell_waves = 1 / (GEOMETRY.npixel * GEOMETRY.cell_rad)
    imaging_weight = weigh("uniform")
    totals = {}
    for row, (u_m, v_m, _) in enumerate(uvw_m):
        for chan, freq in enumerate(FREQ_HZ):
            scale = freq / SPEED_OF_LIGHT_M_S / cell_waves
            column, line = round(u_m * scale), round(v_m * scale)
            cell = max((column, line), (-column, -line))  # one name for a cell and its mirror
            totals.setdefault(cell, []).append(imaging_weight[row, chan])
    occupied = [sum(values) for values in totals.values() if any(values)]
    assert len(occupied) > 200
    np.testing.assert_allclose(occupied, 1.0, rtol=1e-5)
    assert not imaging_weight[weight == 0].any()


def test_robust_goes_from_uniform_to_natural(weigh, uvw_m, weight):
    sweep = [weigh("robust", robust) for robust in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    noises = [relative_noise(w, weight) for w in sweep]
    sharpness = [mean_square_baseline(w, uvw_m) for w in sweep]
    assert all(a > b for a, b in pairwise(noises))
    assert all(a > b for a, b in pairwise(sharpness))

    uniform, natural = weigh("uniform"), weigh("natural")
    assert noises[0] == pytest.approx(relative_noise(uniform, weight), rel=1e-2)
    assert sharpness[0] == pytest.approx(mean_square_baseline(uniform, uvw_m), rel=1e-2)
    assert noises[-1] == pytest.approx(1.0, rel=1e-2)
    assert sharpness[-1] == pytest.approx(mean_square_baseline(natural, uvw_m), rel=5e-2)


def test_robust_follows_briggs(weigh, weight, density):
    """w / (1 + W f²), f² = (5·10^−R)² / (Σ W² / Σ w), in a cell of known density."""
    robust = 0.5
    f2 = (5 * 10**-robust) ** 2 / ((density**2).sum() / weight.sum(dtype=float))
    used = weight > 0
    local = weight[used] / weigh("uniform")[used]
    expected = weight[used] / (1 + local * f2)
    np.testing.assert_allclose(weigh("robust", robust)[used], expected, rtol=1e-5)


def test_a_baseline_and_its_mirror_share_a_cell(uvw_m, weight):
    on_the_axes = np.array(
        [[100.0, 0.0, 0.0], [-100.0, 0.3, 0.0], [0.0, 50.0, 0.0], [0.0, 0.0, 0.0]]
    )
    for uvw, wgt in ((uvw_m, weight), (on_the_axes, np.ones((4, 2), np.float32))):
        there = sum_weight_density(uvw, FREQ_HZ, wgt, GEOMETRY)
        back = sum_weight_density(-uvw, FREQ_HZ, wgt, GEOMETRY)
        np.testing.assert_allclose(back, there)
    assert np.count_nonzero(there[0]) == 3  # (0, 0) and, in two channels, (100, 0)


def test_density_adds_up_over_blocks_and_holds_all_weight(uvw_m, weight, density):
    parts = [slice(None, 1500), slice(1500, None)]
    total = sum(sum_weight_density(uvw_m[p], FREQ_HZ, weight[p], GEOMETRY) for p in parts)
    np.testing.assert_allclose(total, density)
    assert density.sum() == pytest.approx(weight.sum(dtype=float))


@pytest.mark.parametrize("scheme", ["natural", "uniform", "robust"])
def test_a_point_source_keeps_its_flux(weigh, uvw_m, scheme):
    row, column = 40, 21
    l, m = (GEOMETRY.lm_grid()[0][0, column], GEOMETRY.lm_grid()[1][row, 0])
    phase = np.outer(uvw_m[:, :2] @ [l, m], FREQ_HZ / SPEED_OF_LIGHT_M_S)
    vis = 2.5 * np.exp(-2j * np.pi * phase)
    wgt = weigh(scheme)
    dirty = make_dirty(uvw_m, FREQ_HZ, vis, wgt, GEOMETRY, accuracy=1e-6) / wgt.sum(dtype=float)
    assert np.unravel_index(dirty.argmax(), dirty.shape) == (row, column)
    assert dirty.max() == pytest.approx(2.5, rel=1e-5)


@pytest.mark.parametrize("scheme", ["natural", "uniform", "robust"])
def test_flagged_data_weigh_nothing(uvw_m, scheme):
    nothing = np.zeros((4000, 2), np.float32)
    density = sum_weight_density(uvw_m, FREQ_HZ, nothing, GEOMETRY)
    wgt = make_imaging_weight(uvw_m, FREQ_HZ, nothing, GEOMETRY, scheme, 0.0, density)
    assert not wgt.any()
