"""Prediction of many components and images against sums written out here."""

import numpy as np
import pytest

from batch_imaging.kernels import prediction
from batch_imaging.kernels.components import factor_baselines, predict_gaussian
from batch_imaging.kernels.prediction import (
    Components,
    cost_of_degridding_s,
    cost_of_planes_s,
    cost_of_product_s,
    predict_components,
    predict_planes,
)
from batch_imaging.model.direction import Direction
from batch_imaging.model.image import ImageGeometry

SPEED_OF_LIGHT_M_S = 299_792_458.0
FREQ_HZ = 150e6 + np.array([0, 1e5, 5e5, 2e6, 9e6])
N_STATIONS, N_TIMES = 15, 3


@pytest.fixture(scope="module")
def rows():
    """uvw_m, the factors, and the direct sum over points."""
    rng = np.random.default_rng(5)
    stations_m = rng.uniform(-400, 400, (N_TIMES, N_STATIONS, 3))
    first, second = (a.astype(np.int32) for a in np.triu_indices(N_STATIONS, 1))
    uvw_m = (stations_m[:, second] - stations_m[:, first]).reshape(-1, 3)
    times = np.repeat(np.arange(float(N_TIMES)), len(first))
    antennas = np.tile(first, N_TIMES), np.tile(second, N_TIMES)
    return uvw_m, factor_baselines(uvw_m, times, *antennas, N_STATIONS, 1e-6)


def components(n=300, n_gaussians=0) -> Components:
    rng = np.random.default_rng(8)
    l, m = rng.uniform(-0.06, 0.06, (2, n))
    flux_jy = rng.normal(0, 1, (n, 1)) * (FREQ_HZ / 150e6) ** rng.normal(-0.7, 0.3, (n, 1))
    widths_rad = np.zeros((n, 3))
    widths_rad[:n_gaussians] = rng.uniform((1e-3, 1e-4, 0), (2e-3, 9e-4, 3), (n_gaussians, 3))
    return Components(np.stack([l, m, np.sqrt(1 - l**2 - m**2) - 1]), flux_jy, widths_rad)


def direct_sum(sky, uvw_m):
    turns = (uvw_m @ sky.lmn)[:, np.newaxis, :] * (FREQ_HZ[:, np.newaxis] / SPEED_OF_LIGHT_M_S)
    return (sky.flux_jy.T * np.exp(-2j * np.pi * turns)).sum(axis=2)


@pytest.mark.parametrize("way", ["product", "degrid"])
def test_points_are_the_direct_sum(rows, way):
    sky = components()
    vis = predict_components(sky, rows[0], FREQ_HZ, rows[1], way)
    error = np.abs(vis - direct_sum(sky, rows[0])).max()
    assert error < 1e-6 * np.abs(sky.flux_jy).sum(axis=0).max()


@pytest.mark.parametrize("most_cells", [5e7, 0])
def test_rows_that_are_no_differences_of_stations(rows, monkeypatch, most_cells):
    monkeypatch.setattr(prediction, "_MOST_CELLS", most_cells)
    sky = components()
    vis = predict_components(sky, rows[0], FREQ_HZ, None, "product")
    np.testing.assert_allclose(vis, direct_sum(sky, rows[0]), atol=1e-4)


@pytest.mark.parametrize("way", ["product", "degrid"])
def test_gaussians_are_analytic(rows, way):
    sky = components(6, 4)
    vis = predict_components(sky, rows[0], FREQ_HZ, rows[1], way)
    expected = direct_sum(sky.select(~sky.extended), rows[0])
    for k in np.flatnonzero(sky.extended):
        widths_rad = tuple(sky.widths_rad[k])
        expected += predict_gaussian(rows[0], FREQ_HZ, sky.lmn[:, k], sky.flux_jy[k], widths_rad)
    assert np.abs(vis - expected).max() < 3e-6 * np.abs(sky.flux_jy).sum(axis=0).max()


@pytest.mark.parametrize("way", ["product", "degrid"])
def test_nothing_gives_zero(rows, way):
    vis = predict_components(components(0), rows[0], FREQ_HZ, rows[1], way)
    np.testing.assert_array_equal(vis, np.zeros((len(rows[0]), len(FREQ_HZ))))


def test_planes_are_interpolated_in_frequency(rows):
    geometry = ImageGeometry(64, 2e-3, Direction(0.0, 0.0))
    planes = np.zeros((2, 64, 64), dtype=np.float32)
    planes[0, 20, 30], planes[1, 50, 11] = 2.0, 3.0
    shares = np.stack([np.linspace(1, 0, 5), np.linspace(0, 1, 5)], axis=1)
    vis = predict_planes(planes, shares, geometry, rows[0], FREQ_HZ)
    l, m = -np.array([-2, -21]) * 2e-3, np.array([-12, 18]) * 2e-3
    lmn = np.stack([l, m, np.sqrt(1 - l**2 - m**2) - 1])
    sky = Components(lmn, (shares * [2.0, 3.0]).T, np.zeros((2, 3)))
    np.testing.assert_allclose(vis, direct_sum(sky, rows[0]), atol=2e-6)


def test_costs_choose_by_size():
    few, many = (cost_of_product_s(n, 0, 10_000, 64, 64, 5) for n in (10, 100_000))
    assert few < cost_of_planes_s(2048, 1, 640_000) < many
    small = cost_of_degridding_s(components(), np.array([500.0, 500, 50]), FREQ_HZ, 10_000)
    assert small < cost_of_product_s(100_000, 0, 10_000, 64, 64, 5)
    assert cost_of_degridding_s(components(), np.full(3, 1e6), FREQ_HZ, 10_000) == np.inf
