"""Cubes opened: FITS, our zarr and CASA images become spectral-cube's Dask classes.

Nothing but headers is read. Blank pixels are NaN and cubes carry no other mask; planes without a
beam have a NaN beam.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast

import dask.array as da
import numpy as np
from astropy import units
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from numpy.typing import NDArray
from radio_beam import Beams

from batch_imaging.errors import DataError
from batch_imaging.io.zarr_cube import open_zarr_cube
from batch_imaging.pipelines.cubes.channels import attach_channels, channels_of, read_channels
from batch_imaging.pipelines.cubes.fits_file import cube_header, open_fits
from batch_imaging.pipelines.cubes.schedule import Along, Schedule
from batch_imaging.pipelines.cubes.selection import Selection

with warnings.catch_warnings():
    warnings.simplefilter("ignore", PendingDeprecationWarning)  # of astropy, in spectral-cube
    from spectral_cube import (
        DaskSpectralCube,
        DaskVaryingResolutionSpectralCube,
        StokesSpectralCube,
    )
    from spectral_cube.utils import NoBeamError

Cube: TypeAlias = DaskSpectralCube | DaskVaryingResolutionSpectralCube
WHOLE = Selection()


def open_cube(
    path: Path,
    schedule: Schedule,
    along: Along = "any",
    selection: Selection = WHOLE,
    stokes: str = "I",
) -> Cube:
    """Open a cube or a part of it, in chunks that ``schedule`` allows.

    Raises
    ------
    DataError: it is missing, or not a cube; ResourceError: a chunk does not fit into memory.
    """
    with quiet():
        source, header, beams_deg = _open(path, stokes, schedule)
        if beams_deg is not None and len(beams_deg) != source.shape[0]:
            raise DataError(
                f"{path}: {len(beams_deg)} beams for {source.shape[0]} channels: mend its table "
                "BEAMS"
            )
        channels = read_channels(path, source.shape[0])
        whole = _make_cube(_lazy(source, (-1, -1, -1)), header, None)
        attach_channels(whole, channels, same_pixels=True)
        place = selection.place(whole, path)
        shape = tuple(part.stop - part.start for part in place)
        data = _lazy(source, schedule.chunk_shape(shape, source.dtype.itemsize, along), place)
        header = cube_header(header, WCS(header)[place])
        cube = _make_cube(data, header, None if beams_deg is None else beams_deg[place[0]])
        same_planes = shape[1:] == source.shape[1:]
        channels = None if channels is None else channels[place[0]]
        attach_channels(cube, channels, same_pixels=same_planes)
        return cube


def pixels(cube: Cube) -> da.Array:
    """Return the lazy array (chan, row, column) of a cube."""
    return cast(
        "da.Array", cube._data
    )  # spectral-cube's public ways to it compute, or wrap it in a mask


def header_of(cube: Cube) -> fits.Header:
    """Return the header of a cube, its axes column, row, channel."""
    with quiet():
        return cube.header.copy()


def beams_deg(cube: Cube) -> NDArray[np.float64] | None:
    """Return (chan, 3) beams in degrees, one row if all are the same, None without beams."""
    if has_many_beams(cube):
        beams = cube.unmasked_beams
    else:
        try:
            beams = Beams(beams=[cube.beam])
        except NoBeamError:
            return None
    return np.stack([getattr(beams, name).to_value("deg") for name in ("major", "minor", "pa")], 1)


def with_pixels(cube: Cube, data: da.Array, beams: NDArray[np.float64] | None = None) -> Cube:
    """Return ``cube`` with other pixels, of the same shape, and other beams (chan, 3) if given."""
    if beams is None and has_many_beams(cube):
        beams = beams_deg(cube)
    made = _make_cube(data, header_of(cube), beams)
    attach_channels(made, channels_of(cube), same_pixels=False)
    return made


def has_many_beams(cube: Cube) -> bool:
    """Tell whether beams differ between channels."""
    return isinstance(cube, DaskVaryingResolutionSpectralCube)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of libraries about what this program has looked after itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        warnings.filterwarnings("ignore", ".*NaN values detected post convolution")
        warnings.filterwarnings("ignore", "File may have been truncated")
        warnings.filterwarnings("ignore", module=r"(spectral_cube|radio_beam|casa_formats_io)\b")
        yield


def _open(
    path: Path, stokes: str, schedule: Schedule
) -> tuple[Any, fits.Header, NDArray[Any] | None]:
    if not path.exists():
        raise DataError(f"{path}: there is no such cube: check the name")
    if path.is_file():
        return open_fits(path, stokes)
    if (path / "zarr.json").exists():
        return open_zarr_cube(path, stokes)
    if (path / "table.dat").exists():
        return _open_casa(path, stokes, schedule.casa_chunk_pixels)
    raise DataError(f"{path}: neither a FITS file nor a zarr cube nor a CASA image")


def _open_casa(
    path: Path, stokes: str, chunk_pixels: int | None
) -> tuple[da.Array, fits.Header, NDArray[Any] | None]:
    try:
        found = StokesSpectralCube.read(
            str(path), format="casa_image", target_chunksize=chunk_pixels
        )
        cube = found[stokes] if isinstance(found, StokesSpectralCube) else found
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise DataError(f"{path}: not a CASA image cube with Stokes {stokes} ({error})") from error
    beams = beams_deg(cube) if has_many_beams(cube) else None
    filled = pixels(cube)
    if isinstance(getattr(cube.mask, "_mask", None), da.Array):
        filled = da.where(cube.mask._mask, filled, np.asarray(np.nan, filled.dtype))
    return filled, header_of(cube), beams


def _lazy(source: Any, chunk: tuple[int, int, int], place: Any = None) -> Any:
    """Return ``place`` of ``source`` in chunks of which each is one read."""
    if isinstance(source, da.Array):
        return (source if place is None else source[place]).rechunk(chunk)
    window = source if place is None else _Window(source, place)
    return da.from_array(window, chunk, asarray=False, inline_array=True, lock=False)


class _Window:
    """A box of pixels on disk, indexed from its own corner."""

    ndim = 3

    def __init__(self, source: Any, place: tuple[slice, slice, slice]) -> None:
        self.source = source
        self.start = tuple(part.start for part in place)
        self.shape = tuple(part.stop - part.start for part in place)
        self.dtype = source.dtype

    def __getitem__(self, place: tuple[slice, slice, slice]) -> NDArray[Any]:
        box = tuple(
            slice(start + low, start + high)
            for start, n, part in zip(self.start, self.shape, place, strict=True)
            for low, high, _ in [part.indices(n)]
        )
        return np.asarray(self.source[box])


def _make_cube(data: da.Array, header: fits.Header, beams_deg: NDArray[Any] | None) -> Cube:
    meta = {"BUNIT": header["BUNIT"]} if header.get("BUNIT") else {}
    if beams_deg is not None and not np.isfinite(beams_deg).any():
        beams_deg = None
    if beams_deg is not None and (beams_deg == beams_deg[0]).all():
        header = header.copy()
        header.update(zip(("BMAJ", "BMIN", "BPA"), map(float, beams_deg[0]), strict=True))
        beams_deg = None
    with quiet():
        wcs = WCS(header)
        if beams_deg is None:
            return DaskSpectralCube(data, wcs, meta=meta, header=header)
        beams = Beams(*(units.Quantity(column, "deg") for column in beams_deg.T))
        return DaskVaryingResolutionSpectralCube(data, wcs, meta=meta, header=header, beams=beams)
