"""Gains put into visibilities come out again: exactly, or as exactly as the noise lets them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_imaging.kernels.gains import (
    NormalMatrices,
    baseline_gains,
    solve_gains,
    sum_normal_matrices,
)


def pairs_of(n_stations):
    p, q = np.triu_indices(n_stations, 1)
    return p.astype(np.int32), q.astype(np.int32)


def draw_complex(rng, *shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def draw_gains(rng, shape, *, phase_only, phase_rad=1.0):
    amplitude = 1.0 if phase_only else rng.uniform(0.5, 2.0, shape)
    return amplitude * np.exp(1j * rng.uniform(-phase_rad, phase_rad, shape))


def corrupt(model, gain, antennas):
    """V = g_p g_q* M, written out; ``gain`` is (solution, station)."""
    vis = np.empty_like(model)
    for row, (p, q) in enumerate(zip(*antennas, strict=True)):
        for solution in range(model.shape[1]):
            factor = gain[solution, p] * np.conj(gain[solution, q])
            vis[row, solution] = factor * model[row, solution]
    return vis


def referenced(gain):
    """The same gains with the phase of station 0 taken from all."""
    return gain * np.exp(-1j * np.angle(gain[:, :1]))


@pytest.mark.parametrize("phase_only", [True, False])
def test_known_gains_come_back_to_machine_precision(phase_only):
    rng = np.random.default_rng(1)
    antennas = pairs_of(15)
    gain = draw_gains(rng, (4, 15), phase_only=phase_only)
    model = draw_complex(rng, len(antennas[0]), 4, 6)
    weight = rng.uniform(0.5, 2.0, model.shape)
    matrices = sum_normal_matrices(corrupt(model, gain, antennas), model, weight, antennas, 15)
    found = solve_gains(matrices, np.ones((4, 15), complex), phase_only=phase_only, tolerance=1e-14)
    assert found.converged
    np.testing.assert_allclose(found.gain, referenced(gain), atol=1e-12)
    assert np.abs(np.angle(found.gain[:, 0])).max() < 1e-15
    if phase_only:
        np.testing.assert_allclose(np.abs(found.gain), 1.0, atol=1e-14)


def test_conjugate_gains_are_not_a_solution():
    """Were the gains applied the wrong way round, their phases would come back reversed."""
    rng = np.random.default_rng(2)
    antennas = pairs_of(10)
    gain = draw_gains(rng, (1, 10), phase_only=True)
    model = np.ones((len(antennas[0]), 1, 1), dtype=complex)
    vis = corrupt(model, gain.conj(), antennas)
    matrices = sum_normal_matrices(vis, model, np.ones(model.shape), antennas, 10)
    found = solve_gains(matrices, np.ones((1, 10), complex), phase_only=True).gain
    np.testing.assert_allclose(found, referenced(gain).conj(), atol=1e-6)
    assert np.abs(found - referenced(gain)).max() > 0.1


def test_baseline_gains_undo_what_corrupted():
    rng = np.random.default_rng(3)
    antennas = pairs_of(6)
    gain = draw_gains(rng, (1, 6), phase_only=False)
    model = draw_complex(rng, 15, 1, 2)
    corrected = corrupt(model, gain, antennas)[:, 0] / baseline_gains(gain.T, *antennas)
    np.testing.assert_allclose(corrected, model[:, 0], rtol=1e-14)


@pytest.mark.parametrize("n_samples", [1, 16])
def test_phase_errors_are_at_the_thermal_limit(n_samples):
    """σ_φ = σ / (S √(2 N K)) · √(1 − 1/N) about the mean phase of N stations.

    One sample of a point source S with complex noise E|n|² = σ² measures φ_p − φ_q with variance
    σ²/2S²; K samples and the least-squares inverse of N I − 1 1ᵀ, all N(N − 1)/2 baselines, give
    the covariance σ²/(2 S² K N) (I − 1 1ᵀ/N) of station phases about their mean.
    """
    rng = np.random.default_rng(4)
    n_stations, n_solutions, flux_jy, sigma_jy = 25, 60, 10.0, 1.5
    antennas = pairs_of(n_stations)
    gain = draw_gains(rng, (n_solutions, n_stations), phase_only=True)
    model = np.full((len(antennas[0]), n_solutions, n_samples), flux_jy, dtype=complex)
    noise = draw_complex(rng, *model.shape) * sigma_jy / np.sqrt(2)
    vis = corrupt(model, gain, antennas) + noise
    matrices = sum_normal_matrices(vis, model, np.ones(vis.shape), antennas, n_stations)
    found = solve_gains(matrices, np.ones_like(gain), phase_only=True).gain

    error = np.angle(found / gain * np.exp(-1j * np.angle((found / gain).mean(axis=1)))[:, None])
    expected = sigma_jy / flux_jy / np.sqrt(2 * n_stations * n_samples)
    expected *= np.sqrt(1 - 1 / n_stations)
    assert np.sqrt((error**2).mean()) == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("phase_only", [True, False])
def test_stations_without_data_keep_gain_one_and_weight_zero(phase_only):
    rng = np.random.default_rng(5)
    antennas = pairs_of(8)
    gain = draw_gains(rng, (2, 8), phase_only=phase_only)
    model = draw_complex(rng, 28, 2, 3)
    vis = corrupt(model, gain, antennas)
    dead = (antennas[0] == 0) | (antennas[1] == 5)
    weight = np.where(dead[:, None, None], 0.0, np.ones(model.shape))
    weight[(antennas[0] == 5)] = 0.0
    vis[dead] = 1e6  # flagged samples may hold anything
    matrices = sum_normal_matrices(vis, model, weight, antennas, 8)
    start = np.full((2, 8), 0.9 + 0.1j)
    found = solve_gains(matrices, start, phase_only=phase_only, tolerance=1e-13)

    np.testing.assert_array_equal(found.gain[:, [0, 5]], 1.0)
    np.testing.assert_array_equal(found.weight[:, [0, 5]], 0.0)
    alive = [1, 2, 3, 4, 6, 7]
    assert (found.weight[:, alive] > 0).all()
    np.testing.assert_allclose(found.gain[:, alive], referenced(gain[:, alive]), atol=1e-11)


def test_a_solution_without_any_data_is_one():
    nothing = NormalMatrices(np.zeros((1, 4, 4), complex), np.zeros((1, 4, 4)))
    found = solve_gains(nothing, np.full((1, 4), 1j), phase_only=False)
    np.testing.assert_array_equal(found.gain, 1.0)
    np.testing.assert_array_equal(found.weight, 0.0)


def test_weights_are_the_inverse_variances_of_the_gains():
    """Σ_q W_pq |g_q|²: for unit model and weights, the number of samples of a station."""
    antennas = pairs_of(9)
    ones = np.ones((36, 2, 5), dtype=complex)
    matrices = sum_normal_matrices(ones, ones, ones.real, antennas, 9)
    found = solve_gains(matrices, np.ones((2, 9), complex), phase_only=True)
    np.testing.assert_allclose(found.weight, 8 * 5)


def test_sums_do_not_depend_on_how_rows_come():
    """Blocks add up, and a row p, q is the same as the conjugate row q, p."""
    rng = np.random.default_rng(6)
    p, q = pairs_of(7)
    vis, model = draw_complex(rng, 2, len(p), 2, 3)
    weight = rng.uniform(size=vis.shape)
    whole = sum_normal_matrices(vis, model, weight, (p, q), 7)
    swapped = sum_normal_matrices(vis.conj(), model.conj(), weight, (q, p), 7)
    parts = [
        sum_normal_matrices(vis[part], model[part], weight[part], (p[part], q[part]), 7)
        for part in (slice(None, 10), slice(10, None))
    ]
    for other in (swapped, parts[0] + parts[1]):
        np.testing.assert_allclose(other.cross, whole.cross, rtol=1e-13)
        np.testing.assert_allclose(other.power, whole.power, rtol=1e-13)
    np.testing.assert_array_equal(whole.cross, whole.cross.conj().swapaxes(1, 2))


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_units_of_flux_do_not_matter(scale):
    """Scaling the model by s divides amplitudes by √s; scaling both changes nothing."""
    rng = np.random.default_rng(7)
    antennas = pairs_of(8)
    gain = draw_gains(rng, (1, 8), phase_only=False)
    model = draw_complex(rng, 28, 1, 4)
    vis = corrupt(model, gain, antennas)

    def solve(vis, model):
        matrices = sum_normal_matrices(vis, model, np.ones(vis.shape), antennas, 8)
        start = np.ones((1, 8), complex)
        return solve_gains(matrices, start, phase_only=False, tolerance=1e-13).gain

    np.testing.assert_allclose(solve(scale * vis, scale * model), referenced(gain), atol=1e-11)
    np.testing.assert_allclose(
        solve(vis, scale * model), referenced(gain) / np.sqrt(scale), rtol=1e-9
    )


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_stations=st.integers(4, 20),
    phase_only=st.booleans(),
    phase_rad=st.floats(0.0, 1.5),
)
def test_any_gains_come_back(seed, n_stations, phase_only, phase_rad):
    rng = np.random.default_rng(seed)
    antennas = pairs_of(n_stations)
    gain = draw_gains(rng, (2, n_stations), phase_only=phase_only, phase_rad=phase_rad)
    model = 1.0 + 0.3 * draw_complex(rng, len(antennas[0]), 2, 2)
    matrices = sum_normal_matrices(
        corrupt(model, gain, antennas), model, np.ones(model.shape), antennas, n_stations
    )
    found = solve_gains(
        matrices,
        np.ones_like(gain, dtype=complex),
        phase_only=phase_only,
        tolerance=1e-12,
        max_iterations=2000,
    )
    assert found.converged
    np.testing.assert_allclose(found.gain, referenced(gain), atol=1e-8)
