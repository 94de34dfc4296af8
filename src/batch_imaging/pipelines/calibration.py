"""Gains of one unit: solve them against model visibilities, apply them.

The contexts follow RASCIL's names. T: a scalar phase per station, integration and window, common to
all correlations. G: amplitude and phase per correlation and window, constant over the unit. B:
amplitude and phase per correlation and channel, constant over the unit. The observed visibility is
V = g_p g_q* M with g = T·G·B; each is solved with the others held.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from batch_imaging.kernels.gains import (
    GainSolution,
    NormalMatrices,
    baseline_gains,
    solve_gains,
    sum_normal_matrices,
)
from batch_imaging.model.visibility import Visibility
from batch_imaging.pipelines.units import LoadedUnit


@dataclass(frozen=True, slots=True)
class UnitGains:
    """Gains of the stations in one unit.

    Attributes
    ----------
    phase: (integration, window, station) complex128 of modulus 1, the T gains.
    phase_weight: the same shape, float64; zero where there was nothing to solve.
    gain, gain_weight: (window, corr, station) complex128 and float64, the G gains.
    bandpass, bandpass_weight: (chan, corr, station), the B gains.
    """

    phase: NDArray[np.complex128]
    phase_weight: NDArray[np.float64]
    gain: NDArray[np.complex128]
    gain_weight: NDArray[np.float64]
    bandpass: NDArray[np.complex128]
    bandpass_weight: NDArray[np.float64]

    @classmethod
    def ones(cls, loaded: LoadedUnit) -> "UnitGains":
        """Return gains of 1."""
        block = loaded.block
        n_times = len(np.unique(block.time_mjd_s))
        n_windows, n_stations = int(loaded.window_of_chan[-1]) + 1, len(block.stations)
        _, n_chan, n_corr = block.vis.shape
        return cls(
            np.ones((n_times, n_windows, n_stations), dtype=np.complex128),
            np.zeros((n_times, n_windows, n_stations)),
            np.ones((n_windows, n_corr, n_stations), dtype=np.complex128),
            np.zeros((n_windows, n_corr, n_stations)),
            np.ones((n_chan, n_corr, n_stations), dtype=np.complex128),
            np.zeros((n_chan, n_corr, n_stations)),
        )

    @property
    def phase_only(self) -> bool:
        """Whether G and B are all 1."""
        return bool((self.gain == 1).all() and (self.bandpass == 1).all())


def integration_rows(block: Visibility) -> list[slice]:
    """Return the rows of each integration; blocks are sorted by time."""
    starts = np.flatnonzero(np.diff(block.time_mjd_s, prepend=-np.inf))
    return [slice(int(a), int(b)) for a, b in zip(starts, [*starts[1:], block.n_rows], strict=True)]


def calibrate_unit(
    loaded: LoadedUnit,
    model: NDArray[np.complexfloating],
    start: UnitGains,
    context: str,
    rounds: int = 1,
) -> UnitGains:
    """Solve the gains named in ``context`` (letters of T, G, B) for one unit.

    ``model`` is (row, chan), the visibilities of an unpolarised sky. Several letters are solved in
    turn, ``rounds`` times: each depends on the others.
    """
    gains = start
    for _ in range(rounds if len(context) > 1 else 1):
        if "T" in context:
            gains = _solve_phase(loaded, model, gains)
        if "G" in context:
            gains = _solve_gain(loaded, model, gains)
        if "B" in context:
            gains = _solve_bandpass(loaded, model, gains)
    return gains


def _solve_phase(
    loaded: LoadedUnit, model: NDArray[np.complexfloating], gains: UnitGains
) -> UnitGains:
    block = loaded.block
    phase, weight = np.empty_like(gains.phase), np.empty_like(gains.phase_weight)
    others = replace(gains, phase=np.ones_like(gains.phase))
    for t, rows in enumerate(integration_rows(block)):
        expected = model[rows, :, np.newaxis] * _row_gains(loaded, others, rows, t)
        for window in range(phase.shape[1]):
            chans = loaded.window_of_chan == window
            matrices = _normal_matrices(block, rows, chans, expected[:, chans], together=True)
            solution = solve_gains(matrices, gains.phase[t, window][np.newaxis], phase_only=True)
            phase[t, window], weight[t, window] = solution.gain[0], solution.weight[0]
    return replace(gains, phase=phase, phase_weight=weight)


def _solve_gain(
    loaded: LoadedUnit, model: NDArray[np.complexfloating], gains: UnitGains
) -> UnitGains:
    others = replace(gains, gain=np.ones_like(gains.gain))
    gain, weight = np.empty_like(gains.gain), np.empty_like(gains.gain_weight)
    for window in range(gain.shape[0]):
        chans = loaded.window_of_chan == window
        solution = _solve_all_integrations(loaded, model, others, chans, gains.gain[window])
        gain[window], weight[window] = _unit_mean_amplitude(solution), solution.weight
    return replace(gains, gain=gain, gain_weight=weight)


def _solve_bandpass(
    loaded: LoadedUnit, model: NDArray[np.complexfloating], gains: UnitGains
) -> UnitGains:
    others = replace(gains, bandpass=np.ones_like(gains.bandpass))
    bandpass, weight = np.empty_like(gains.bandpass), np.empty_like(gains.bandpass_weight)
    for chan in range(bandpass.shape[0]):
        chans = np.arange(bandpass.shape[0]) == chan
        solution = _solve_all_integrations(loaded, model, others, chans, gains.bandpass[chan])
        bandpass[chan], weight[chan] = _unit_mean_amplitude(solution), solution.weight
    return replace(gains, bandpass=bandpass, bandpass_weight=weight)


def _solve_all_integrations(
    loaded: LoadedUnit,
    model: NDArray[np.complexfloating],
    others: UnitGains,
    chans: NDArray[np.bool_],
    start: NDArray[np.complex128],
) -> GainSolution:
    """Solve for one complex gain per correlation and station over the whole unit."""
    total: NormalMatrices | None = None
    for t, rows in enumerate(integration_rows(loaded.block)):
        expected = model[rows][:, chans, np.newaxis] * _row_gains(loaded, others, rows, t, chans)
        part = _normal_matrices(loaded.block, rows, chans, expected, together=False)
        total = part if total is None else total + part
    if total is None:
        raise ValueError("a unit without integrations")
    return solve_gains(total, start, phase_only=False)


def _normal_matrices(
    block: Visibility,
    rows: slice,
    chans: NDArray[np.bool_],
    expected: NDArray[np.complexfloating],
    *,
    together: bool,
) -> NormalMatrices:
    """Sum over channels and, if ``together``, correlations; else one solution each."""
    vis, weight = block.vis[rows][:, chans], block.weight[rows][:, chans]
    n_rows = len(vis)

    def samples(array: NDArray[np.generic]) -> NDArray[np.generic]:
        return array.reshape(n_rows, 1, -1) if together else array.swapaxes(1, 2)

    return sum_normal_matrices(
        samples(vis),  # type: ignore[arg-type]
        samples(np.broadcast_to(expected, vis.shape)),  # type: ignore[arg-type]
        samples(weight),  # type: ignore[arg-type]
        (block.antenna1[rows], block.antenna2[rows]),
        len(block.stations),
    )


def _unit_mean_amplitude(solution: GainSolution) -> NDArray[np.complex128]:
    """Scale gains to a mean amplitude of 1, so that the flux scale stays that of the data."""
    has_data = solution.weight > 0
    count = np.maximum(has_data.sum(axis=1, keepdims=True), 1)
    mean = (np.abs(solution.gain) * has_data).sum(axis=1, keepdims=True) / count
    return np.where(has_data, solution.gain / np.where(mean > 0, mean, 1.0), 1.0)


def _row_gains(
    loaded: LoadedUnit,
    gains: UnitGains,
    rows: slice,
    t: int,
    chans: NDArray[np.bool_] | slice = slice(None),
) -> NDArray[np.complexfloating]:
    """Return T·G·B of the baselines of one integration, (row, chan, corr) or (row, chan, 1)."""
    block, window = loaded.block, loaded.window_of_chan[chans]
    p, q = block.antenna1[rows], block.antenna2[rows]
    factor = baseline_gains(gains.phase[t].T, p, q)[:, window, np.newaxis].astype(np.complex64)
    if gains.phase_only:
        return factor
    slow = baseline_gains((gains.gain[window] * gains.bandpass[chans]).transpose(2, 0, 1), p, q)
    return np.asarray(factor * slow.astype(np.complex64))


def apply_gains(loaded: LoadedUnit, gains: UnitGains) -> Visibility:
    """Return the block with its gains taken out: V / (g_p g_q*), weights times |g_p g_q*|²."""
    block = loaded.block
    vis, weight = np.empty_like(block.vis), block.weight
    if not gains.phase_only:
        weight = np.empty_like(block.weight)
    for t, rows in enumerate(integration_rows(block)):
        factor = _row_gains(loaded, gains, rows, t)
        power = factor.real**2 + factor.imag**2
        usable = power > 0
        inverse = np.divide(factor.conj(), power, out=np.zeros_like(factor), where=usable)
        vis[rows] = block.vis[rows] * inverse
        if not gains.phase_only:
            weight[rows] = block.weight[rows] * power
    return replace(block, vis=vis, weight=weight)
