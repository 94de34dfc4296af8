"""The continuum of a cube: a polynomial through the spectrum of each pixel, taken out lazily."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from batch_imaging.kernels.subtraction import require_channels, subtract_image_continuum
from batch_imaging.model.spectral_axis import Convention, SpectralAxis, SpectralRange
from batch_imaging.pipelines.cubes.opening import Cube, header_of, pixels, with_pixels
from batch_imaging.pipelines.cubes.selection import spectral_axis


@dataclass(frozen=True, slots=True)
class ImageContinuum:
    """Which polynomial, and through which channels of the cube.

    Attributes
    ----------
    line_free: in channels of the cube, or in Hz or m/s of its frame; empty for all channels.
    rest_freq_hz: of velocities; None for that of the header.
    """

    order: int
    line_free: tuple[SpectralRange, ...] = ()
    rest_freq_hz: float | None = None
    convention: Convention = "radio"


def subtract_continuum(cube: Cube, continuum: ImageContinuum, path: Path) -> Cube:
    """Return a cube in chunks of whole spectra without its continuum, computed when written.

    Pixels with fewer line-free channels than the polynomial has terms become NaN.

    Raises
    ------
    DataError: too few channels are line-free.
    """
    freq_hz = spectral_axis(cube, "Hz", path)
    chosen = _select(freq_hz, header_of(cube).get("RESTFRQ"), continuum)
    require_channels(chosen, continuum.order, str(path))

    def subtract(chunk: NDArray[Any]) -> NDArray[Any]:
        known = np.isfinite(chunk[chosen]).any(axis=(1, 2))
        if np.count_nonzero(known) <= continuum.order:
            return np.full_like(chunk, np.nan)
        return subtract_image_continuum(chunk, freq_hz, chosen, continuum.order)

    lazy = pixels(cube)
    return with_pixels(cube, da.map_blocks(subtract, lazy, dtype=lazy.dtype, meta=lazy._meta))


def _select(
    freq_hz: NDArray[np.float64], rest_freq_hz: float | None, continuum: ImageContinuum
) -> NDArray[np.bool_]:
    if not continuum.line_free:
        return np.ones(len(freq_hz), dtype=bool)
    width_hz = np.abs(np.gradient(freq_hz)) if len(freq_hz) > 1 else np.ones(1)
    rest_freq_hz = continuum.rest_freq_hz or rest_freq_hz
    axis = SpectralAxis(freq_hz, width_hz, rest_freq_hz=rest_freq_hz)
    return axis.select(continuum.line_free, continuum.convention)
