"""One plane as a unit of work: read, weight, invert, clean, restore, write.

A plane reads only its own rows and channels, some at a time, and keeps them for the major cycles if
they are few. Nothing of one plane reaches another, so they may run anywhere and in any order; what
is wrong with one becomes its outcome and ends no other.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from batch_imaging.errors import DataError, ProductError, ResourceError
from batch_imaging.execution.journal import Stamp, stamp_of
from batch_imaging.io.measurement_set import (
    RowGroup,
    SetStructure,
    SpectralWindow,
    describe_structure,
    read_rows,
)
from batch_imaging.io.plane_sink import write_plane
from batch_imaging.kernels.deconvolution import deconvolve
from batch_imaging.kernels.gridding import make_dirty, predict_image
from batch_imaging.kernels.noise import robust_noise
from batch_imaging.kernels.restoring import convolve_with_beam
from batch_imaging.kernels.stokes import make_stokes, stokes_recipe
from batch_imaging.kernels.weighting import make_imaging_weight, sum_weight_density
from batch_imaging.logging_format import FILE_ONLY
from batch_imaging.model.beam import RestoringBeam
from batch_imaging.model.image import ImageGeometry
from batch_imaging.model.spectral_axis import FRAMES, SpectralAxis, doppler_factor
from batch_imaging.parameters import Ical
from batch_imaging.pipelines.clean_mask import CleanMask, find_islands
from batch_imaging.pipelines.imaging import PSF_PATCH_NPIXEL, ImagingSetup, beam_of_psf
from batch_imaging.pipelines.joint import CLEAN_BELOW, clean_settings
from batch_imaging.pipelines.planes import Piece, Plane

LOG = logging.getLogger("batch_imaging")

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

CHUNK_SAMPLES = 1 << 21  # read at a time
KEPT_BYTES = 256 * 2**20  # of a plane's samples; more are read again in every major cycle
GREW = 1.1  # times the peak or rms before: a cycle that did harm
BLEW_UP = 3.0  # times the dirty peak: no component of a sky is that bright
MASKED_SIGMA = 1.0  # times the noise: so deep is cleaned where a mask holds components together
GENTLE_GAIN, GENTLE_MAJOR_GAIN, GENTLE_THRESHOLD = 0.25, 0.5, 2.0  # of a second attempt


class Outcome(StrEnum):
    """How a plane ended; all but OK are blank."""

    OK = "OK"
    EMPTY = "EMPTY"
    """No rows or channels fall into it."""
    FLAGGED = "FLAGGED"
    DIVERGED = "DIVERGED"
    FAILED = "FAILED"


FAILURES = (Outcome.DIVERGED, Outcome.FAILED)
PRODUCTS = ("image", "residual", "model", "mask")


@dataclass(frozen=True, slots=True)
class PlaneSetup:
    """How planes are made, the same for all of a cube.

    Attributes
    ----------
    ical: how to clean; None for dirty images.
    mask: where to clean; None for everywhere.
    weight_density: uniform and robust weights are those of each plane, or of all together.
    density: file of the latter, (npixel/2 + 1, npixel).
    file_format: of the cubes.
    """

    imaging: ImagingSetup
    column: str
    stokes: tuple[str, ...]
    ical: Ical | None
    mask: CleanMask | None = None
    weight_density: Literal["plane", "all"] = "plane"
    density: Path | None = None
    file_format: Literal["fits", "zarr"] = "fits"

    @property
    def products(self) -> tuple[str, ...]:
        """The names of the cubes that planes are written to, in their order."""
        if self.ical is None:
            return PRODUCTS[:1]
        return PRODUCTS if self.mask else PRODUCTS[:-1]


@dataclass(frozen=True, slots=True)
class PlaneResult:
    """What came of a plane.

    Attributes
    ----------
    content: the hash of its pixels in each cube.
    noise_jy, peak_jy: of the first Stokes parameter: robust noise of its residual, and the highest
        absolute value of its image.
    gently: whether the first attempt diverged.
    """

    index: int
    outcome: Outcome
    content: tuple[str, ...]
    reason: str = ""
    beam: RestoringBeam | None = None
    noise_jy: float = float("nan")
    peak_jy: float = float("nan")
    iterations: int = 0
    gently: bool = False


def image_plane(plane: Plane, setup: PlaneSetup, cubes: Sequence[Path], n_chan: int) -> PlaneResult:
    """Make one plane and write it into every cube (a unit of work)."""
    try:
        images, result = _make_plane(plane, setup)
    except _Unusable as why:
        images, result = None, PlaneResult(plane.index, why.outcome, (), str(why))
    except (ProductError, ResourceError, MemoryError):
        raise
    except Exception as error:  # one bad plane must not end the others
        LOG.exception("the plane failed", extra=FILE_ONLY)
        reason = f"{type(error).__name__}: {error}"
        images, result = None, PlaneResult(plane.index, Outcome.FAILED, (), reason)
    if result.outcome in FAILURES:
        LOG.warning("plane %d is blank: %s", plane.index, result.reason)
    if images is None:
        shape = (len(cubes), len(setup.stokes), *setup.imaging.geometry.shape)
        images = np.full(shape, np.nan, dtype=np.float32)
    for cube, planes in zip(cubes, images, strict=True):
        for number, pixels in enumerate(planes):
            write_plane(cube, number * n_chan + plane.index, pixels)
    return replace(result, content=tuple(map(content_hash, images)))


def content_hash(planes: Iterable[NDArray[np.floating]]) -> str:
    """Return the hash of planes as they stand in FITS, one for each Stokes parameter."""
    digest = hashlib.blake2b(digest_size=16)
    for plane in planes:
        digest.update(np.ascontiguousarray(plane, dtype=">f4").data)
    return digest.hexdigest()


class _Unusable(Exception):
    """A plane that is left blank, and why."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


class _Diverged(Exception):
    """A major cycle raised the residual."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows of a plane: vis (stokes, row, chan), weight (row, chan), already those of imaging."""

    uvw_m: NDArray[np.float64]
    freq_hz: NDArray[np.float64]
    vis: NDArray[np.complex64]
    weight: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return self.uvw_m.nbytes + self.vis.nbytes + self.weight.nbytes


class _PlaneData:
    """The samples of a plane; few are kept in memory, many are read anew each time."""

    def __init__(self, plane: Plane, setup: PlaneSetup) -> None:
        self._plane, self._setup = plane, setup
        self._parts = [(piece, rows) for piece in plane.pieces for rows in _cut_rows(piece)]
        self._kept: dict[int, _Chunk] = {}
        self._density: NDArray[np.float64] | None = None
        if setup.density is not None:
            self._density = np.load(setup.density)
        elif setup.imaging.weighting != "natural":
            self._density = _plane_density(plane, setup)
        self.weight = sum(float(chunk.weight.sum(dtype=float)) for chunk in self)

    def __iter__(self) -> Iterator[_Chunk]:
        room = KEPT_BYTES - sum(chunk.nbytes for chunk in self._kept.values())
        for number, (piece, rows) in enumerate(self._parts):
            chunk = self._kept.get(number) or self._weighted(
                _read_chunk(piece, rows, self._plane, self._setup)
            )
            if number not in self._kept and chunk.nbytes <= room:
                self._kept[number] = chunk
                room -= chunk.nbytes
            yield chunk

    @property
    def has_rows(self) -> bool:
        return bool(self._parts)

    def dirty(self, stokes: int, model: Image | None = None) -> Image:
        """Return the mean image of one Stokes parameter, less that of a model, Jy/beam."""
        if model is None:
            return self._invert(lambda chunk: chunk.vis[stokes])
        return self._invert(lambda chunk: chunk.vis[stokes] - self._predict(chunk, model))

    def psf(self) -> Image:
        """Return the image of a unit source at the phase centre; without cleaning, its middle."""
        geometry = self._setup.imaging.geometry
        if self._setup.ical is None:
            geometry = self._setup.imaging.patch(PSF_PATCH_NPIXEL).geometry
        return self._invert(lambda chunk: np.ones(chunk.weight.shape, np.complex64), geometry)

    def _invert(
        self,
        visibilities: Callable[[_Chunk], NDArray[np.complexfloating]],
        geometry: ImageGeometry | None = None,
    ) -> Image:
        imaging = self._setup.imaging
        geometry = geometry or imaging.geometry
        total = np.zeros(geometry.shape)
        for chunk in self:
            total += make_dirty(
                chunk.uvw_m,
                chunk.freq_hz,
                visibilities(chunk),
                chunk.weight,
                geometry,
                accuracy=imaging.accuracy,
                threads=imaging.threads,
            )
        return np.asarray(total / self.weight, dtype=np.float32)

    def _predict(self, chunk: _Chunk, model: Image) -> NDArray[np.complexfloating]:
        imaging = self._setup.imaging
        return predict_image(
            chunk.uvw_m,
            chunk.freq_hz,
            model,
            imaging.geometry,
            accuracy=imaging.accuracy,
            threads=imaging.threads,
        )

    def _weighted(self, chunk: _Chunk) -> _Chunk:
        imaging = self._setup.imaging
        weight = make_imaging_weight(
            chunk.uvw_m,
            chunk.freq_hz,
            chunk.weight,
            imaging.geometry,
            imaging.weighting,
            imaging.robust,
            self._density,
        )
        return replace(chunk, weight=weight)


def measure_density(planes: Sequence[Plane], setup: PlaneSetup) -> NDArray[np.float64]:
    """Return the sum of weights in each uv cell, (npixel/2 + 1, npixel) (a unit of work)."""
    npixel = setup.imaging.geometry.npixel
    density = np.zeros((npixel // 2 + 1, npixel))
    for plane in planes:
        with suppress(DataError):  # that plane will fail, and say why
            density += _plane_density(plane, setup)
    return density


def _plane_density(plane: Plane, setup: PlaneSetup) -> NDArray[np.float64]:
    geometry = setup.imaging.geometry
    density = np.zeros((geometry.npixel // 2 + 1, geometry.npixel))
    for piece in plane.pieces:
        for rows in _cut_rows(piece):
            chunk = _read_chunk(piece, rows, plane, setup)
            density += sum_weight_density(chunk.uvw_m, chunk.freq_hz, chunk.weight, geometry)
    return density


def _cut_rows(piece: Piece) -> Iterator[NDArray[np.integer]]:
    group = _structure(piece.path, stamp_of(piece.path)).groups[piece.group]
    begin, end = piece.times_mjd_s
    chosen = (group.time_mjd_s >= begin) & (group.time_mjd_s <= end)
    if not chosen.any():
        return
    window = _cut_window(group.window, piece.channels)
    part: RowGroup = replace(
        group, window=window, rows=group.rows[chosen], time_mjd_s=group.time_mjd_s[chosen]
    )
    yield from part.cut(CHUNK_SAMPLES)


def _cut_window(window: SpectralWindow, channels: tuple[int, int]) -> SpectralWindow:
    part = slice(*channels)
    return replace(window, freq_hz=window.freq_hz[part], chan_width_hz=window.chan_width_hz[part])


@lru_cache(maxsize=8)
def _structure(path: Path, _stamp: Stamp) -> SetStructure:
    """Return what a set is made of, kept for the planes that follow until the set changes."""
    return describe_structure(path)


def _read_chunk(piece: Piece, rows: NDArray[np.integer], plane: Plane, setup: PlaneSetup) -> _Chunk:
    structure = _structure(piece.path, stamp_of(piece.path))
    group = structure.groups[piece.group]
    window = _cut_window(group.window, piece.channels)
    block = read_rows(piece.path, rows, setup.column, piece.channels)
    recipes = [stokes_recipe(name, window.corr) for name in setup.stokes]
    assert all(recipes)  # the plan saw to it
    vis, weight = make_stokes(
        block.vis, block.weight, window.corr, [recipe for recipe in recipes if recipe]
    )
    known = block.uvw_m.any(axis=1) & (block.antenna1 != block.antenna2)
    weight *= known[:, np.newaxis]
    if plane.frame is not None:
        place = structure.stations.reference_itrf_m
        shares = _shares(plane, window, block.time_mjd_s, group, place)
        weight *= shares
    return _Chunk(block.uvw_m, window.freq_hz, vis, weight)


def _shares(
    plane: Plane,
    window: SpectralWindow,
    time_mjd_s: NDArray[np.float64],
    group: RowGroup,
    itrf_m: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Return (row, chan) how much of each channel belongs to the plane at the row's time."""
    assert plane.frame is not None
    axis = SpectralAxis(
        window.freq_hz,
        window.chan_width_hz,
        next(frame for frame in FRAMES if frame == window.frame),
    )
    target = SpectralAxis(np.array([plane.freq_hz]), np.array([plane.width_hz]), plane.frame)
    times, time_of_row = np.unique(time_mjd_s, return_inverse=True)
    factors = doppler_factor(axis.frame, plane.frame, times, group.phase_centre, itrf_m)
    shares = [axis.shifted(plane.frame, f).weights_onto(target).toarray()[0] for f in factors]
    return np.asarray(shares, dtype=np.float32)[time_of_row]


def _make_plane(plane: Plane, setup: PlaneSetup) -> tuple[NDArray[np.float32], PlaneResult]:
    """Return (product, stokes, row, column) pixels, and the result without their hash."""
    data = _PlaneData(plane, setup)
    name = f"plane {plane.index} at {plane.freq_hz / 1e6:.6f} MHz"
    if not data.has_rows:
        raise _Unusable(Outcome.EMPTY, f"{name}: no rows or channels fall into it")
    if data.weight == 0:
        raise _Unusable(
            Outcome.FLAGGED, f"{name}: all samples are flagged, autocorrelations or without weight"
        )
    psf = data.psf()
    try:
        beam = beam_of_psf(psf, setup.imaging, name)
    except DataError as error:
        raise _Unusable(Outcome.FAILED, str(error)) from error
    dirty = [data.dirty(k) for k in range(len(setup.stokes))]
    if not np.isfinite(dirty).all():
        raise _Unusable(Outcome.FAILED, f"{name}: the image is not finite; look at the data")
    if setup.ical is None:
        return np.stack(dirty)[np.newaxis], _result(plane, dirty[0], dirty[0], beam)
    allowed = setup.mask.given(plane.index, psf.shape) if setup.mask else None
    gently = False
    try:
        cleaned = [
            _clean(data, k, image, psf, beam, allowed, setup) for k, image in enumerate(dirty)
        ]
    except _Diverged:
        gently = True
        try:
            cleaned = [
                _clean(data, k, image, psf, beam, allowed, setup, gently=True)
                for k, image in enumerate(dirty)
            ]
        except _Diverged as again:
            raise _Unusable(
                Outcome.DIVERGED, f"{name}: {again}, also when cleaned gently"
            ) from again
    cell_rad = setup.imaging.geometry.cell_rad
    products = [
        [convolve_with_beam(c.model, beam, cell_rad) + c.residual for c in cleaned],
        [c.residual for c in cleaned],
        [c.model for c in cleaned],
    ]
    if setup.mask:
        products.append([np.asarray(c.mask, dtype=np.float32) for c in cleaned])
    images = np.array(products)
    result = _result(plane, images[0, 0], cleaned[0].residual, beam)
    return images, replace(result, iterations=sum(c.iterations for c in cleaned), gently=gently)


def _result(plane: Plane, image: Image, residual: Image, beam: RestoringBeam) -> PlaneResult:
    peak_jy = float(np.abs(image).max())
    return PlaneResult(plane.index, Outcome.OK, (), "", beam, robust_noise(residual), peak_jy)


@dataclass(frozen=True, slots=True)
class _Cleaned:
    model: Image
    residual: Image
    iterations: int
    mask: Mask | None


def _clean(
    data: _PlaneData,
    stokes: int,
    dirty: Image,
    psf: Image,
    beam: RestoringBeam,
    allowed: Mask | None,
    setup: PlaneSetup,
    *,
    gently: bool = False,
) -> _Cleaned:
    """Clean down to the threshold, each major cycle from the exact residual of the last.

    ``allowed`` is (row, column), where components may be. Of automatic masks it is what may
    become part of them; they grow from cycle to cycle.
    """
    assert setup.ical is not None
    rule, cell_rad = setup.ical.stopping, setup.imaging.geometry.cell_rad
    sigma, mask = setup.mask.sigma if setup.mask else None, allowed
    grown = np.zeros(dirty.shape, dtype=bool)
    model, residual, iterations = np.zeros_like(dirty), dirty, 0
    for _ in range(rule.max_nmajor):
        noise_jy = robust_noise(residual)
        settings = clean_settings(setup.ical, 0, noise_jy, first=False)
        if allowed is not None and rule.threshold_jy is None:
            settings = replace(settings, threshold_jy=CLEAN_BELOW * MASKED_SIGMA * noise_jy)
        if allowed is not None and sigma is not None:
            grown |= find_islands(residual, sigma * noise_jy, beam.bmaj_rad / cell_rad)
            mask = allowed & grown
        if gently:
            settings = replace(
                settings,
                gain=GENTLE_GAIN * settings.gain,
                major_gain=min(settings.major_gain, GENTLE_MAJOR_GAIN),
                threshold_jy=GENTLE_THRESHOLD * settings.threshold_jy,
            )
        if _peak(residual, mask) <= settings.threshold_jy / CLEAN_BELOW:
            break
        found = deconvolve(
            residual[np.newaxis],
            psf[np.newaxis],
            np.ones((1, 2)),
            np.ones(1),
            cell_rad,
            beam.bmaj_rad,
            settings,
            setup.imaging.threads,
            mask,
        )
        if found.iterations == 0:
            break
        model = model + found.components[0]
        if not np.isfinite(model).all() or _peak(model) > BLEW_UP * _peak(dirty):
            raise _Diverged("its components grew beyond the brightest pixel")
        before, residual = residual, data.dirty(stokes, model)
        iterations += found.iterations
        peak, rms = (
            _peak(residual, mask) / _peak(before, mask),
            float(residual.std() / before.std()),
        )
        if not max(peak, rms) <= GREW:  # nor not a number
            raise _Diverged(f"a cycle left {peak:.3g} of its peak and {rms:.3g} of its rms")
        if 1 - min(peak, rms) < rule.convergence:
            break
    return _Cleaned(model, residual, iterations, mask)


def _peak(image: Image, mask: Mask | None = None) -> float:
    """Return the highest absolute value, where the mask is true; 0 if it is nowhere."""
    inside = image if mask is None else image[mask]
    return float(np.abs(inside).max(initial=0))
