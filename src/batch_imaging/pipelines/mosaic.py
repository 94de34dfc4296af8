"""Mosaics: cubes of several fields or beams brought to one beam and one grid, and averaged.

A unit of work is one channel: its planes are convolved, resampled and summed, field by field, and
the plane of the mosaic and that of its weights are written in place.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area
from numpy.typing import NDArray
from radio_beam import Beam

from batch_imaging.errors import DataError, ParameterError, ResourceError
from batch_imaging.execution.executor import Executor
from batch_imaging.execution.memory import available_memory_bytes, shown_bytes
from batch_imaging.execution.progress import Progress
from batch_imaging.kernels.mosaic import Interpolator, PrimaryBeam, WeightedSum
from batch_imaging.kernels.noise import robust_noise
from batch_imaging.kernels.smoothing import fit_common_beam
from batch_imaging.kernels.subtraction import shown_channels
from batch_imaging.pipelines.cubes.fits_file import FitsWriter
from batch_imaging.pipelines.cubes.opening import (
    Cube,
    beams_deg,
    header_of,
    open_cube,
    pixels,
    quiet,
)
from batch_imaging.pipelines.cubes.schedule import Place, Schedule
from batch_imaging.pipelines.cubes.selection import Selection, parse_direction, spectral_axis
from batch_imaging.pipelines.cubes.smoothing import good_planes, smooth_to_beam
from batch_imaging.pipelines.cubes.writing import creating, require_disk

Box = tuple[slice, slice]

WHOLE_PLANES = Schedule(chunk=(1, 0, 0), memory_bytes=np.inf)
CHANNEL_TOLERANCE = 0.01  # of a channel, by which frequencies may differ
SAMPLES = 65  # a side of a field, to see where it lies
BAND_PIXELS = 1 << 20  # resampled at a time
_PROGRAM_BYTES = 0.3e9
_FIELD_COPIES = 14  # of a plane, at the peak: convolution with padding
_MOSAIC_BYTES = 16  # a pixel: two sums, mosaic and what is written
_BAND_BYTES = 200  # a pixel: coordinates on the sky
_KEPT = (
    *("OBJECT", "TELESCOP", "INSTRUME", "BTYPE", "DATE-OBS", "TIMESYS"),
    *("RESTFRQ", "RESTFREQ", "SPECSYS", "VELREF"),
    *("CTYPE3", "CRPIX3", "CRVAL3", "CUNIT3", "CRVAL4"),
)


@dataclass(frozen=True, slots=True)
class MosaicWish:
    """How fields become a mosaic.

    Attributes
    ----------
    cutoff: response of the primary beam below which a field is left out.
    beam_deg: major and minor axis and position angle of the mosaic; by default the smallest that
        all planes of a channel fit into, or, with ``one_beam``, all planes.
    beam_limit_arcsec: planes with larger beams are left out.
    like: an image whose grid is taken; by default a SIN projection that holds all fields.
    """

    primary_beam: PrimaryBeam
    cutoff: float = 0.1
    beam_deg: tuple[float, float, float] | None = None
    one_beam: bool = False
    beam_limit_arcsec: float | None = None
    like: Path | None = None
    stokes: str = "I"

    def __post_init__(self) -> None:
        if not 0 < self.cutoff < 1:
            raise ParameterError(f"--cutoff {self.cutoff:g}: give a fraction between 0 and 1")
        if self.beam_deg and self.one_beam:
            raise ParameterError("give a --beam or ask for a --common-beam, not both")


@dataclass(frozen=True, slots=True)
class Field:
    """A cube of one pointing.

    Attributes
    ----------
    centre_deg: of its primary beam, ICRS.
    good: (chan,) whether its plane has a beam within the limit.
    box: rows and columns of the mosaic that it may touch.
    """

    path: Path
    centre_deg: tuple[float, float]
    good: NDArray[np.bool_]
    box: Box


@dataclass(frozen=True, slots=True)
class MosaicPlan:
    """What is summed, and on what grid.

    Attributes
    ----------
    beams_deg: (chan, 3) of the mosaic, NaN for a channel without a plane.
    field_bytes: of the largest plane of a field.
    header: of the mosaic.
    """

    wish: MosaicWish
    fields: tuple[Field, ...]
    freq_hz: NDArray[np.float64]
    beams_deg: NDArray[np.float64]
    grid: WCS
    field_bytes: int
    header: fits.Header

    @property
    def shape(self) -> tuple[int, int, int]:
        columns, rows = self.grid.pixel_shape
        return len(self.freq_hz), rows, columns

    @property
    def worker_bytes(self) -> int:
        """Memory a worker may take."""
        _, rows, columns = self.shape
        band_pixels = min(BAND_PIXELS + columns, rows * columns)
        return int(
            _PROGRAM_BYTES
            + _FIELD_COPIES * self.field_bytes
            + _MOSAIC_BYTES * rows * columns
            + _BAND_BYTES * band_pixels
        )

    def __str__(self) -> str:
        n_chan, rows, columns = self.shape
        major = 3600 * self.beams_deg[:, 0]
        return (
            f"{len(self.fields)} fields, {n_chan} channels of {rows} × {columns} pixels, beams of "
            f"{np.nanmin(major):.4g} to {np.nanmax(major):.4g} arcsec; "
            f"{sum(int(field.good.sum()) for field in self.fields)} of "
            f"{n_chan * len(self.fields)} planes have a usable beam"
        )


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A plane that is not in the mosaic, and why."""

    path: Path
    channel: int
    reason: str


@dataclass(frozen=True, slots=True)
class MosaicResult:
    """What was written, and what is not in it."""

    image: Path
    weights: Path
    left_out: tuple[LeftOut, ...]


def plan_mosaic(
    paths: Sequence[Path], wish: MosaicWish, centres: dict[str, SkyCoord] | None = None
) -> MosaicPlan:
    """Decide on grid and beams from headers alone, and refuse what cannot be averaged.

    Parameters
    ----------
    centres: of primary beams by path or name of the cube, by default the reference directions.

    Raises
    ------
    DataError: a cube cannot be used, or does not match the first.
    ParameterError: a cube is missing in ``centres``.
    """
    cubes = {path: open_cube(path, WHOLE_PLANES, "planes", stokes=wish.stokes) for path in paths}
    if len(cubes) < len(paths):
        raise ParameterError("a cube is named twice: name each once")
    (first, reference), *others = cubes.items()
    freq_hz = spectral_axis(reference, "Hz", first)
    for path, cube in others:
        _require_same_axes(first, reference, path, cube)
    good = {path: good_planes(cube, path, wish.beam_limit_arcsec) for path, cube in cubes.items()}
    beams = _mosaic_beams(cubes, good, wish)
    centre = {path: _centre(path, cube, centres) for path, cube in cubes.items()}
    radius_rad = wish.primary_beam.radius_rad(wish.cutoff, float(freq_hz.min()))
    useful = {
        path: _useful_directions(path, cube, centre[path], radius_rad)
        for path, cube in cubes.items()
    }
    if wish.like:
        grid = _grid_of(wish.like)
    else:
        grid = _grid_around(list(useful.values()), min(map(_cell_deg, cubes.values())))
    fields = tuple(
        Field(
            path.absolute(),
            (centre[path].ra.deg, centre[path].dec.deg),
            good[path],
            _box(grid, useful[path], path),
        )
        for path in cubes
    )
    header = _header(reference, fields, wish, grid, beams)
    field_bytes = max(pixels(cube)[0].nbytes for cube in cubes.values())
    return MosaicPlan(wish, fields, freq_hz, beams, grid, field_bytes, header)


def weights_path(output: Path) -> Path:
    """Return the name of the weights of a mosaic."""
    return output.with_name(f"{output.stem}.weights{output.suffix}")


def run_mosaic(
    plan: MosaicPlan,
    output: Path,
    executor: Executor,
    progress: Progress,
    *,
    overwrite: bool = False,
) -> MosaicResult:
    """Write mosaic and weights; both are complete or not there.

    Raises
    ------
    ParameterError: an output exists; ResourceError: disk or memory is too small; ProductError:
    they cannot be written; DataError: nothing but blank planes.
    """
    output = output.absolute()
    weights = weights_path(output)
    if {output, weights} & {field.path for field in plan.fields}:
        raise ParameterError(f"{output}: would replace a field of its own: give another --output")
    needed_bytes = executor.n_workers * plan.worker_bytes
    if needed_bytes > available_memory_bytes():
        raise ResourceError(
            f"{executor.n_workers} worker(s) take {shown_bytes(needed_bytes)} for planes of this "
            f"size, and {shown_bytes(available_memory_bytes())} are free: use fewer --workers, or "
            "a smaller grid by --like"
        )
    in_them = {"BUNIT": _weight_unit(plan.header["BUNIT"]), "BTYPE": "Weight"}
    with (
        creating(output, overwrite=overwrite) as image_partial,
        creating(weights, overwrite=overwrite) as weights_partial,
    ):
        require_disk(output, 2 * 4 * float(np.prod(plan.shape)))
        image = _writer(image_partial, plan)
        weight = _writer(weights_partial, plan, **in_them)
        left_out: list[LeftOut] = []
        channels = range(len(plan.freq_hz))
        with progress.stage("mosaic", len(channels)) as bar:
            for parts in bar.track(executor.map(mosaic_channel, channels, plan, image, weight)):
                left_out += parts
        if len(left_out) == len(channels) * len(plan.fields):
            raise DataError(
                f"{output}: not one plane could be used; {plan.fields[0].path}: "
                f"{left_out[0].reason} in channel 0, and so on: look at the input"
            )
    return MosaicResult(output, weights, tuple(left_out))


def mosaic_channel(
    channel: int, plan: MosaicPlan, image: FitsWriter, weight: FitsWriter
) -> list[LeftOut]:
    """Write one plane of the mosaic and of its weights, and return what is not in it."""
    _, rows, columns = plan.shape
    total = WeightedSum(rows, columns)
    left_out = []
    for field in plan.fields:
        reason = _add_plane(total, plan, field, channel)
        if reason:
            left_out.append(LeftOut(field.path, channel, reason))
    place: Place = slice(channel, channel + 1), slice(0, rows), slice(0, columns)
    image.write(place, total.mean()[np.newaxis])
    weight.write(place, total.weight[np.newaxis])
    return left_out


def shown_left_out(left_out: Sequence[LeftOut]) -> Iterator[str]:
    """Yield a line for each cube and reason, with its channels."""

    def cause(plane: LeftOut) -> tuple[Path, str]:
        return plane.path, plane.reason

    for (path, reason), planes in groupby(sorted(left_out, key=cause), cause):
        channels = [plane.channel for plane in planes]
        chosen = np.isin(np.arange(max(channels) + 1), channels)
        yield f"{path}: left out of channels {shown_channels(chosen)}: {reason}"


def read_centres(path: Path) -> dict[str, SkyCoord]:
    """Read a CSV file with columns file,ra,dec: degrees, or sexagesimal hours and degrees.

    Raises
    ------
    DataError: it is not such a file.
    """
    try:
        with path.open(newline="") as stream:
            return {
                row["file"]: parse_direction(f"{row['ra']} {row['dec']}")
                for row in csv.DictReader(stream)
            }
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: no table of beam centres ({type(error).__name__} {error}): give CSV with the "
            "columns file,ra,dec"
        ) from error


def _require_same_axes(first: Path, reference: Cube, path: Path, cube: Cube) -> None:
    ours, theirs = spectral_axis(reference, "Hz", first), spectral_axis(cube, "Hz", path)
    if len(ours) != len(theirs):
        raise DataError(f"{path}: {len(theirs)} channels, but {first} has {len(ours)}: match them")
    width_hz = np.abs(np.diff(ours)).min() if len(ours) > 1 else 1e-3 * ours[0]
    apart_hz = np.abs(theirs - ours).max()
    if apart_hz > CHANNEL_TOLERANCE * width_hz:
        raise DataError(
            f"{path}: its frequencies differ by up to {apart_hz:.6g} Hz from those of {first}: "
            "bring both to the same channels"
        )
    if cube.unit != reference.unit:
        raise DataError(
            f"{path}: is in {cube.unit or 'no unit'}, but {first} in {reference.unit or 'none'}: "
            "convert one of them (BUNIT)"
        )
    frames = [header_of(one).get("SPECSYS", "none") for one in (cube, reference)]
    if frames[0] != frames[1]:
        raise DataError(
            f"{path}: its frequencies are in the frame {frames[0]}, those of {first} in "
            f"{frames[1]} (SPECSYS): bring both to the same frame"
        )


def _mosaic_beams(
    cubes: dict[Path, Cube], good: dict[Path, NDArray[np.bool_]], wish: MosaicWish
) -> NDArray[np.float64]:
    n_chan = len(next(iter(good.values())))
    if wish.beam_deg:
        for path, cube in cubes.items():
            smooth_to_beam(cube, _beam(wish.beam_deg), good[path], path)  # refuses a small one
        return np.tile(wish.beam_deg, (n_chan, 1))
    beams = np.stack([np.broadcast_to(_known_beams(cube), (n_chan, 3)) for cube in cubes.values()])
    usable = np.stack(list(good.values()))
    if wish.one_beam:
        return np.tile(_common_beam(beams[usable]), (n_chan, 1))
    return np.stack([_common_beam(beams[usable[:, channel], channel]) for channel in range(n_chan)])


def _known_beams(cube: Cube) -> NDArray[np.float64]:
    beams = beams_deg(cube)
    assert beams is not None, "good_planes refuses a cube without beams"
    return beams


def _common_beam(beams: NDArray[np.float64]) -> NDArray[np.float64]:
    return fit_common_beam(beams) if len(beams) else np.full(3, np.nan)


def _beam(axes_deg: Iterable[float]) -> Beam:
    return Beam(*(units.Quantity(axis, "deg") for axis in axes_deg))


def _centre(path: Path, cube: Cube, centres: dict[str, SkyCoord] | None) -> SkyCoord:
    if centres is None:
        wcs = cube.wcs.celestial
        return wcs.pixel_to_world(*(wcs.wcs.crpix - 1)).icrs
    for name in (str(path), path.name):
        if name in centres:
            return centres[name].icrs
    raise ParameterError(f"{path}: the table of beam centres has no line for it: add one")


def _cell_deg(cube: Cube) -> float:
    return float(proj_plane_pixel_area(cube.wcs.celestial) ** 0.5)


def _useful_directions(path: Path, cube: Cube, centre: SkyCoord, radius_rad: float) -> SkyCoord:
    """Return directions spread over the part of a field that the primary beam reaches.

    They reach one step further than the part, so that they enclose it.
    """
    wcs, sides = cube.wcs.celestial, cube.shape[1:]
    row, column = np.meshgrid(*(np.linspace(0, n - 1, SAMPLES) for n in sides), indexing="ij")
    step_rad = np.deg2rad(_cell_deg(cube)) * np.hypot(*sides) / (SAMPLES - 1)
    sky = wcs.pixel_to_world(column, row).icrs
    near = sky.separation(centre).rad <= radius_rad + step_rad
    if not near.any():
        nearest_deg = float(np.nanmin(sky.separation(centre).deg))
        raise DataError(
            f"{path}: no part of it is within the cut-off: it is {nearest_deg:.3g} deg from the "
            f"centre of its beam, which ends at {np.rad2deg(radius_rad):.3g} deg: leave it out, "
            "lower --cutoff, or give --centres"
        )
    return sky[near]


def _grid_around(useful: Sequence[SkyCoord], cell_deg: float) -> WCS:
    """Return the SIN projection about the middle of the fields that just holds them."""
    middle = np.mean([sky.cartesian.xyz.value.mean(axis=1) for sky in useful], axis=0)
    centre = SkyCoord(*middle, representation_type="cartesian").spherical
    grid = WCS(naxis=2)
    grid.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    grid.wcs.cunit = ["deg", "deg"]
    grid.wcs.radesys = "ICRS"
    grid.wcs.crval = [centre.lon.deg, centre.lat.deg]
    grid.wcs.cdelt = [-cell_deg, cell_deg]
    grid.wcs.crpix = [1.0, 1.0]
    ends = np.array([_ends(grid, sky) for sky in useful])
    low, high = ends[:, 0].min(axis=0), ends[:, 1].max(axis=0)
    grid.wcs.crpix = 1.0 - low
    grid.pixel_shape = tuple(int(n) for n in high - low)
    return grid


def _grid_of(path: Path) -> WCS:
    """Return the celestial grid of a FITS image."""
    try:
        with quiet():
            grid = WCS(fits.getheader(path)).celestial
    except OSError as error:
        raise DataError(f"{path}: not a readable FITS file ({error})") from error
    if grid.naxis != 2 or not grid.pixel_shape:
        raise DataError(f"{path}: no celestial axes in it: give --like an image of the sky")
    return grid


def _ends(grid: WCS, sky: SkyCoord) -> NDArray[np.int64]:
    """Return the first column and row that ``sky`` touches, and the last ones + 1."""
    at = np.stack(grid.world_to_pixel(sky))
    at = at[:, np.isfinite(at).all(axis=0)]
    if not at.size:
        return np.zeros((2, 2), np.int64)
    # a thousandth of a pixel is rounding, not another pixel
    return np.stack([np.floor(at.min(axis=1) + 1e-3), np.ceil(at.max(axis=1) - 1e-3) + 1]).astype(
        np.int64
    )


def _box(grid: WCS, sky: SkyCoord, path: Path) -> Box:
    columns, rows = (
        slice(max(int(low), 0), min(int(high), n))
        for low, high, n in zip(*_ends(grid, sky), grid.pixel_shape, strict=True)
    )
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise DataError(f"{path}: does not overlap the grid of --like: leave it out")
    return rows, columns


def _header(
    cube: Cube, fields: Sequence[Field], wish: MosaicWish, grid: WCS, beams: NDArray[np.float64]
) -> fits.Header:
    theirs = header_of(cube)
    header = grid.to_header()
    header.update({key: theirs[key] for key in _KEPT if key in theirs})
    header["CDELT3"] = theirs.get("CDELT3", 1.0) * theirs.get("PC3_3", 1.0)
    header["BUNIT"] = "Jy/beam" if cube.unit.is_equivalent("Jy/beam") else str(cube.unit)
    known = beams[np.isfinite(beams[:, 0])]
    header.update(zip(("BMAJ", "BMIN", "BPA"), map(float, known[0]), strict=True))
    primary = wish.primary_beam
    header["HISTORY"] = (
        f"mosaic of {len(fields)} fields, primary beam {primary.shape} of "
        f"{np.rad2deg(primary.fwhm_rad):.6g} deg at {primary.freq_hz:.6g} Hz, cut off at "
        f"{wish.cutoff:g}"
    )
    for field in fields:
        ra, dec = field.centre_deg
        name = field.path.name.encode("ascii", "replace").decode()
        header["HISTORY"] = f"{name}, beam centre {ra:.6f} {dec:.6f} deg"
    return header


def _writer(path: Path, plan: MosaicPlan, **cards: str) -> FitsWriter:
    header = plan.header.copy()
    header.update(cards)
    varying = not np.allclose(plan.beams_deg, plan.beams_deg[0], rtol=1e-9, atol=0)
    return FitsWriter.create(
        path, plan.shape, np.float32, header, plan.beams_deg if varying else None
    )


def _weight_unit(bunit: str) -> str:
    return "beam2/Jy2" if bunit == "Jy/beam" else f"1/({bunit})2"


def _add_plane(total: WeightedSum, plan: MosaicPlan, field: Field, channel: int) -> str:
    """Add a field's plane, or return why it is left out."""
    if not field.good[channel]:
        return "it has no beam, or one above the limit"
    plane, wcs = _read_plane(plan, field, channel)
    known = plane[np.isfinite(plane)]
    if not len(known):
        return "it is blank"
    noise = robust_noise(known[np.newaxis])
    if not noise > 0:
        return "it has the same value almost everywhere"
    interpolator = Interpolator(plane)
    centre = SkyCoord(*field.centre_deg, unit="deg")
    freq_hz = float(plan.freq_hz[channel])
    for band in _bands(field.box):
        row, column = np.mgrid[band]
        sky = plan.grid.pixel_to_world(column, row)
        power = plan.wish.primary_beam.power(sky.separation(centre).rad, freq_hz)
        inside = power >= plan.wish.cutoff
        if inside.any():
            there_column, there_row = wcs.world_to_pixel(sky[inside])
            values = interpolator(there_row, there_column)
            total.add((row[inside], column[inside]), values, power[inside], noise)
    return ""


def _read_plane(plan: MosaicPlan, field: Field, channel: int) -> tuple[NDArray[Any], WCS]:
    """Return a plane brought to the mosaic's beam, and where its pixels are."""
    selection = Selection(channels=(channel, channel + 1))
    cube = open_cube(field.path, WHOLE_PLANES, "planes", selection, plan.wish.stokes)
    beam = _beam(plan.beams_deg[channel])
    with quiet():
        smooth = smooth_to_beam(cube, beam, np.array([True]), field.path)
        return pixels(smooth)[0].compute(scheduler="synchronous"), cube.wcs.celestial


def _bands(box: Box) -> Iterator[Box]:
    """Yield the box in parts of whole rows."""
    rows, columns = box
    step = max(1, BAND_PIXELS // (columns.stop - columns.start))
    for first in range(rows.start, rows.stop, step):
        yield slice(first, min(first + step, rows.stop)), columns
