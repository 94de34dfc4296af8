"""The pixel grid of an image.

Pixel (row j, column i), counted from zero, stands at l = −(i − npixel/2)·cell and
m = (j − npixel/2)·cell: east to the left, as FITS viewers show it. The reference pixel is npixel/2
(FITS: npixel/2 + 1) on both axes.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batch_imaging.model.beam import RestoringBeam
from batch_imaging.model.direction import Direction, lmn_from_radec


@dataclass(frozen=True, slots=True)
class ImageGeometry:
    """A square SIN image about a phase centre: ``npixel`` (even) pixels of ``cell_rad`` a side."""

    npixel: int
    cell_rad: float
    phase_centre: Direction

    @property
    def shape(self) -> tuple[int, int]:
        return (self.npixel, self.npixel)

    def lm_grid(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return l as (1, npixel) and m as (npixel, 1), direction cosines of the pixel centres."""
        offset = np.arange(-(self.npixel // 2), self.npixel // 2, dtype=float) * self.cell_rad
        return -offset[np.newaxis, :], offset[:, np.newaxis]

    def pixel_of(
        self, ra_rad: ArrayLike, dec_rad: ArrayLike
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return fractional (row, column) of sky positions; NaN for those behind the observer."""
        l, m, n_minus_1 = lmn_from_radec(ra_rad, dec_rad, self.phase_centre)
        front = n_minus_1 > -1.0
        row = np.where(front, m / self.cell_rad + self.npixel // 2, np.nan)
        column = np.where(front, -l / self.cell_rad + self.npixel // 2, np.nan)
        return row, column


@dataclass(frozen=True, slots=True)
class Image:
    """Planes of one field along frequency.

    Attributes
    ----------
    data: (chan, pol, npixel, npixel), Jy/pixel of a model, else Jy/beam; pol is Stokes I alone.
    freq_hz, chan_width_hz: (chan,) centres and widths.
    beams: (chan,) of a restored image.
    """

    data: NDArray[np.floating]
    geometry: ImageGeometry
    freq_hz: NDArray[np.float64]
    chan_width_hz: NDArray[np.float64]
    beams: tuple[RestoringBeam, ...] | None = None

    def with_data(self, data: NDArray[np.floating]) -> "Image":
        """Return the same field with other pixels, of no particular beam."""
        return replace(self, data=data, beams=None)
