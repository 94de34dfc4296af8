"""FITS images and spectral cubes: one file, four axes RA---SIN, DEC--SIN, FREQ, STOKES.

The image is followed by a BEAMS table where beams differ between channels, in the form that CASA,
CARTA and spectral-cube read, and by a CHANNELS table of the true frequencies; docs/products.md
lists every keyword. A file takes its final name when it is complete. Until then it ends in
`.partial`, and any number of processes may write its planes.
"""

import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from astropy import units
from astropy.coordinates import FK5, ICRS
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame
from numpy.typing import NDArray

from batch_imaging.errors import DataError, ProductError
from batch_imaging.model.beam import RestoringBeam
from batch_imaging.model.direction import Direction
from batch_imaging.model.image import ImageGeometry
from batch_imaging.model.spectral_axis import Frame, velocity_from_freq

Beams = tuple[RestoringBeam | None, ...]

BLOCK_BYTES = 2880
CARD_BYTES = 80
MJD_EPOCH = datetime(1858, 11, 17)
SPECSYS = {"TOPO": "TOPOCENT", "BARY": "BARYCENT", "LSRK": "LSRK"}
VELREF = {"LSRK": 1, "BARY": 2, "TOPO": 3}  # AIPS memo 117
VELREF_RADIO = 256
STOKES_CODES = {"I": 1, "Q": 2, "U": 3, "V": 4, "RR": -1, "LL": -2, "RL": -3, "LR": -4} | {
    "XX": -5,
    "YY": -6,
    "XY": -7,
    "YX": -8,
}
REGULAR_WITHIN = 1e-6  # channel widths that a regular axis may be off its straight line
SAME_GRID_WITHIN = 0.01  # pixels that a foreign image may be off our geometry


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who made a product, with which program, in which block, from which parameters."""

    origin: str
    pipeline_version: str
    git_commit: str
    pb_id: str
    eb_id: str
    parameter_hash: str


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image file says beside pixels and their grid.

    Attributes
    ----------
    freq_hz, chan_width_hz: (chan,) float64, centres (ascending or descending) and positive widths.
    unit: of the pixels; "" for a point spread function.
    start_mjd_s, end_mjd_s: of the observation, UTC, modified Julian date in seconds; NaN: unknown.
    reference_itrf_m: (3,) geocentric position of the array, metres; NaN: unknown.
    beams: one a channel, None where none could be fitted; or empty.
    rest_freq_hz: of the line; by default the frequency of the middle channel.
    history: lines of any length.
    frame: in which the frequencies hold.
    stokes: names of the planes at each frequency, at equal steps of their codes in FITS.
    velocity: convention of the velocities that the axis shows instead of frequencies.
    time_mjd_s: (chan, 2) begin and end of each plane of a series in time; then all planes have one
        frequency, and every "channel" of this module is a step in time.
    """

    freq_hz: NDArray[np.float64]
    chan_width_hz: NDArray[np.float64]
    unit: Literal["Jy/beam", "Jy/pixel", ""]
    object_name: str
    telescope: str
    observer: str
    start_mjd_s: float
    end_mjd_s: float
    reference_itrf_m: NDArray[np.float64]
    provenance: Provenance
    beams: Beams = ()
    rest_freq_hz: float | None = None
    history: tuple[str, ...] = ()
    frame: Frame = "TOPO"
    stokes: tuple[str, ...] = ("I",)
    velocity: Literal["radio", "optical"] | None = None
    time_mjd_s: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.n_chan == 0 or self.chan_width_hz.shape != self.freq_hz.shape:
            raise ProductError(
                f"image header of {self.object_name!r}: {self.freq_hz.shape} frequencies and "
                f"{self.chan_width_hz.shape} channel widths: give both for every channel"
            )
        step_hz = np.diff(self.freq_hz)
        ordered = (step_hz > 0).all() or (step_hz < 0).all() or self.time_mjd_s is not None
        if not (self.chan_width_hz > 0).all() or not ordered:
            raise ProductError(
                f"image header of {self.object_name!r}: widths must be positive and frequencies "
                "must ascend or descend: sort the channels first"
            )

    @property
    def n_chan(self) -> int:
        return len(self.freq_hz)

    @property
    def n_planes(self) -> int:
        """Channels × Stokes parameters; all channels of the first Stokes parameter come first."""
        return self.n_chan * len(self.stokes)


def write_fits_image(
    path: Path,
    cube: NDArray[np.float32],
    geometry: ImageGeometry,
    header: ImageHeader,
    *,
    rms: NDArray[np.float64] | None = None,
    peak: NDArray[np.float64] | None = None,
    date: datetime | None = None,
) -> None:
    """Write an image or a cube that is held in memory.

    Parameters
    ----------
    cube: (chan, row, column), or (row, column) where there is one channel; NaN is blank.
    rms, peak: (chan,) columns of the CHANNELS table, in the unit of the image.
    date: UTC, stands in DATE; by default SOURCE_DATE_EPOCH of the environment, else now.

    Raises
    ------
    ProductError: shapes disagree, or the file could not be written; nothing is left of it.
    """
    planes = cube[np.newaxis] if cube.ndim == 2 else cube
    if planes.shape != (header.n_chan, *geometry.shape):
        raise ProductError(
            f"{path}: the image has shape {cube.shape}, its header and geometry say "
            f"{(header.n_chan, *geometry.shape)}"
        )
    with FitsCubeWriter(path, geometry, header, date) as writer:
        for index, plane in enumerate(planes):
            write_plane(path, index, plane)
        writer.finish(header.beams, rms=rms, peak=peak)


@dataclass(frozen=True, slots=True)
class FitsCubeWriter:
    """A cube written plane by plane, by any number of processes.

    `create` makes `<path>.partial`, filled with NaN. Every process may then call
    `write_plane(path, …)`. `finish` completes the header, appends the tables and gives the file its
    name. Each may be called in a process of its own, on a copy of the writer. As a context it
    creates the file, and without `finish` nothing stays behind. No more than a plane is held in
    memory.
    """

    path: Path
    geometry: ImageGeometry
    header: ImageHeader
    date: datetime | None = None

    def __enter__(self) -> Self:
        self.create()
        return self

    def __exit__(self, *_: object) -> None:
        partial_path(self.path).unlink(missing_ok=True)

    def create(self) -> None:
        """Make the partial file.

        Raises
        ------
        ProductError: there is no room for it, or no permission.
        """
        # NaN is written, not skipped: a full disk shows now and not after hours of imaging.
        blank = np.full(self.geometry.shape, np.nan, dtype=">f4")
        partial = partial_path(self.path)
        try:
            with partial.open("wb") as stream:
                stream.write(self._primary_header())
                for _ in range(self.header.n_planes):
                    stream.write(blank.data)
                stream.write(bytes(-stream.tell() % BLOCK_BYTES))
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise not_written(self.path, error) from error

    def is_begun(self) -> bool:
        """Return whether the partial file is there as `create` made it, but for its planes."""
        partial, head = partial_path(self.path), self._primary_header()
        if not partial.is_file():
            return False
        n_bytes = len(head) + 4 * self.header.n_planes * self.geometry.npixel**2
        with partial.open("rb") as stream:
            same = stream.read(len(head)) == head
        return same and partial.stat().st_size == n_bytes + -n_bytes % BLOCK_BYTES

    def finish(
        self,
        beams: Beams = (),
        rms: NDArray[np.float64] | None = None,
        peak: NDArray[np.float64] | None = None,
        outcome: Sequence[str] | None = None,
    ) -> None:
        """Complete the file, with the arguments of `ImageHeader` and `write_fits_image`.

        ``outcome`` is a word for each channel, for the CHANNELS table.
        """
        n_chan = self.header.n_chan
        for name, values in (("beams", beams or None), ("rms", rms), ("peak", peak)):
            if values is not None and len(values) != n_chan:
                raise ProductError(f"{self.path}: {name} has {len(values)} values, not {n_chan}")
        tables = [_channels_table(self.header, beams, rms, peak, outcome)]
        if (typical := _typical_beam(beams)) is not None and _beams_differ(beams):
            tables.insert(0, _beams_table(beams, typical, len(self.header.stokes)))
        partial = partial_path(self.path)
        try:  # what fails here leaves the planes to another attempt
            with partial.open("r+b") as stream:
                stream.write(self._primary_header(beams, self._extremes()))
            with fits.open(partial, mode="append") as hdus:
                for table in tables:
                    hdus.append(table)
            _publish(partial, self.path)
        except OSError as error:
            raise not_written(self.path, error) from error

    def _extremes(self) -> tuple[float, float] | None:
        """Return the lowest and the highest finite pixel that was written, None without any."""
        lows, highs = [], []
        with partial_path(self.path).open("rb") as stream:
            stream.seek(len(self._primary_header()))
            for _ in range(self.header.n_planes):
                plane = np.fromfile(stream, dtype=">f4", count=self.geometry.npixel**2)
                finite = plane[np.isfinite(plane)]
                if finite.size:
                    lows.append(float(finite.min()))
                    highs.append(float(finite.max()))
        return (min(lows), max(highs)) if lows else None

    def _primary_header(
        self, beams: Beams = (), extremes: tuple[float, float] | None = None
    ) -> bytes:
        """Return the primary header, equally long before and after beams and pixels are known."""
        about = self.geometry, self.header, self.date
        many = RestoringBeam(2, 1, 0), RestoringBeam(1, 1, 0)
        fullest = make_header(*about, many, (0.0, 0.0))
        n_bytes = len(fullest.tostring())
        text: str = make_header(*about, beams, extremes).tostring(endcard=False, padding=False)
        # END has to stand in the last block: blank records before it hold room that is not used.
        text = text.ljust(n_bytes - BLOCK_BYTES) + "END"
        return text.ljust(n_bytes).encode("ascii")


def make_header(
    geometry: ImageGeometry,
    header: ImageHeader,
    date: datetime | None,
    beams: Beams = (),
    extremes: tuple[float, float] | None = None,
    *,
    most_axes: int | None = None,
) -> fits.Header:
    """Return the primary header's keywords: conventions and reasons in docs/products.md.

    Parameters
    ----------
    extremes: lowest and highest pixel.
    most_axes: leave out the axes after these, where something else says what they hold.
    """
    centre, cell_deg = geometry.phase_centre, float(np.rad2deg(geometry.cell_rad))
    ra_deg, dec_deg = _degrees(centre.ra_rad % (2 * np.pi)), _degrees(centre.dec_rad)
    axes = [
        ("RA---SIN", geometry.npixel, geometry.npixel / 2 + 1, ra_deg, -cell_deg, "deg"),
        ("DEC--SIN", geometry.npixel, geometry.npixel / 2 + 1, dec_deg, cell_deg, "deg"),
        *_plane_axes(header),
    ][:most_axes]
    cards: list[tuple[Any, ...]] = [
        ("SIMPLE", True, "FITS standard 4.0"),
        ("BITPIX", -32, "IEEE single precision"),
        ("NAXIS", len(axes)),
        *((f"NAXIS{i}", axis[1]) for i, axis in enumerate(axes, 1)),
        ("EXTEND", True),
        ("BUNIT", header.unit),
        ("BTYPE", "Intensity"),
    ]
    if extremes is not None:
        cards += [("DATAMIN", extremes[0]), ("DATAMAX", extremes[1])]
    if (beam := _typical_beam(beams)) is not None:
        cards += [
            ("BMAJ", float(np.rad2deg(beam.bmaj_rad)), "[deg] median of the channels"),
            ("BMIN", float(np.rad2deg(beam.bmin_rad)), "[deg] median of the channels"),
            ("BPA", float(np.rad2deg(beam.bpa_rad)), "[deg] east of north"),
        ]
    if _beams_differ(beams):
        cards.append(("CASAMBM", True, "beams by channel in table BEAMS"))
    for i, (ctype, _, crpix, crval, cdelt, cunit) in enumerate(axes, 1):
        cards += [
            (f"CTYPE{i}", ctype),
            (f"CRPIX{i}", crpix),
            (f"CRVAL{i}", crval),
            (f"CDELT{i}", cdelt),
            (f"CUNIT{i}", cunit),
        ]
    rest_freq_hz = header.rest_freq_hz or header.freq_hz[header.n_chan // 2]
    if header.time_mjd_s is not None:
        cards.append(("MJDREF", header.start_mjd_s / 86400, "zero of axis 3"))
    middle_mjd_s = (header.start_mjd_s + header.end_mjd_s) / 2
    provenance = header.provenance
    cards += [
        ("RADESYS", "ICRS"),
        ("LONPOLE", 180.0),
        ("LATPOLE", dec_deg),
        ("RESTFRQ", float(rest_freq_hz), "[Hz]"),
        ("SPECSYS", SPECSYS[header.frame]),
        ("SSYSOBS", "TOPOCENT"),
        ("VELREF", _velref(header), "1 LSR, 2 HEL, 3 OBS, +256 radio"),
        ("TIMESYS", "UTC"),
    ]
    if np.isfinite(middle_mjd_s):
        cards += [
            ("DATE-OBS", _iso(header.start_mjd_s), "start"),
            ("DATE-AVG", _iso(middle_mjd_s), "middle"),
            ("DATE-END", _iso(header.end_mjd_s), "end"),
            ("MJD-OBS", header.start_mjd_s / 86400),
            ("MJD-AVG", middle_mjd_s / 86400),
            ("MJD-END", header.end_mjd_s / 86400),
        ]
    cards += [
        ("DATE", _file_date(date), "of this file"),
        ("OBJECT", _ascii(header.object_name)),
        ("TELESCOP", _ascii(header.telescope)),
        ("INSTRUME", _ascii(header.telescope)),
        ("OBSERVER", _ascii(header.observer)),
        ("OBSRA", ra_deg, "[deg]"),
        ("OBSDEC", dec_deg, "[deg]"),
        *(
            (f"OBSGEO-{x}", float(m), "[m] ITRF")
            for x, m in zip("XYZ", header.reference_itrf_m, strict=True)
            if np.isfinite(m)
        ),
        ("ORIGIN", _ascii(provenance.origin)),
        ("PIPEVER", _ascii(provenance.pipeline_version)),
        ("PIPEGIT", _ascii(provenance.git_commit)),
        ("PBID", _ascii(provenance.pb_id)),
        ("EBID", _ascii(provenance.eb_id)),
        ("PARHASH", _ascii(provenance.parameter_hash)),
    ]
    history = (part for line in header.history for part in textwrap.wrap(_ascii(line), 72))
    cards += [("HISTORY", part) for part in history]
    return fits.Header(cards)


def write_plane(path: Path, index: int, plane: NDArray[np.float32]) -> None:
    """Write one plane (row, column) of a cube that a `FitsCubeWriter` made under the same path."""
    try:
        with partial_path(path).open("r+b") as stream:
            header = fits.Header.fromfile(stream)
            shape = (header["NAXIS2"], header["NAXIS1"])
            n_planes = header["NAXIS3"] * header["NAXIS4"]
            if plane.shape != shape or not 0 <= index < n_planes:
                raise ProductError(
                    f"{path}: plane {index} of shape {plane.shape} does not fit the {n_planes} "
                    f"planes of shape {shape} that the cube was made for"
                )
            stream.seek(index * 4 * plane.size, os.SEEK_CUR)
            stream.write(np.ascontiguousarray(plane, dtype=">f4").data)
    except OSError as error:
        raise not_written(path, error) from error


def read_plane(path: Path, index: int) -> NDArray[np.float32]:
    """Read one plane (row, column) of a file of this module; EOFError if it is cut off before."""
    with path.open("rb") as stream:
        header = fits.Header.fromfile(stream)
        shape = (header["NAXIS2"], header["NAXIS1"])
        stream.seek(index * 4 * shape[0] * shape[1], os.SEEK_CUR)
        pixels = np.fromfile(stream, dtype=">f4", count=shape[0] * shape[1])
    if pixels.size < shape[0] * shape[1]:
        raise EOFError(f"{path}: ends before plane {index}")
    return pixels.reshape(shape).astype(np.float32)


def read_fits_image(
    path: Path,
) -> tuple[NDArray[np.float32], ImageGeometry, NDArray[np.float64], Beams]:
    """Read a SIN image or cube of one Stokes parameter, ours or another program's.

    Returns
    -------
    cube: (chan, row, column); NaN is blank.
    geometry: its pixel grid.
    freq_hz: (chan,); NaN where the file names no frequency.
    beams: one a channel, None where the file gives none.

    Raises
    ------
    DataError: the file is no FITS image on a grid that `ImageGeometry` can describe.
    """
    with _open_image(path) as (hdus, image):
        geometry, freq_hz = _read_grid(path, hdus, image)
        cube = np.ascontiguousarray(image.data.reshape(-1, *geometry.shape), dtype=np.float32)
        return cube, geometry, freq_hz, _read_beams(hdus, image.header, len(cube))


def read_fits_grid(path: Path) -> tuple[ImageGeometry, NDArray[np.float64]]:
    """Read geometry and freq_hz as `read_fits_image` does, without pixels."""
    with _open_image(path) as (hdus, image):
        return _read_grid(path, hdus, image)


def read_fits_plane(path: Path, index: int) -> NDArray[np.float32]:
    """Read one plane (row, column) of a file that `read_fits_image` takes."""
    with _open_image(path) as (_, image):
        outer = np.unravel_index(index, image.shape[:-2])
        return np.ascontiguousarray(image.section[outer], dtype=np.float32)


@contextmanager
def _open_image(path: Path) -> Iterator[tuple[fits.HDUList, fits.PrimaryHDU]]:
    """Yield the tables and the image of a file."""
    try:
        hdus = fits.open(path, memmap=False)
    except OSError as error:
        raise DataError(f"{path}: cannot be read as FITS: {error}") from error
    with hdus:
        image = next((hdu for hdu in hdus if hdu.is_image and hdu.header["NAXIS"] >= 2), None)
        if image is None:
            raise DataError(f"{path}: holds no image: give a FITS file with two axes or more")
        yield hdus, image


def _read_grid(
    path: Path, hdus: fits.HDUList, image: fits.PrimaryHDU
) -> tuple[ImageGeometry, NDArray[np.float64]]:
    # Deprecated units and keywords of other programs are put right without a warning for each.
    wcs = WCS(image.header, fix=False)
    wcs.wcs.fix()
    freq_hz = _read_freq(hdus, wcs)
    n_planes = int(np.prod(image.shape[:-2], dtype=int))
    if n_planes != len(freq_hz):
        raise DataError(
            f"{path}: {n_planes} planes for {len(freq_hz)} frequencies: split the file into "
            "one for each Stokes parameter"
        )
    return _read_geometry(path, wcs, image.shape[-2:]), freq_hz


def partial_path(path: Path) -> Path:
    """Return the name a product has while it is incomplete."""
    return path.with_name(f"{path.name}.partial")


def previous_path(path: Path) -> Path:
    """Return the name of what a new product is about to replace."""
    return path.with_name(f"{path.name}.previous")


@contextmanager
def publishing(path: Path) -> Iterator[Path]:
    """Yield the name to write under; the file takes its final name if the block succeeds."""
    partial = partial_path(path)
    try:
        yield partial
        _publish(partial, path)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def _publish(partial: Path, path: Path) -> None:
    with partial.open("rb+") as stream:
        os.fsync(stream.fileno())
    partial.replace(path)


def not_written(path: Path, error: Exception) -> ProductError:
    return ProductError(
        f"{path}: could not be written ({error}): look at the free space and the permissions of "
        f"{path.parent}"
    )


def _plane_axes(header: ImageHeader) -> list[tuple[str, int, float, float, float, str]]:
    """Return name, length, CRPIX, CRVAL, CDELT and unit of the axes after those of the sky."""
    codes = [STOKES_CODES[name] for name in header.stokes]
    step = float(codes[1] - codes[0]) if len(codes) > 1 else 1.0
    stokes = ("STOKES", len(codes), 1.0, float(codes[0]), step, "")
    freq_hz, width_hz = header.freq_hz, header.chan_width_hz
    if header.time_mjd_s is not None:
        middle_s = header.time_mjd_s.mean(axis=1) - header.start_mjd_s
        first, step = _linear_axis(middle_s, np.ptp(header.time_mjd_s, axis=1))
        freq = ("FREQ", 1, 1.0, float(freq_hz[0]), float(width_hz[0]), "Hz")
        return [("TIME", header.n_chan, 1.0, first, step, "s"), stokes, freq]
    if header.velocity is None or header.rest_freq_hz is None:
        first, step = _linear_axis(freq_hz, width_hz)
        return [("FREQ", header.n_chan, 1.0, first, step, "Hz"), stokes]
    low, high = (
        velocity_from_freq(freq_hz + offset * width_hz, header.rest_freq_hz, header.velocity)
        for offset in (0.5, -0.5)
    )
    first, step = _linear_axis((low + high) / 2, high - low)
    if header.n_chan == 1:
        step = float(high[0] - low[0])
    name = "VRAD" if header.velocity == "radio" else "VOPT"
    return [(name, header.n_chan, 1.0, first, step, "m/s"), stokes]


def _velref(header: ImageHeader) -> int:
    return VELREF[header.frame] + (0 if header.velocity == "optical" else VELREF_RADIO)


def _linear_axis(centre: NDArray[np.float64], width: NDArray[np.float64]) -> tuple[float, float]:
    """Return the first centre and the step, of best fit if irregular."""
    n_chan = len(centre)
    if n_chan == 1:
        return float(centre[0]), float(width[0])
    step = (centre[-1] - centre[0]) / (n_chan - 1)
    off_line = centre - (centre[0] + step * np.arange(n_chan))
    if (np.abs(off_line) <= REGULAR_WITHIN * width).all():
        return float(centre[0]), float(step)
    correction, offset = np.polyfit(np.arange(n_chan), off_line, 1)
    return float(centre[0] + offset), float(step + correction)


def _typical_beam(beams: Beams) -> RestoringBeam | None:
    """Return the medians over the channels that have a beam."""
    good = [beam for beam in beams if beam is not None]
    if not good:
        return None
    # Position angles repeat after π: take the median about their axial mean.
    bpa_rad = np.array([beam.bpa_rad for beam in good])
    mean_rad = np.angle(np.exp(2j * bpa_rad).sum()) / 2
    about_mean_rad = (bpa_rad - mean_rad + np.pi / 2) % np.pi - np.pi / 2
    return RestoringBeam(
        bmaj_rad=float(np.median([beam.bmaj_rad for beam in good])),
        bmin_rad=float(np.median([beam.bmin_rad for beam in good])),
        bpa_rad=float(mean_rad + np.median(about_mean_rad)),
    )


def _beams_differ(beams: Beams) -> bool:
    return len({beam for beam in beams if beam is not None}) > 1


def _beams_table(beams: Beams, typical: RestoringBeam, n_pol: int) -> fits.BinTableHDU:
    """Return the BEAMS table; readers choke on blank rows, so missing beams become the median."""
    n_chan, rows = len(beams), [beam or typical for beam in beams] * n_pol
    bmaj_deg, bmin_deg, bpa_deg = np.rad2deg(
        [(beam.bmaj_rad, beam.bmin_rad, beam.bpa_rad) for beam in rows]
    ).T
    return fits.BinTableHDU.from_columns(
        [
            fits.Column("BMAJ", "1E", "arcsec", array=3600 * bmaj_deg),
            fits.Column("BMIN", "1E", "arcsec", array=3600 * bmin_deg),
            fits.Column("BPA", "1E", "deg", array=bpa_deg),
            fits.Column("CHAN", "1J", array=np.tile(np.arange(n_chan), n_pol)),
            fits.Column("POL", "1J", array=np.repeat(np.arange(n_pol), n_chan)),
        ],
        fits.Header([("NCHAN", n_chan), ("NPOL", n_pol)]),
        name="BEAMS",
        ver=1,
    )


def _channels_table(
    header: ImageHeader,
    beams: Beams,
    rms: NDArray[np.float64] | None,
    peak: NDArray[np.float64] | None,
    outcome: Sequence[str] | None = None,
) -> fits.BinTableHDU:
    """Return the CHANNELS table: true frequencies, and what is known of each channel."""
    columns = [
        fits.Column("FREQ", "1D", "Hz", array=header.freq_hz),
        fits.Column("WIDTH", "1D", "Hz", array=header.chan_width_hz),
    ]
    if beams:
        has_beam = [beam is not None for beam in beams]
        columns.append(fits.Column("HAS_BEAM", "1L", array=has_beam))
    if header.time_mjd_s is not None:
        for name, times in zip(("BEGIN", "END"), header.time_mjd_s.T, strict=True):
            columns.append(fits.Column(name, "1D", "s", array=times))
    if outcome is not None:
        columns.append(fits.Column("OUTCOME", "8A", array=list(outcome)))
    for name, values in (("RMS", rms), ("PEAK", peak)):
        if values is not None:
            columns.append(fits.Column(name, "1D", header.unit or None, array=values))
    return fits.BinTableHDU.from_columns(columns, name="CHANNELS", ver=1)


def _read_geometry(path: Path, wcs: WCS, shape: tuple[int, int]) -> ImageGeometry:
    """Return the geometry whose pixels stand where ``wcs`` puts them, or say there is none."""
    axes = list(wcs.wcs.ctype)
    refusal = DataError(
        f"{path}: axes {axes} of {shape} pixels are no square, unrotated SIN image in ICRS or "
        "J2000 with the reference at pixel npixel/2 + 1: regrid it"
    )
    sky = wcs.celestial
    if axes[:2] != ["RA---SIN", "DEC--SIN"] or shape[0] != shape[1]:
        raise refusal
    frame = wcs_to_celestial_frame(sky)
    if not any(frame.is_equivalent_frame(known) for known in (ICRS(), FK5())):
        raise refusal
    centre = Direction.from_degrees(*map(float, sky.wcs.crval))
    geometry = ImageGeometry(shape[0], float(np.deg2rad(sky.pixel_scale_matrix[1, 1])), centre)
    # One check for scales, rotation, reference pixel, slant and pole: do three pixels agree?
    reach = min(geometry.npixel / 2, 0.5 / abs(geometry.cell_rad))
    row = geometry.npixel / 2 + reach * np.array([0, 1, -1])
    column = geometry.npixel / 2 + reach * np.array([0, -1, -1])
    sky_rad = np.deg2rad(sky.wcs_pix2world(column, row, 0))
    if not np.allclose(geometry.pixel_of(*sky_rad), (row, column), rtol=0, atol=SAME_GRID_WITHIN):
        raise refusal
    return geometry


def _read_freq(hdus: fits.HDUList, wcs: WCS) -> NDArray[np.float64]:
    """Return the channel frequencies: of our table, else of the axis, else of the header."""
    if "CHANNELS" in hdus:
        return np.asarray(hdus["CHANNELS"].data["FREQ"], dtype=np.float64)
    spectral = wcs.spectral
    if spectral.naxis == 1 and spectral.wcs.ctype[0] == "FREQ":
        index = np.arange(wcs.spectral.array_shape[0])
        return np.asarray(spectral.wcs_pix2world(index, 0)[0], dtype=np.float64)
    return np.array([wcs.wcs.restfrq or np.nan])


def _read_beams(hdus: fits.HDUList, header: fits.Header, n_chan: int) -> Beams:
    """Return the beam of each channel: of the table BEAMS, else of the header."""
    beams: list[RestoringBeam | None] = [None] * n_chan
    if "BEAMS" in hdus:
        columns, rows = hdus["BEAMS"].columns, hdus["BEAMS"].data
        to_rad = [
            units.Unit(columns[name].unit or default).to(units.rad)
            for name, default in (("BMAJ", "arcsec"), ("BMIN", "arcsec"), ("BPA", "deg"))
        ]
        for row in rows[rows["POL"] == 0]:
            sizes = (float(row[i]) * scale for i, scale in enumerate(to_rad))
            beams[row["CHAN"]] = RestoringBeam(*sizes)
    elif header.get("BMAJ", 0) > 0:
        degrees = (header["BMAJ"], header.get("BMIN", header["BMAJ"]), header.get("BPA", 0))
        beams = [RestoringBeam(*map(float, np.deg2rad(degrees)))] * n_chan
    if "CHANNELS" in hdus and "HAS_BEAM" in hdus["CHANNELS"].columns.names:
        has_beam = hdus["CHANNELS"].data["HAS_BEAM"]
        beams = [beam if has else None for beam, has in zip(beams, has_beam, strict=True)]
    return tuple(beams)


def _degrees(angle_rad: float) -> float:
    """Return degrees to a few nanoarcseconds: -30.0, not -29.999999999999996."""
    return round(float(np.rad2deg(angle_rad)), 12)


def _iso(mjd_s: float) -> str:
    return (MJD_EPOCH + timedelta(seconds=mjd_s)).isoformat(timespec="microseconds")


def _file_date(date: datetime | None) -> str:
    if date is None:
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        date = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return date.strftime("%Y-%m-%dT%H:%M:%S")


def _ascii(text: str) -> str:
    """Return one line of text, a question mark for each character that FITS headers cannot hold."""
    return re.sub(r"[^ -~]", "?", " ".join(text.split()))
