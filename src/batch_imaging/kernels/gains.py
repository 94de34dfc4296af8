"""Station gains from visibilities and a model: alternating least squares.

StefCal (Salvini & Wijnholds 2014, A&A 571, A97) on sufficient statistics. Minimising
Σ w |V − g_p g_q* M|² over any set of samples for which the gains are constant needs only
X_pq = Σ w V M* and W_pq = Σ w |M|², so samples are summed first and the iteration runs on two small
matrices: g_p ← Σ_q X_pq g_q / Σ_q W_pq |g_q|².
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class NormalMatrices:
    """Sums over the samples of each solution.

    Attributes
    ----------
    cross: (solution, station, station) complex128, Hermitian, Σ w V M*.
    power: (solution, station, station) float64, symmetric, Σ w |M|².
    """

    cross: NDArray[np.complex128]
    power: NDArray[np.float64]

    def __add__(self, other: "NormalMatrices") -> "NormalMatrices":
        return NormalMatrices(self.cross + other.cross, self.power + other.power)


def sum_normal_matrices(
    vis: NDArray[np.complexfloating],
    model: NDArray[np.complexfloating],
    weight: NDArray[np.floating],
    antennas: tuple[NDArray[np.int32], NDArray[np.int32]],
    n_stations: int,
) -> NormalMatrices:
    """Sum samples that share their gains.

    ``vis``, ``model`` and ``weight`` are (row, solution, sample); the last axis is summed, and
    the rows of one baseline are.
    """
    p, q = (a.astype(np.intp) for a in antennas)
    flat, size = p * n_stations + q, n_stations * n_stations
    products = (weight * vis * model.conj()).sum(axis=2)
    powers = (weight * (model.real**2 + model.imag**2)).sum(axis=2)
    n_solutions = vis.shape[1]
    cross = np.empty((n_solutions, n_stations, n_stations), dtype=np.complex128)
    power = np.empty((n_solutions, n_stations, n_stations))
    for s in range(n_solutions):
        real = np.bincount(flat, products[:, s].real, size)
        imag = np.bincount(flat, products[:, s].imag, size)
        half = (real + 1j * imag).reshape(n_stations, n_stations)
        cross[s] = half + half.conj().T
        half_power = np.bincount(flat, powers[:, s], size).reshape(n_stations, n_stations)
        power[s] = half_power + half_power.T
    return NormalMatrices(cross, power)


@dataclass(frozen=True, slots=True)
class GainSolution:
    """Gains and their weights Σ_q W_pq |g_q|², zero without data, each (solution, station)."""

    gain: NDArray[np.complex128]
    weight: NDArray[np.float64]
    iterations: int
    converged: bool


def solve_gains(
    matrices: NormalMatrices,
    start: NDArray[np.complex128],
    *,
    phase_only: bool,
    tolerance: float = 1e-6,
    max_iterations: int = 200,
) -> GainSolution:
    """Solve for station gains, all solutions at once.

    ``start`` is (solution, station). Every second step is averaged with the one before, which is
    what makes the alternation converge. The phase of the first station that has data is zero;
    stations without data keep gain 1.
    """
    gain = np.array(start, dtype=np.complex128)
    converged, iteration = False, 0
    for iteration in range(1, max_iterations + 1):
        update = _update(matrices, gain, phase_only)
        if iteration % 2 == 0:
            update = (update + gain) / 2
            if phase_only:
                update /= np.maximum(np.abs(update), 1e-30)
        change = np.abs(update - gain).max(initial=0.0)
        gain = update
        if change <= tolerance * np.abs(gain).max(initial=1.0):
            converged = True
            break
    weight = (matrices.power @ (np.abs(gain) ** 2)[..., np.newaxis])[..., 0]
    has_data = weight > 0
    first = np.argmax(has_data, axis=1)
    reference = np.take_along_axis(gain, first[:, np.newaxis], axis=1)
    gain = gain * (reference.conj() / np.maximum(np.abs(reference), 1e-30))
    gain[~has_data] = 1.0
    return GainSolution(gain, weight, iteration, converged)


def _update(
    matrices: NormalMatrices, gain: NDArray[np.complex128], phase_only: bool
) -> NDArray[np.complex128]:
    numerator = (matrices.cross @ gain[..., np.newaxis])[..., 0]
    if phase_only:
        size = np.abs(numerator)
    else:
        size = (matrices.power @ (np.abs(gain) ** 2)[..., np.newaxis])[..., 0]
    return np.divide(numerator, size, out=np.ones_like(gain), where=size > 0)


def baseline_gains(
    gain: NDArray[np.complex128],
    antenna1: NDArray[np.int32],
    antenna2: NDArray[np.int32],
) -> NDArray[np.complex128]:
    """Return g_antenna1 conj(g_antenna2): (station, …) to (row, …)."""
    return np.asarray(gain[antenna1] * gain[antenna2].conj())
