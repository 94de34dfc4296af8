"""Imaging weights: natural, uniform and robust (Briggs 1995, thesis, ch. 3)."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from batch_imaging.model.beam import SPEED_OF_LIGHT_M_S
from batch_imaging.model.image import ImageGeometry

Weighting = Literal["natural", "uniform", "robust"]


def _cells(
    uvw_m: NDArray[np.float64], freq_hz: NDArray[np.float64], geometry: ImageGeometry
) -> NDArray[np.intp]:
    """Return the flat uv cell of each sample, (row, chan).

    V(−u, −v) = V*(u, v), so cells of the half plane v < 0, and of the half line v = 0, u < 0, are
    those of their mirror images.
    """
    n = geometry.npixel
    scale = n * geometry.cell_rad * freq_hz / SPEED_OF_LIGHT_M_S
    u, v = np.rint(uvw_m[:, 0, np.newaxis] * scale), np.rint(uvw_m[:, 1, np.newaxis] * scale)
    mirror = np.where((v < 0) | ((v == 0) & (u < 0)), -1.0, 1.0)
    column = np.clip((u * mirror).astype(np.intp) + n // 2, 0, n - 1)
    row = np.clip((v * mirror).astype(np.intp), 0, n // 2)
    return np.asarray(row * n + column)


def sum_weight_density(
    uvw_m: NDArray[np.float64],
    freq_hz: NDArray[np.float64],
    weight: NDArray[np.float32],
    geometry: ImageGeometry,
) -> NDArray[np.float64]:
    """Return the sum of weights in each uv cell of 1/(npixel·cell), (npixel/2 + 1, npixel)."""
    n = geometry.npixel
    flat = _cells(uvw_m, freq_hz, geometry)
    density = np.bincount(flat.ravel(), weight.ravel(), (n // 2 + 1) * n)
    return np.asarray(density.reshape(n // 2 + 1, n), dtype=float)


def make_imaging_weight(
    uvw_m: NDArray[np.float64],
    freq_hz: NDArray[np.float64],
    weight: NDArray[np.float32],
    geometry: ImageGeometry,
    scheme: Weighting,
    robust: float,
    density: NDArray[np.float64] | None,
) -> NDArray[np.float32]:
    """Return the imaging weight of each sample, (row, chan).

    ``density`` is that of all data that go into the image (summed over blocks); natural weighting
    needs none. Robust −2 is nearly uniform, +2 nearly natural.
    """
    if scheme == "natural" or density is None or not density.any():
        return weight
    local = density.ravel()[_cells(uvw_m, freq_hz, geometry)]
    if scheme == "uniform":
        scale = local
    else:
        mean_density = np.square(density).sum() / density.sum()
        scale = 1 + local * (5 * 10.0**-robust) ** 2 / mean_density
    return np.divide(weight, scale, out=np.zeros_like(weight), where=scale > 0, casting="unsafe")
