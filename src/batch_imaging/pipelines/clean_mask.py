"""Where a plane is cleaned: a mask from a file, islands above the noise, or both."""

from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from batch_imaging.errors import DataError
from batch_imaging.io.fits_image import read_fits_grid, read_fits_plane
from batch_imaging.model.image import ImageGeometry

Mask = NDArray[np.bool_]

SAME_PLACE = 0.1  # pixels that a mask may be off at its edge


@dataclass(frozen=True, slots=True)
class CleanMask:
    """Limits of where components may be.

    Attributes
    ----------
    path: FITS image, or a cube with the planes that are made; not 0 where components may be.
    n_planes: of that file: one holds for all.
    sigma: robust standard deviations above which pixels of the residual count, with half a beam
        around them; None for all pixels.
    """

    path: Path | None = None
    n_planes: int = 1
    sigma: float | None = None

    def __str__(self) -> str:
        file = [self.path.name] if self.path else []
        return " and ".join([*file, *([f"above {self.sigma:g} sigma"] if self.sigma else [])])

    @classmethod
    def of(
        cls,
        path: Path | None,
        sigma: float | None,
        geometry: ImageGeometry,
        freq_hz: NDArray[np.float64],
        width_hz: NDArray[np.float64],
    ) -> "CleanMask | None":
        """Return the mask of planes at these frequencies; None without any limits.

        Raises
        ------
        DataError: the file has another grid or other planes.
        """
        if path is None:
            return None if sigma is None else cls(sigma=sigma)
        its_geometry, its_freq_hz = read_fits_grid(path)
        _require_same_grid(path, its_geometry, geometry)
        if len(its_freq_hz) > 1:
            if len(its_freq_hz) != len(freq_hz):
                raise DataError(
                    f"{path}: {len(its_freq_hz)} planes, and {len(freq_hz)} are made: give as "
                    "many, or one"
                )
            if (np.abs(its_freq_hz - freq_hz) > width_hz / 2).any():
                raise DataError(
                    f"{path}: its planes are not at the frequencies of those that are made: give "
                    "a mask of the same axis, or one plane"
                )
        return cls(path.absolute(), len(its_freq_hz), sigma)

    def given(self, index: int, shape: tuple[int, int]) -> Mask:
        """Return (row, column) what the file allows of a plane."""
        if self.path is None:
            return np.ones(shape, dtype=bool)
        pixels = read_fits_plane(self.path, index if self.n_planes > 1 else 0)
        return np.asarray(np.nan_to_num(pixels) != 0)


def find_islands(residual: NDArray[np.float32], limit_jy: float, beam_pixels: float) -> Mask:
    """Return (row, column) what stands above a limit, and the pixels within half a beam of it."""
    above = np.abs(residual) > limit_jy
    reach = ceil(beam_pixels / 2)
    row, column = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    disc = row**2 + column**2 <= reach**2
    return np.asarray(ndimage.binary_dilation(above, disc))


def _require_same_grid(path: Path, found: ImageGeometry, wanted: ImageGeometry) -> None:
    off = np.subtract(
        wanted.pixel_of(found.phase_centre.ra_rad, found.phase_centre.dec_rad), wanted.npixel / 2
    )
    grown = (found.cell_rad / wanted.cell_rad - 1) * wanted.npixel / 2
    if found.npixel != wanted.npixel or np.abs([*off, grown]).max() > SAME_PLACE:
        raise DataError(
            f"{path}: {_shown(found)}, and the planes are {_shown(wanted)}: regrid the mask, or "
            "give its --npixel and --cellsize"
        )


def _shown(geometry: ImageGeometry) -> str:
    centre, cell_deg = geometry.phase_centre, np.rad2deg(geometry.cell_rad)
    return (
        f"{geometry.npixel}² pixels of {3600 * cell_deg:.6g} arcsec about "
        f"{np.rad2deg(centre.ra_rad) % 360:.5f}°, {np.rad2deg(centre.dec_rad):.5f}°"
    )
