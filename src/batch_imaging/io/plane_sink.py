"""Where planes go: FITS or zarr cubes, by the name of the file.

A cube is made whole before its planes, which any number of processes then write in place, and takes
its name when it is complete. Planes are counted as in FITS: all channels (or steps in time) of the
first Stokes parameter come first. What writes zarr is loaded with the first zarr cube: it brings
xarray and Dask's arrays along.
"""

import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from batch_imaging.io import fits_image
from batch_imaging.io.fits_image import Beams, FitsCubeWriter, ImageHeader
from batch_imaging.model.image import ImageGeometry

ZARR = ".zarr"


class PlaneSink(Protocol):
    """A cube that planes are written to."""

    @property
    def path(self) -> Path: ...

    def create(self) -> None:
        """Make the partial cube, blank."""

    def is_begun(self) -> bool:
        """Return whether the partial cube is there as `create` made it, but for its planes."""
        ...

    def finish(
        self,
        beams: Beams = (),
        rms: NDArray[np.float64] | None = None,
        peak: NDArray[np.float64] | None = None,
        outcome: Sequence[str] | None = None,
    ) -> None:
        """Add what is known of each channel, and give the cube its name."""


def open_sink(
    path: Path, geometry: ImageGeometry, header: ImageHeader, date: datetime
) -> PlaneSink:
    """Return the sink of a path, which makes nothing yet."""
    if path.suffix == ZARR:
        from batch_imaging.io.zarr_cube import ZarrPlaneWriter

        return ZarrPlaneWriter(path, geometry, header, date)
    return FitsCubeWriter(path, geometry, header, date)


def write_plane(path: Path, index: int, plane: NDArray[np.float32]) -> None:
    """Write one plane (row, column) of the cube that a sink made under the same path.

    Raises
    ------
    ProductError: it cannot be written.
    """
    if path.suffix == ZARR:
        from batch_imaging.io.zarr_cube import write_zarr_plane

        write_zarr_plane(path, index, plane)
    else:
        fits_image.write_plane(path, index, plane)


def read_plane(path: Path, index: int) -> NDArray[np.float32]:
    """Read one plane (row, column) of a cube, a partial one too.

    Raises
    ------
    OSError, EOFError: it is not there, or not whole.
    """
    if path.is_dir():
        from batch_imaging.io.zarr_cube import read_zarr_plane

        return read_zarr_plane(path, index)
    return fits_image.read_plane(path, index)


def remove_cube(path: Path) -> None:
    """Remove a cube, a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
