"""Visibilities of points and Gaussians against sums written out, in extended precision."""

import numpy as np
import pytest

from batch_imaging.kernels.components import factor_baselines, predict_gaussian, predict_points
from batch_imaging.model.beam import FWHM_PER_SIGMA, SPEED_OF_LIGHT_M_S

N_STATIONS, N_TIMES = 12, 3
FREQ_HZ = np.array([50e6, 100e6, 350e6])
PAIRS = np.triu_indices(N_STATIONS, 1)


def rows_of(pairs, rng):
    """Station coordinates (time, station, 3) of a kilometre, and the rows of ``pairs``."""
    stations = rng.normal(scale=500.0, size=(N_TIMES, N_STATIONS, 3))
    p, q = (np.tile(np.asarray(half, dtype=np.int32), N_TIMES) for half in pairs)
    time_mjd_s = np.repeat(5.1e9 + 10.0 * np.arange(N_TIMES), len(pairs[0]))
    which = np.repeat(np.arange(N_TIMES), len(pairs[0]))
    return stations[which, q] - stations[which, p], time_mjd_s, p, q


def wide_field(n, rng):
    """(3, n) direction cosines up to 40° from the centre."""
    l, m = rng.uniform(-0.45, 0.45, (2, n))
    return np.stack([l, m, np.sqrt(1 - l**2 - m**2) - 1])


def direct_sum(uvw_m, freq_hz, lmn, flux_jy):
    turns = np.asarray(uvw_m, np.longdouble) @ np.asarray(lmn, np.longdouble)
    phase = 2 * np.arccos(np.longdouble(-1)) * turns / SPEED_OF_LIGHT_M_S
    return np.stack(
        [
            (np.exp(-1j * phase * freq) * flux_jy[:, chan]).sum(axis=1)
            for chan, freq in enumerate(freq_hz)
        ],
        axis=1,
    )


UNORDERED = tuple(np.where(np.arange(66) % 2, *halves) for halves in (PAIRS, PAIRS[::-1]))


@pytest.mark.parametrize("pairs", [PAIRS, UNORDERED], ids=["p < q", "both orders"])
@pytest.mark.parametrize("signs", ["positive", "mixed", "negative"])
@pytest.mark.parametrize(("double", "error"), [(True, 1e-12), (False, 1e-6)])
def test_points_agree_with_the_direct_sum(double, error, signs, pairs):
    rng = np.random.default_rng(5)
    uvw_m, *rows = rows_of(pairs, rng)
    lmn, flux_jy = wide_field(40, rng), rng.exponential(size=(40, 3))
    if signs != "positive":  # CLEAN makes negative ones too
        flux_jy[:: 1 if signs == "negative" else 3] *= -1
    factors = factor_baselines(uvw_m, *rows, N_STATIONS, 1e-6)
    found = predict_points(factors, FREQ_HZ, lmn, flux_jy, double=double)
    truth = direct_sum(uvw_m, FREQ_HZ, lmn, flux_jy)
    assert found.dtype == (np.complex128 if double else np.complex64)
    assert np.abs(found - truth).max() < error * np.abs(flux_jy).sum(axis=0).max()


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["u", "v", "w"])
def test_a_wrong_sign_does_not_pass(axis):
    rng = np.random.default_rng(6)
    uvw_m, *rows = rows_of(PAIRS, rng)
    lmn, flux_jy = wide_field(2, rng), np.ones((2, 3))
    turned = uvw_m * np.where(np.arange(3) == axis, -1, 1)
    factors = factor_baselines(turned, *rows, N_STATIONS, 1e-6)
    found = predict_points(factors, FREQ_HZ, lmn, flux_jy)
    assert np.abs(found - direct_sum(uvw_m, FREQ_HZ, lmn, flux_jy)).max() > 0.5


def test_more_components_than_fit_at_a_time():
    rng = np.random.default_rng(7)
    uvw_m, *rows = rows_of(([0, 1, 0], [1, 2, 2]), rng)
    lmn, flux_jy = wide_field(5000, rng), rng.exponential(size=(5000, 1))
    factors = factor_baselines(uvw_m, *rows, 3, 1e-6)
    found = predict_points(factors, FREQ_HZ[:1], lmn, flux_jy)
    truth = direct_sum(uvw_m, FREQ_HZ[:1], lmn, flux_jy)
    assert np.abs(found - truth).max() < 1e-12 * flux_jy.sum()


def test_no_components_give_zero():
    uvw_m, *rows = rows_of(PAIRS, np.random.default_rng(8))
    factors = factor_baselines(uvw_m, *rows, N_STATIONS, 1e-6)
    found = predict_points(factors, FREQ_HZ, np.empty((3, 0)), np.empty((0, 3)))
    assert found.shape == (len(uvw_m), 3)
    assert not found.any()


CHAIN = (np.arange(11), np.arange(1, 12))
STAR = (np.zeros(11, int), np.arange(1, 12))
SOME = tuple(half[np.random.default_rng(9).permutation(66)[:30]] for half in PAIRS)
LONE_STATIONS = tuple(half[(PAIRS[0] > 1) & (PAIRS[1] < 11)] for half in PAIRS)
TWO_ARRAYS = tuple(half[(PAIRS[0] < 5) == (PAIRS[1] < 5)] for half in PAIRS)


@pytest.mark.parametrize(
    "pairs",
    [PAIRS, CHAIN, STAR, SOME, UNORDERED, LONE_STATIONS, TWO_ARRAYS],
    ids=["all", "chain", "star", "gaps", "both orders", "lone stations", "two arrays"],
)
def test_stations_are_found_from_any_set_of_baselines(pairs):
    rng = np.random.default_rng(10)
    uvw_m, time_mjd_s, p, q = rows_of(pairs, rng)
    factors = factor_baselines(uvw_m, time_mjd_s, p, q, N_STATIONS, 1e-9)
    assert factors is not None
    np.testing.assert_array_equal(factors.starts, len(pairs[0]) * np.arange(N_TIMES + 1))
    which = np.repeat(np.arange(N_TIMES), len(pairs[0]))
    again = factors.station_uvw_m[which, q] - factors.station_uvw_m[which, p]
    np.testing.assert_allclose(again, uvw_m, atol=1e-10, rtol=0)


def test_integrations_may_hold_different_baselines():
    rng = np.random.default_rng(11)
    uvw_m, *rows = rows_of(PAIRS, rng)
    kept = rng.uniform(size=len(uvw_m)) > 0.4
    uvw_m, rows = uvw_m[kept], [row[kept] for row in rows]
    factors = factor_baselines(uvw_m, *rows, N_STATIONS, 1e-9)
    lmn, flux_jy = wide_field(5, rng), np.ones((5, 3))
    found = predict_points(factors, FREQ_HZ, lmn, flux_jy)
    assert np.abs(found - direct_sum(uvw_m, FREQ_HZ, lmn, flux_jy)).max() < 1e-12 * 5


@pytest.mark.parametrize("wrong_m", [2e-3, np.nan])
@pytest.mark.parametrize("row", [0, -1])
def test_rows_that_no_stations_make_are_refused(row, wrong_m):
    uvw_m, *rows = rows_of(PAIRS, np.random.default_rng(12))
    assert factor_baselines(uvw_m, *rows, N_STATIONS, 1e-3) is not None
    uvw_m[row, 2] += wrong_m
    assert factor_baselines(uvw_m, *rows, N_STATIONS, 1e-3) is None


@pytest.mark.parametrize("pa_deg", [0.0, 30.0, 90.0, 135.0, -60.0])
def test_a_gaussian_is_many_points(pa_deg):
    """Points laid out along and across the position angle, at their true n, far from the centre."""
    rng = np.random.default_rng(13)
    uvw_m = rng.normal(scale=400.0, size=(200, 3))
    l0, m0 = 0.2, -0.3
    bmaj_rad, bmin_rad, pa_rad = 1.5e-3, 0.6e-3, np.deg2rad(pa_deg)

    grid = np.linspace(-6, 6, 61)  # in standard deviations
    along, across = np.meshgrid(grid, grid)
    flux = np.exp(-(along**2 + across**2) / 2).ravel()
    along, across = along.ravel() * bmaj_rad, across.ravel() * bmin_rad
    # From north (m) over east (l).
    l = l0 + (along * np.sin(pa_rad) + across * np.cos(pa_rad)) / FWHM_PER_SIGMA
    m = m0 + (along * np.cos(pa_rad) - across * np.sin(pa_rad)) / FWHM_PER_SIGMA
    lmn = np.stack([l, m, np.sqrt(1 - l**2 - m**2) - 1])
    spectrum_jy = np.array([3.0, 2.0])
    truth = direct_sum(uvw_m, FREQ_HZ[:2], lmn, np.outer(flux / flux.sum(), spectrum_jy))

    centre = np.array([l0, m0, np.sqrt(1 - l0**2 - m0**2) - 1])
    widths_rad = (bmaj_rad, bmin_rad, pa_rad)
    found = predict_gaussian(uvw_m, FREQ_HZ[:2], centre, spectrum_jy, widths_rad)
    assert np.abs(truth).min() < 2.0  # resolved, or nothing is tested
    # What is left is the curvature of the sky across the source: π w σ²/λ turns.
    np.testing.assert_allclose(found, truth, atol=2e-3)
    turned = predict_gaussian(
        uvw_m, FREQ_HZ[:2], centre, spectrum_jy, (bmaj_rad, bmin_rad, -pa_rad + 0.5)
    )
    assert np.abs(turned - truth).max() > 0.05
