"""Visibilities as the pipelines hold them: rows, some channels, some correlations.

Convention, used throughout and stated in docs/conventions.md:
V(u, v, w) = ∫ I exp(−2πi (u l + v m + w (n − 1))) dl dm / n, with the baseline antenna2 − antenna1
and u, v, w in metres × ν / c. DATA of a Measurement Set holds the complex conjugate.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from batch_imaging.model.direction import Direction
from batch_imaging.model.stations import StationLayout


@dataclass(frozen=True, slots=True)
class Visibility:
    """One block of visibilities that share rows, phase centre and stations.

    Attributes
    ----------
    uvw_m: (row, 3) float64, metres.
    time_mjd_s: (row,) float64, UTC, modified Julian date in seconds, centre of the integration.
    antenna1, antenna2: (row,) int32, indices into ``stations``; antenna1 ≠ antenna2.
    vis: (row, chan, corr) complex64, jansky.
    weight: (row, chan, corr) float32, 1/Jy²; zero where flagged.
    freq_hz, chan_width_hz: (chan,) float64, centres and (positive) widths, topocentric.
    corr: names of the correlations, e.g. ("XX", "YY") or ("I",).
    integration_s: length of an integration, seconds.
    """

    uvw_m: NDArray[np.float64]
    time_mjd_s: NDArray[np.float64]
    antenna1: NDArray[np.int32]
    antenna2: NDArray[np.int32]
    vis: NDArray[np.complex64]
    weight: NDArray[np.float32]
    freq_hz: NDArray[np.float64]
    chan_width_hz: NDArray[np.float64]
    corr: tuple[str, ...]
    integration_s: float
    phase_centre: Direction
    stations: StationLayout
    field_name: str = "field"

    @property
    def n_rows(self) -> int:
        return int(self.vis.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.uvw_m, self.time_mjd_s, self.antenna1, self.antenna2, self.vis, self.weight)
        return int(sum(a.nbytes for a in arrays))

    def with_vis(self, vis: NDArray[np.complex64]) -> "Visibility":
        """Return the same block with other visibilities."""
        return replace(self, vis=vis)


def stokes_i(
    block: Visibility,
) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    """Return Stokes I visibilities and their weights, each (row, chan).

    I = (pp + qq)/2 for parallel hands, and where one hand is flagged the sample is dropped: an
    unpolarised sky may be recovered from one hand, a polarised one not. Weights are those of the
    mean of two independent samples, 4 / (1/w_pp + 1/w_qq).
    """
    if block.vis.shape[2] == 1:
        return block.vis[:, :, 0], block.weight[:, :, 0]
    first, second = block.weight[:, :, 0], block.weight[:, :, -1]
    total = first + second
    weight = np.zeros_like(first)
    np.divide(4 * first * second, total, out=weight, where=total > 0)
    vis = (block.vis[:, :, 0] + block.vis[:, :, -1]) * np.float32(0.5)
    return vis, weight
