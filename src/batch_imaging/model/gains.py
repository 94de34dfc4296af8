"""Station gains: V_observed = g_antenna1 · conj(g_antenna2) · V_true."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class GainTable:
    """Complex station gains.

    Attributes
    ----------
    gain: (time, station, chan, corr) complex128. The axes chan and corr have length 1 where one
        gain holds for all.
    weight: (time, station, chan, corr) float64; zero where no solution was found.
    time_mjd_s: (time,) float64, UTC, centres of the solution intervals.
    interval_s: (time,) float64, lengths of the solution intervals.
    freq_hz: (chan,) float64, centres of the solution channels.
    corr: names of the correlations the last axis stands for; ("I",) where one gain holds for all.
    station_names: (station,).
    """

    gain: NDArray[np.complex128]
    weight: NDArray[np.float64]
    time_mjd_s: NDArray[np.float64]
    interval_s: NDArray[np.float64]
    freq_hz: NDArray[np.float64]
    corr: tuple[str, ...]
    station_names: tuple[str, ...]
