"""Spectral cubes as zarr (format 3, with shards), opened by xarray.

Names and dimensions are those of XRADIO's images: SKY (time, frequency, polarization, l, m) and
BEAM_FIT_PARAMS_SKY with its axes in radians. What FITS says besides stands in the attribute
`fits_header`, text with a card a line, so that a cube goes back and forth without loss.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray
import zarr
from astropy.io import fits
from numpy.typing import NDArray

from batch_imaging.errors import DataError

DIMENSIONS = ("time", "frequency", "polarization", "l", "m")
LARGEST_SHARD_BYTES = 512e6
TILE = 512  # pixels along l and m of a chunk


@dataclass(frozen=True, slots=True)
class ZarrPixels:
    """The pixels (chan, row, column) of a cube, read from disk when they are indexed."""

    path: str
    shape: tuple[int, int, int]
    stored: str

    ndim = 3

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.stored)

    def __getitem__(self, place: tuple[slice, slice, slice]) -> NDArray[Any]:
        chan, row, column = place
        sky = zarr.open_array(self.path, path="SKY", mode="r")
        return np.asarray(sky[0, chan, 0, column, row]).swapaxes(1, 2)


def open_zarr_cube(path: Path) -> tuple[ZarrPixels, fits.Header, NDArray[np.float64] | None]:
    """Return pixels, header of the axes column, row, channel, and beams of a cube.

    Returns
    -------
    beams: (chan, 3) major and minor axis and position angle, degrees; or None without any.

    Raises
    ------
    DataError: it was not written by this program.
    """
    try:
        with xarray.open_zarr(path, chunks=None) as cube:
            _, n_chan, _, columns, rows = cube["SKY"].shape
            header = fits.Header.fromstring(cube.attrs["fits_header"], sep="\n")
            stored = cube["SKY"].dtype.str
            beams = cube.get("BEAM_FIT_PARAMS_SKY")
            beams_deg = None if beams is None else np.rad2deg(beams.to_numpy()[0, :, 0])
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: not a zarr cube of this program ({error}): it needs SKY {DIMENSIONS} and the "
            "attribute fits_header; `batch-imaging cube rechunk` makes one from FITS"
        ) from error
    return ZarrPixels(str(path.resolve()), (n_chan, rows, columns), stored), header, beams_deg


@dataclass(frozen=True, slots=True)
class ZarrWriter:
    """A cube laid out with its coordinates, whose pixels are written box by box."""

    path: Path

    @classmethod
    def create(
        cls,
        path: Path,
        shape: tuple[int, int, int],
        dtype: Any,
        header: fits.Header,
        beams_deg: NDArray[np.float64] | None,
        *,
        freq_hz: NDArray[np.float64],
        time_mjd_s: float,
        block: tuple[int, int, int],
        chunk: tuple[int, int, int] | None = None,
    ) -> "ZarrWriter":
        """Write everything but the pixels.

        Parameters
        ----------
        block: (channels, rows, columns) that will be written at a time: shards are made of these.
        chunk: what is read at least; by default one channel and a tile.
        """
        chunk = chunk or (1, min(TILE, block[1]), min(TILE, block[2]))
        shard = shard_shape(shape, np.dtype(dtype).itemsize, block, chunk)
        cube = _layout(shape, dtype, header, beams_deg, freq_hz, time_mjd_s)
        encoding = {"SKY": {"chunks": _as_stored(chunk), "shards": _as_stored(shard)}}
        with _quiet():
            cube.to_zarr(path, mode="w", compute=False, zarr_format=3, encoding=encoding)
        return cls(path)

    def write(self, place: tuple[slice, slice, slice], block: NDArray[Any]) -> None:
        """Write the pixels of one box."""
        chan, row, column = place
        sky = zarr.open_array(str(self.path), path="SKY", mode="r+")
        sky[0, chan, 0, column, row] = block.swapaxes(1, 2)


def shard_shape(
    shape: tuple[int, int, int],
    item_bytes: int,
    block: tuple[int, int, int],
    chunk: tuple[int, int, int],
) -> tuple[int, int, int]:
    """Return channels, rows and columns of a shard: whole chunks, and no more than a block holds.

    A shard that two blocks share would be read and written again, so a shard is a block; one
    that is too large for a file is cut along the channels.
    """
    n_chan, rows, columns = (
        c * ceil(min(b, n) / c) for b, n, c in zip(block, shape, chunk, strict=True)
    )
    pieces = n_chan // chunk[0]
    most = max(int(LARGEST_SHARD_BYTES // (chunk[0] * rows * columns * item_bytes)), 1)
    share = next(n for n in range(min(pieces, most), 0, -1) if pieces % n == 0)
    return share * chunk[0], rows, columns


def _as_stored(box: tuple[int, int, int]) -> tuple[int, int, int, int, int]:
    n_chan, rows, columns = box
    return 1, n_chan, 1, columns, rows


def _layout(
    shape: tuple[int, int, int],
    dtype: Any,
    header: fits.Header,
    beams_deg: NDArray[np.float64] | None,
    freq_hz: NDArray[np.float64],
    time_mjd_s: float,
) -> xarray.Dataset:
    n_chan, rows, columns = shape
    l_rad, m_rad = (
        np.deg2rad(header[f"CDELT{axis}"]) * (np.arange(n) + 1 - header[f"CRPIX{axis}"])
        for axis, n in ((1, columns), (2, rows))
    )
    sky = da.zeros((1, n_chan, 1, columns, rows), dtype=dtype, chunks=-1)
    rest_hz = {"value": header.get("RESTFRQ"), "units": "Hz"}
    frame = header.get("SPECSYS", "").strip()
    frequency = {"units": "Hz", "observer": frame, "rest_frequency": rest_hz, "type": "frequency"}
    cube = xarray.Dataset(
        {"SKY": (DIMENSIONS, sky, {"units": header.get("BUNIT", ""), "type": "sky"})},
        {
            "time": ("time", [time_mjd_s / 86400], {"units": "d", "format": "mjd", "scale": "utc"}),
            "frequency": ("frequency", freq_hz, frequency),
            "polarization": ("polarization", ["I"]),
            "l": ("l", l_rad, {"units": "rad"}),
            "m": ("m", m_rad, {"units": "rad"}),
        },
        {
            "type": "image_dataset",
            "data_groups": {"base": {"sky": "SKY"}},
            "fits_header": header.tostring(sep="\n", endcard=False, padding=False),
        },
    )
    if beams_deg is not None:
        beams = (("time", "frequency", "polarization", "beam_params_label"),)
        values = np.deg2rad(beams_deg)[np.newaxis, :, np.newaxis]
        cube["BEAM_FIT_PARAMS_SKY"] = (*beams, values, {"units": "rad"})
        cube.coords["beam_params_label"] = ["major", "minor", "pa"]
        cube.attrs["data_groups"]["base"]["beam_fit_params_sky"] = "BEAM_FIT_PARAMS_SKY"
    return cube


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes that consolidated metadata and text are not in zarr's specification yet."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*(Consolidated|consolidated|does not have a Zarr)"
        )
        yield
