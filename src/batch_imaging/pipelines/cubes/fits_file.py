"""FITS cubes in pieces: any box of one read, any box of a pre-sized one written."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from batch_imaging.errors import DataError
from batch_imaging.io.fits_image import BLOCK_BYTES
from batch_imaging.pipelines.cubes.schedule import Place

STOKES = {"I": 1, "Q": 2, "U": 3, "V": 4, "RR": -1, "LL": -2, "RL": -3, "LR": -4}
STOKES |= {"XX": -5, "YY": -6, "XY": -7, "YX": -8}
NO_BEAM_DEG = 1e-30  # some programs write the smallest float32 where a beam could not be fitted


@dataclass(frozen=True, slots=True)
class FitsPixels:
    """The pixels (chan, row, column) of a file, read from disk when they are indexed.

    Attributes
    ----------
    order: axes of the file's array, numpy's way, that are channel, row and column.
    at: index on each of the file's axes; those in ``order`` are replaced.
    """

    path: str
    offset: int
    stored: str
    file_shape: tuple[int, ...]
    order: tuple[int, int, int]
    at: tuple[int, ...]
    scale: float
    zero: float
    blank: int | None

    ndim = 3

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.file_shape[axis] for axis in self.order)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("f8" if self.stored == ">f8" else "f4")

    def __getitem__(self, place: Place) -> NDArray[np.floating[Any]]:
        try:
            pixels = np.memmap(self.path, self.stored, "r", self.offset, self.file_shape)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be read on {platform.node()} ({error}): workers must see the "
                "file under the same name"
            ) from error
        box: list[Any] = list(self.at)
        for axis, part in zip(self.order, place, strict=True):
            box[axis] = part
        rank = np.argsort(np.argsort(self.order))
        stored = np.asarray(pixels[tuple(box)]).transpose(rank)
        values = stored.astype(self.dtype)
        if (self.scale, self.zero) != (1.0, 0.0):
            values = values * self.dtype.type(self.scale) + self.dtype.type(self.zero)
        if self.blank is not None:
            values[stored == self.blank] = np.nan
        return values


def open_fits(path: Path, stokes: str) -> tuple[FitsPixels, fits.Header, NDArray[Any] | None]:
    """Return pixels, header of the axes column, row, channel, and beams of a FITS cube.

    Returns
    -------
    beams: (chan, 3) of the BEAMS table: major and minor axis and position angle, degrees, NaN where
        there is none; or None without a table.

    Raises
    ------
    DataError: it is not a cube.
    """
    try:
        with fits.open(path, memmap=True, do_not_scale_image_data=True) as hdus:
            image = next((hdu for hdu in hdus if hdu.is_image and hdu.header["NAXIS"]), None)
            if image is None or isinstance(image, fits.CompImageHDU):
                raise DataError(f"{path}: there is no uncompressed image in it: unpack it first")
            header, offset = image.header.copy(), int(image.fileinfo()["datLoc"])
            beams = _read_beams(path, hdus)
    except OSError as error:
        raise DataError(f"{path}: not a readable FITS file ({error})") from error
    if path.suffix in {".gz", ".bz2", ".xz", ".Z"}:
        raise DataError(f"{path}: pieces of a compressed file cannot be read: unpack it first")
    return *_pixels(path, header, offset, stokes), beams


def _pixels(
    path: Path, header: fits.Header, offset: int, stokes: str
) -> tuple[FitsPixels, fits.Header]:
    wcs = WCS(header)
    n_axes = header["NAXIS"]
    column, row, channel = wcs.wcs.lng, wcs.wcs.lat, wcs.wcs.spec
    if min(column, row) < 0:
        raise DataError(f"{path}: no celestial axes among {list(wcs.wcs.ctype)}: not an image")
    if channel < 0 or channel >= n_axes:
        raise DataError(
            f"{path}: no spectral axis among {list(wcs.wcs.ctype)}: give a cube with FREQ or a "
            "velocity axis"
        )
    at = [0] * n_axes
    for axis in set(range(n_axes)) - {column, row, channel}:
        at[axis] = _index_on(path, header, axis, wcs.wcs.ctype[axis], stokes)
    pixels = FitsPixels(
        str(path.resolve()),
        offset,
        {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}[header["BITPIX"]],
        tuple(header[f"NAXIS{axis}"] for axis in range(n_axes, 0, -1)),
        tuple(n_axes - 1 - axis for axis in (channel, row, column)),
        tuple(reversed(at)),
        float(header.get("BSCALE", 1.0)),
        float(header.get("BZERO", 0.0)),
        header.get("BLANK") if header["BITPIX"] > 0 else None,
    )
    needed_bytes = offset + np.prod(pixels.file_shape) * abs(header["BITPIX"]) // 8
    if path.stat().st_size < needed_bytes:
        raise DataError(
            f"{path}: it ends early, {path.stat().st_size} of {needed_bytes} bytes: copy it again"
        )
    return pixels, cube_header(header, wcs.sub([column + 1, row + 1, channel + 1]))


def _index_on(path: Path, header: fits.Header, axis: int, ctype: str, stokes: str) -> int:
    """Return the index of the chosen Stokes parameter, 0 on an axis of length one."""
    n = header[f"NAXIS{axis + 1}"]
    if n == 1:
        return 0
    if ctype != "STOKES":
        raise DataError(f"{path}: axis {axis + 1} ({ctype}) has length {n}: cut one out first")
    start, step, pixel = (
        header.get(f"{key}{axis + 1}", 1.0) for key in ("CRVAL", "CDELT", "CRPIX")
    )
    values = [round(start + step * (i + 1 - pixel)) for i in range(n)]
    if STOKES.get(stokes) not in values:
        here = [name for name, value in STOKES.items() if value in values]
        raise DataError(f"{path}: no Stokes {stokes!r}: choose --stokes from {', '.join(here)}")
    return values.index(STOKES[stokes])


def cube_header(header: fits.Header, wcs: WCS) -> fits.Header:
    """Return ``header`` with the axes of ``wcs`` alone, and nothing about how pixels are stored."""
    kept = fits.Header(
        [
            card
            for card in header.cards
            if card.keyword not in {"SIMPLE", "BITPIX", "EXTEND", "BSCALE", "BZERO", "BLANK", "END"}
            and not card.keyword.startswith(("NAXIS", "CTYPE", "CRVAL", "CDELT", "CRPIX", "CUNIT"))
            and not card.keyword.startswith(("PC", "CD", "CROTA", "PV", "DATAM"))
            and card.keyword not in {"CASAMBM", "WCSAXES", "CHECKSUM", "DATASUM", "BEAM"}
        ]
    )
    kept.update(wcs.to_header())
    kept["NAXIS"] = 3
    for axis, length in enumerate(wcs.pixel_shape or (), 1):
        kept[f"NAXIS{axis}"] = length
    return kept


def _read_beams(path: Path, hdus: fits.HDUList) -> NDArray[np.float64] | None:
    if "BEAMS" not in hdus:
        return None
    table = hdus["BEAMS"]
    try:
        columns = [
            np.asarray(table.data[name], np.float64)
            * {"arcsec": 1 / 3600, "rad": np.rad2deg(1.0)}.get(str(unit or default).strip(), 1.0)
            for name, unit, default in zip(
                ("BMAJ", "BMIN", "BPA"),
                (table.columns[name].unit for name in ("BMAJ", "BMIN", "BPA")),
                ("arcsec", "arcsec", "deg"),
                strict=True,
            )
        ]
    except KeyError as error:
        raise DataError(f"{path}: its BEAMS table has no column {error}") from error
    beams = np.stack(columns, axis=1)
    if "POL" in table.columns.names:
        beams = beams[table.data["POL"] == np.min(table.data["POL"])]
    beams[~(beams[:, 0] > NO_BEAM_DEG)] = np.nan
    return beams


@dataclass(frozen=True, slots=True)
class FitsWriter:
    """A cube of four axes, laid out with its tables, whose pixels are written box by box."""

    path: Path
    offset: int
    shape: tuple[int, int, int]
    stored: str

    @classmethod
    def create(
        cls,
        path: Path,
        shape: tuple[int, int, int],
        dtype: Any,
        header: fits.Header,
        beams_deg: NDArray[np.float64] | None,
        channels: Table | None = None,
    ) -> "FitsWriter":
        """Write header, blank space for the pixels, and the tables BEAMS and CHANNELS."""
        stored = np.dtype(dtype).newbyteorder(">")
        whole = fits.Header([("SIMPLE", True), ("BITPIX", -8 * stored.itemsize), ("NAXIS", 4)])
        for axis, length in enumerate((*reversed(shape), 1), 1):
            whole[f"NAXIS{axis}"] = length
        whole["EXTEND"] = True
        whole.extend(header, unique=True, update=False)
        whole["WCSAXES"] = 4
        for key, value in (("CTYPE", "STOKES"), ("CRPIX", 1.0), ("CDELT", 1.0)):
            whole[f"{key}4"] = value
        whole.setdefault("CRVAL4", 1.0)
        if beams_deg is not None:
            whole["CASAMBM"] = (True, "beams by channel in table BEAMS")
            typical = np.nanmedian(beams_deg, axis=0)
            for key, value in zip(("BMAJ", "BMIN", "BPA"), typical, strict=True):
                whole[key] = (float(value), "[deg] median of the channels")
        whole.tofile(path, overwrite=True, padding=True)
        offset = path.stat().st_size
        n_bytes = int(np.prod(shape)) * stored.itemsize
        os.truncate(path, offset + -(-n_bytes // BLOCK_BYTES) * BLOCK_BYTES)
        if beams_deg is not None:
            table = _beams_table(beams_deg)
            fits.append(path, table.data, table.header)
        if channels is not None:
            table = fits.table_to_hdu(channels)
            table.name, table.ver = "CHANNELS", 1
            for column in table.columns:
                if column.unit == "Jy beam-1":
                    column.unit = "Jy/beam"  # as everywhere else
            fits.append(path, table.data, table.header)
        return cls(path, offset, shape, stored.str)

    def write(self, place: Place, block: NDArray[Any]) -> None:
        """Write the pixels of one box, in the longest runs there are."""
        _, rows, columns = self.shape
        chan, row, column = (part.start for part in place)
        stored = np.ascontiguousarray(block, self.stored)
        if block.shape[2] == columns:
            stored = stored.reshape(len(block), 1, -1)
        with self.path.open("rb+") as stream:
            for i, plane in enumerate(stored):
                for j, run in enumerate(plane):
                    first = ((chan + i) * rows + row + j) * columns + column
                    stream.seek(self.offset + first * stored.itemsize)
                    stream.write(run.tobytes())


def _beams_table(beams_deg: NDArray[np.float64]) -> fits.BinTableHDU:
    """Return the BEAMS table; readers choke on blank rows, so missing beams become the median."""
    rows = np.where(np.isfinite(beams_deg), beams_deg, np.nanmedian(beams_deg, axis=0))
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("BMAJ", "1E", "arcsec", array=3600 * rows[:, 0]),
            fits.Column("BMIN", "1E", "arcsec", array=3600 * rows[:, 1]),
            fits.Column("BPA", "1E", "deg", array=rows[:, 2]),
            fits.Column("CHAN", "1J", array=np.arange(len(rows))),
            fits.Column("POL", "1J", array=np.zeros(len(rows))),
        ],
        fits.Header([("NCHAN", len(rows)), ("NPOL", 1)]),
        name="BEAMS",
    )
    table.ver = 1
    return table
