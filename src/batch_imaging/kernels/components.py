"""Sky components to visibilities, exactly: an antenna-factored sum of plane waves.

A baseline's phase is the difference of its stations' phases, so for one integration and channel
V = conj(E) diag(S) Eᵀ with E[p, k] = exp(−2πi ν/c (u_p l_k + v_p m_k + w_p (n_k − 1))): a matrix
product instead of a sum per baseline. Point sources only; a Gaussian multiplies its baselines by an
envelope and is added on its own.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

from batch_imaging.model.beam import FWHM_PER_SIGMA, SPEED_OF_LIGHT_M_S

_COMPONENTS_AT_A_TIME = 4096  # bounds the (station, component) phase matrix


@dataclass(frozen=True, slots=True)
class BaselineFactors:
    """The rows of a block as differences of stations.

    Attributes
    ----------
    station_uvw_m: (integration, station, 3), metres, up to a constant per integration.
    starts: (integration + 1,) first row of each integration, and the number of rows.
    antenna1, antenna2: (row,).
    """

    station_uvw_m: NDArray[np.float64]
    starts: NDArray[np.intp]
    antenna1: NDArray[np.int32]
    antenna2: NDArray[np.int32]


def factor_baselines(
    uvw_m: NDArray[np.float64],
    time_mjd_s: NDArray[np.float64],
    antenna1: NDArray[np.int32],
    antenna2: NDArray[np.int32],
    n_stations: int,
    tolerance_m: float,
) -> BaselineFactors | None:
    """Find station coordinates whose differences are the rows' uvw, or None where there are none.

    Rows must be sorted by time. Least squares over each integration's baselines (the graph
    Laplacian of the array); None if a row disagrees by more than ``tolerance_m``, as it does after
    baseline-dependent averaging.
    """
    starts = np.append(np.flatnonzero(np.diff(time_mjd_s, prepend=-np.inf)), len(time_mjd_s))
    stations = np.zeros((len(starts) - 1, n_stations, 3))
    inverse: NDArray[np.floating] = np.empty((0, 0))
    pairs: NDArray[np.integer] = np.empty((2, 0), dtype=np.int32)
    for k, (begin, end) in enumerate(pairwise(starts)):
        p, q = antenna1[begin:end], antenna2[begin:end]
        if not np.array_equal(pairs, (p, q)):  # most arrays keep theirs for the whole observation
            pairs = np.stack([p, q])
            inverse = np.linalg.pinv(_laplacian(p, q, n_stations), rcond=1e-10, hermitian=True)
        missing_m = uvw_m[begin:end]
        for _ in range(2):  # the second time for the digits that the first one lost
            stations[k] += inverse @ _pull(missing_m, p, q, n_stations)
            missing_m = uvw_m[begin:end] - (stations[k][q] - stations[k][p])
        if not np.abs(missing_m).max(initial=0.0) <= tolerance_m:  # NaN is no difference either
            return None
    return BaselineFactors(stations, starts, antenna1, antenna2)


def _laplacian(p: NDArray[np.int32], q: NDArray[np.int32], n_stations: int) -> NDArray[np.float64]:
    """Return the matrix Σ (e_q − e_p)(e_q − e_p)ᵀ, (station, station)."""
    flat = p.astype(np.intp) * n_stations + q
    links = np.bincount(flat, minlength=n_stations**2).reshape(n_stations, n_stations)
    links = links + links.T
    return np.asarray(np.diag(links.sum(axis=1)) - links, dtype=float)


def _pull(
    uvw_m: NDArray[np.float64], p: NDArray[np.int32], q: NDArray[np.int32], n_stations: int
) -> NDArray[np.float64]:
    """Return the right-hand side Σ (e_q − e_p) uvw, (station, 3)."""
    return np.stack(
        [np.bincount(q, x, n_stations) - np.bincount(p, x, n_stations) for x in uvw_m.T], axis=1
    )


def predict_points(
    factors: BaselineFactors,
    freq_hz: NDArray[np.float64],
    lmn: NDArray[np.float64],
    flux_jy: NDArray[np.float64],
    *,
    double: bool = True,
) -> NDArray[np.complexfloating]:
    """Return Σ_k S_k exp(−2πi ν/c (u l_k + v m_k + w (n_k − 1))).

    Parameters
    ----------
    freq_hz: (chan,).
    lmn: (3, component) direction cosines l, m, n − 1.
    flux_jy: (component, chan) apparent flux densities.
    double: products in double (error near 1e-14 of Σ|S|) or single precision (near 1e-7).

    Returns
    -------
    (row, chan) complex128 or complex64.
    """
    vis = np.zeros(
        (len(factors.antenna1), len(freq_hz)), dtype=np.complex128 if double else np.complex64
    )
    first = np.minimum(factors.antenna1, factors.antenna2)
    second = np.maximum(factors.antenna1, factors.antenna2)
    backwards = factors.antenna1 > factors.antenna2
    for begin_part in range(0, lmn.shape[1], _COMPONENTS_AT_A_TIME):
        part = slice(begin_part, begin_part + _COMPONENTS_AT_A_TIME)
        for k, (begin, end) in enumerate(pairwise(factors.starts)):
            delay_m = factors.station_uvw_m[k] @ lmn[:, part]
            pairs = first[begin:end], second[begin:end]
            for chan, freq in enumerate(freq_hz):
                turns = delay_m * (freq / SPEED_OF_LIGHT_M_S)
                vis[begin:end, chan] += _correlate(turns, flux_jy[part, chan], double)[pairs]
    np.conjugate(vis, out=vis, where=backwards[:, np.newaxis])
    return vis


def _correlate(
    turns: NDArray[np.float64], flux_jy: NDArray[np.float64], double: bool
) -> NDArray[np.complexfloating]:
    """Return conj(E) diag(S) Eᵀ for E = exp(−2πi turns), its upper triangle only.

    ``turns`` is (station, component). A Hermitian rank-k update, half the work of a product; the
    square root of the flux goes into E, so sources of negative flux are summed apart.
    """
    turns -= np.rint(turns)  # in double, so that single precision is left for the fraction
    angle = (-2 * np.pi * turns).astype(np.float64 if double else np.float32)
    waves = np.empty(angle.shape, dtype=np.complex128 if double else np.complex64)
    root = np.sqrt(np.abs(flux_jy)).astype(angle.dtype)
    np.multiply(np.cos(angle), root, out=waves.real)
    np.multiply(np.sin(angle), root, out=waves.imag)
    rank_k_update = blas.zherk if double else blas.cherk
    negative = flux_jy < 0
    total = rank_k_update(1.0, waves[:, ~negative].T, trans=2)
    if negative.any():
        total = rank_k_update(-1.0, waves[:, negative].T, beta=1.0, c=total, trans=2, overwrite_c=1)
    return np.asarray(total)


def predict_gaussian(
    uvw_m: NDArray[np.float64],
    freq_hz: NDArray[np.float64],
    lmn: NDArray[np.float64],
    flux_jy: NDArray[np.float64],
    widths_rad: tuple[float, float, float],
) -> NDArray[np.complex128]:
    """Return the visibilities of one elliptical Gaussian, (row, chan).

    ``lmn`` is (3,), ``flux_jy`` (chan,); ``widths_rad`` are the full widths at half maximum along
    the major and minor axes and the position angle east of north, in the plane of l and m.
    """
    bmaj, bmin, bpa = widths_rad
    l, m, n_minus_1 = lmn
    # Across the source n falls by (l δl + m δm) / n: with w, a change of u and v.
    slope = uvw_m[:, 2] / (1 + n_minus_1)
    u, v = uvw_m[:, 0] - slope * l, uvw_m[:, 1] - slope * m
    along = u * np.sin(bpa) + v * np.cos(bpa)
    across = u * np.cos(bpa) - v * np.sin(bpa)
    spread_m2 = ((along * bmaj) ** 2 + (across * bmin) ** 2) / FWHM_PER_SIGMA**2
    per_m = freq_hz / SPEED_OF_LIGHT_M_S
    envelope = np.exp(-2 * np.pi**2 * spread_m2[:, np.newaxis] * per_m**2)
    phase = np.exp(-2j * np.pi * (uvw_m @ lmn)[:, np.newaxis] * per_m)
    return np.asarray(flux_jy * envelope * phase)
