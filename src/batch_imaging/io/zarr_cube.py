"""Spectral cubes as zarr (format 3, with shards), opened by xarray.

Names and dimensions are those of XRADIO's images: SKY (time, frequency, polarization, l, m) and
BEAM_FIT_PARAMS_SKY with its axes in radians. What FITS says besides stands in the attribute
`fits_header`, text with a card a line, of the axes column, row and channel, so that a cube goes
back and forth without loss. Cubes of planes have the columns of the table CHANNELS as variables.
"""

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray
import zarr
from astropy.io import fits
from astropy.table import Column, Table
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from batch_imaging.errors import DataError
from batch_imaging.io.fits_image import (
    Beams,
    ImageHeader,
    make_header,
    not_written,
    partial_path,
    previous_path,
)
from batch_imaging.model.image import ImageGeometry

DIMENSIONS = ("time", "frequency", "polarization", "l", "m")
LARGEST_SHARD_BYTES = 512e6
TILE = 512  # pixels along l and m of a chunk
CHANNEL_VARIABLES = ("WIDTH", "HAS_BEAM", "OUTCOME", "RMS", "PEAK")  # of the table CHANNELS
# Noise does not shrink, at any level; models and blank tiles do at the fastest.
COMPRESSORS = (ZstdCodec(level=-1),)


@dataclass(frozen=True, slots=True)
class ZarrPixels:
    """The pixels (chan, row, column) of a cube, read from disk when they are indexed."""

    path: str
    shape: tuple[int, int, int]
    stored: str
    stokes: int = 0

    ndim = 3

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.stored)

    def __getitem__(self, place: tuple[slice, slice, slice]) -> NDArray[Any]:
        chan, row, column = place
        sky = zarr.open_array(self.path, path="SKY", mode="r")
        return np.asarray(sky[0, chan, self.stokes, column, row]).swapaxes(1, 2)


def open_zarr_cube(
    path: Path, stokes: str = "I"
) -> tuple[ZarrPixels, fits.Header, NDArray[np.float64] | None]:
    """Return pixels, header of the axes column, row, channel, and beams of a cube.

    Parameters
    ----------
    stokes: parameter to take where there are several.

    Returns
    -------
    beams: (chan, 3) major and minor axis and position angle, degrees; or None without any.

    Raises
    ------
    DataError: it was not written by this program, or has no such Stokes parameter.
    """
    try:
        with xarray.open_zarr(path, chunks=None) as cube:
            n_times, n_chan, n_stokes, columns, rows = cube["SKY"].shape
            there = [str(name) for name in cube["polarization"].values]
            header = fits.Header.fromstring(cube.attrs["fits_header"], sep="\n")
            stored = cube["SKY"].dtype.str
            beams = cube.get("BEAM_FIT_PARAMS_SKY")
            number = 0 if n_stokes == 1 else there.index(stokes) if stokes in there else -1
            beams_deg = None if beams is None else np.rad2deg(beams.to_numpy()[0, :, number])
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: not a zarr cube of this program ({error}): it needs SKY {DIMENSIONS} and the "
            "attribute fits_header; `batch-imaging cube rechunk` makes one from FITS"
        ) from error
    if n_times > 1:
        raise DataError(f"{path}: a series in time, without a spectral axis: give a cube with one")
    if number < 0:
        raise DataError(f"{path}: no Stokes {stokes}; there is {', '.join(there)}")
    pixels = ZarrPixels(str(path.resolve()), (n_chan, rows, columns), stored, number)
    return pixels, header, beams_deg


def read_zarr_channels(path: Path) -> Table:
    """Return what a cube says of each channel, as the table CHANNELS of a FITS cube does."""
    table = Table()
    with xarray.open_zarr(path, chunks=None) as cube:
        known = {"FREQ": cube["frequency"]} | {name: cube.get(name) for name in CHANNEL_VARIABLES}
        for name, values in known.items():
            if values is not None and values.dims == ("frequency",):
                array = values.to_numpy()
                is_text = array.dtype.kind in "OUT"
                unit = values.attrs.get("units") or None
                table[name] = Column(array.astype("S") if is_text else array, unit=unit)
    return table


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
        channels: Table | None = None,
    ) -> "ZarrWriter":
        """Write everything but the pixels.

        Parameters
        ----------
        block: (channels, rows, columns) that will be written at a time: shards are made of these.
        chunk: what is read at least; by default one channel and a tile.
        channels: what is known of each channel; columns become variables along frequency.
        """
        chunk = chunk or (1, min(TILE, block[1]), min(TILE, block[2]))
        shard = shard_shape(shape, np.dtype(dtype).itemsize, block, chunk)
        n_chan, rows, columns = shape
        cube = _layout((1, n_chan, 1, columns, rows), dtype, header, freq_hz, [time_mjd_s], ["I"])
        if beams_deg is not None:
            cube = _with_beams(cube, np.deg2rad(beams_deg)[np.newaxis, :, np.newaxis])
        for column in channels.itercols() if channels is not None else ():
            if column.name in CHANNEL_VARIABLES:
                units = {"units": column.unit.to_string().replace(" ", "")} if column.unit else {}
                values = column.astype(str) if column.dtype.kind == "S" else column
                cube[column.name] = ("frequency", np.asarray(values), units)
        sky = {"chunks": _as_stored(chunk), "shards": _as_stored(shard)}
        encoding = {"SKY": {**sky, "compressors": COMPRESSORS}}
        with _quiet():
            cube.to_zarr(path, mode="w", compute=False, zarr_format=3, encoding=encoding)
        return cls(path)

    def write(self, place: tuple[slice, slice, slice], block: NDArray[Any]) -> None:
        """Write the pixels of one box."""
        chan, row, column = place
        sky = zarr.open_array(str(self.path), path="SKY", mode="r+")
        sky[0, chan, 0, column, row] = block.swapaxes(1, 2)


@dataclass(frozen=True, slots=True)
class ZarrPlaneWriter:
    """A cube of planes that any number of processes write, each a shard of its own.

    It is used as `FitsCubeWriter` is, and `write_zarr_plane` writes its planes.
    """

    path: Path
    geometry: ImageGeometry
    header: ImageHeader
    date: datetime

    def create(self) -> None:
        """Make the partial cube; a plane that was never written is NaN.

        Raises
        ------
        ProductError: there is no room for it, or no permission.
        """
        partial, npixel = partial_path(self.path), self.geometry.npixel
        tile = min(TILE, npixel)
        shard = (1, 1, 1, *(tile * ceil(npixel / tile),) * 2)
        sky = {"chunks": (1, 1, 1, tile, tile), "shards": shard, "fill_value": np.nan}
        encoding = {"SKY": {**sky, "compressors": COMPRESSORS}}
        needed_bytes = 4 * self.header.n_planes * npixel**2
        try:
            if shutil.disk_usage(partial.parent).free < needed_bytes:
                raise OSError(f"it takes {needed_bytes / 1e9:.3g} GB, more than is free there")
            shutil.rmtree(partial, ignore_errors=True)
            with _quiet():
                self._layout().to_zarr(
                    partial, compute=False, zarr_format=3, encoding=encoding, consolidated=True
                )
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise not_written(self.path, error) from error

    def is_begun(self) -> bool:
        """Return whether the partial cube is there as `create` made it, but for its planes."""
        try:  # metadata are consolidated last
            found: Any = zarr.open_consolidated(partial_path(self.path), mode="r")
        except (OSError, ValueError, KeyError):
            return False
        wanted = self._layout()
        return bool(
            found["SKY"].shape == wanted["SKY"].shape
            and found.attrs.get("fits_header") == wanted.attrs["fits_header"]
        )

    def finish(
        self,
        beams: Beams = (),
        rms: NDArray[np.float64] | None = None,
        peak: NDArray[np.float64] | None = None,
        outcome: Sequence[str] | None = None,
    ) -> None:
        """Add what is known of the planes, and give the cube its name."""
        about = self._about(beams, rms, peak, outcome)
        partial, previous = partial_path(self.path), previous_path(self.path)
        try:
            with _quiet():
                about.to_zarr(partial, mode="a", consolidated=True)
            shutil.rmtree(previous, ignore_errors=True)
            if self.path.exists():
                self.path.replace(previous)
            partial.replace(self.path)
            shutil.rmtree(previous, ignore_errors=True)
        except OSError as error:
            raise not_written(self.path, error) from error

    @property
    def _shape(self) -> tuple[int, int, int, int, int]:
        n_chan, in_time = self.header.n_chan, self.header.time_mjd_s is not None
        planes = (n_chan, 1) if in_time else (1, n_chan)
        return *planes, len(self.header.stokes), self.geometry.npixel, self.geometry.npixel

    def _layout(self, beams: Beams = ()) -> xarray.Dataset:
        header, n_chan = self.header, self._shape[1]
        if header.time_mjd_s is None:
            time_mjd_s = np.array([(header.start_mjd_s + header.end_mjd_s) / 2])
        else:
            time_mjd_s = header.time_mjd_s.mean(axis=1)
        cards = make_header(self.geometry, header, self.date, beams, most_axes=3)
        cube = _layout(self._shape, "f4", cards, header.freq_hz[:n_chan], time_mjd_s, header.stokes)
        along = "frequency" if header.time_mjd_s is None else "time"
        cube["WIDTH"] = (along, header.chan_width_hz, {"units": "Hz"})
        if header.time_mjd_s is not None:
            for name, times in zip(("BEGIN", "END"), header.time_mjd_s.T, strict=True):
                cube[name] = (along, times, {"units": "s"})
        return cube

    def _about(
        self,
        beams: Beams,
        rms: NDArray[np.float64] | None,
        peak: NDArray[np.float64] | None,
        outcome: Sequence[str] | None,
    ) -> xarray.Dataset:
        cube = self._layout(beams)
        along = cube["WIDTH"].dims
        for name, values in (("RMS", rms), ("PEAK", peak)):
            if values is not None:
                cube[name] = (along, values, {"units": self.header.unit})
        if outcome is not None:
            cube["OUTCOME"] = (along, list(outcome))
        if beams:
            cube["HAS_BEAM"] = (along, [beam is not None for beam in beams])
            blank = (np.nan,) * 3
            each = [(b.bmaj_rad, b.bmin_rad, b.bpa_rad) if b else blank for b in beams]
            shape = (*self._shape[:2], 1, 3)
            n_stokes = len(self.header.stokes)
            cube = _with_beams(cube, np.repeat(np.reshape(each, shape), n_stokes, axis=2))
        return cube.drop_vars(["SKY", *DIMENSIONS])


def write_zarr_plane(path: Path, index: int, plane: NDArray[np.float32]) -> None:
    """Write one plane (row, column) of a cube that a `ZarrPlaneWriter` made under the same path."""
    try:
        sky = zarr.open_array(partial_path(path), path="SKY", mode="r+")
        sky[_place(sky, index)] = plane.T
    except (OSError, ValueError, IndexError) as error:
        raise not_written(path, error) from error


def read_zarr_plane(path: Path, index: int) -> NDArray[np.float32]:
    """Read one plane (row, column) of a cube of this module; OSError if it is not whole."""
    try:
        sky = zarr.open_array(path, path="SKY", mode="r")
        return np.ascontiguousarray(np.asarray(sky[_place(sky, index)], dtype=np.float32).T)
    except (RuntimeError, ValueError) as error:
        raise OSError(f"{path}: plane {index} cannot be read ({error})") from error


def _place(sky: zarr.Array[Any], index: int) -> tuple[int, int, int]:
    """Return time, channel and Stokes parameter of a plane, counted as in FITS."""
    n_times, n_chan = sky.shape[:2]
    stokes, plane = divmod(index, n_times * n_chan)
    return *divmod(plane, n_chan), stokes


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
    shape: tuple[int, int, int, int, int],
    dtype: Any,
    header: fits.Header,
    freq_hz: NDArray[np.float64],
    time_mjd_s: Sequence[float] | NDArray[np.float64],
    stokes: Sequence[str],
) -> xarray.Dataset:
    l_rad, m_rad = (
        np.deg2rad(header[f"CDELT{axis}"]) * (np.arange(n) + 1 - header[f"CRPIX{axis}"])
        for axis, n in enumerate(shape[3:], start=1)
    )
    sky = da.zeros(shape, dtype=dtype, chunks=-1)
    rest_hz = {"value": header.get("RESTFRQ"), "units": "Hz"}
    frame = header.get("SPECSYS", "").strip()
    frequency = {"units": "Hz", "observer": frame, "rest_frequency": rest_hz, "type": "frequency"}
    time_days = np.asarray(time_mjd_s) / 86400
    return xarray.Dataset(
        {"SKY": (DIMENSIONS, sky, {"units": header.get("BUNIT", ""), "type": "sky"})},
        {
            "time": ("time", time_days, {"units": "d", "format": "mjd", "scale": "utc"}),
            "frequency": ("frequency", freq_hz, frequency),
            "polarization": ("polarization", list(stokes)),
            "l": ("l", l_rad, {"units": "rad"}),
            "m": ("m", m_rad, {"units": "rad"}),
        },
        {
            "type": "image_dataset",
            "data_groups": {"base": {"sky": "SKY"}},
            "fits_header": header.tostring(sep="\n", endcard=False, padding=False),
        },
    )


def _with_beams(cube: xarray.Dataset, beams_rad: NDArray[np.float64]) -> xarray.Dataset:
    """Return the cube with beams (time, chan, stokes, 3)."""
    dimensions = (*DIMENSIONS[:3], "beam_params_label")
    cube["BEAM_FIT_PARAMS_SKY"] = (dimensions, beams_rad, {"units": "rad"})
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
