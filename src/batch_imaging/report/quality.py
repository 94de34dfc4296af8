"""Figures of merit of a run, measured from its products and, if it was simulated, the truth.

docs/quality.md defines each of them. Planes are read one at a time, so that a cube of any length
can be measured.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from batch_imaging.model.beam import FWHM_PER_SIGMA, SPEED_OF_LIGHT_M_S, RestoringBeam
from batch_imaging.model.gains import GainTable
from batch_imaging.model.image import ImageGeometry
from batch_imaging.model.sky import SkyModel

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]

BLENDED_WITHIN_BEAMS = 0.5  # sources this close cannot be told apart
NEIGHBOURS_WITHIN_BEAMS = 3.0
FIT_ABOVE = 0.1  # of the peak: the pixels that a source is fitted to
FIT_STEPS = 8


@dataclass(frozen=True, slots=True)
class PlaneQuality:
    """One plane of a cube; NaN and no beam where there were no data.

    Attributes
    ----------
    peak_jy: of the restored image.
    rms_jy, noise_jy: of the residual, standard deviation and its robust estimate.
    theory_jy: thermal noise to expect; None where it is not known.
    """

    freq_hz: float
    chan_width_hz: float
    beam: RestoringBeam | None
    peak_jy: float
    rms_jy: float
    noise_jy: float
    theory_jy: float | None = None

    @property
    def dynamic_range(self) -> float:
        """Restored peak over residual rms."""
        return self.peak_jy / self.rms_jy if self.rms_jy else float("nan")


@dataclass(frozen=True, slots=True)
class PhaseError:
    """Solved against true station phases.

    Attributes
    ----------
    rms_rad: constant and linear gradient over the stations removed at every time and channel.
    rms_with_shift_rad: the same with only the constant removed.
    residual_rad, with_shift_rad: (time, station, chan) what these are the rms of; NaN where no
        solution was found.
    shift_rad: (time, chan) size of the gradient as a shift of the sky.
    """

    rms_rad: float
    rms_with_shift_rad: float
    residual_rad: Floats
    with_shift_rad: Floats
    shift_rad: Floats


@dataclass(frozen=True, slots=True)
class SourceFit:
    """A source of the true sky as it is found in a restored image.

    Attributes
    ----------
    name: of the brightest, where several stand within half a beam.
    true_jy: apparent flux density, of all of them.
    restored_jy: fitted amplitude; NaN where no fit was found.
    east_rad, north_rad: fitted minus true position; NaN where no fit was found.
    beam_rad: geometric mean of both widths of the beam.
    """

    name: str
    ra_rad: float
    dec_rad: float
    true_jy: float
    restored_jy: float
    east_rad: float
    north_rad: float
    beam_rad: float

    @property
    def offset_beams(self) -> float:
        """Distance of the fitted position from the true one, in beams."""
        return float(np.hypot(self.east_rad, self.north_rad)) / self.beam_rad

    @property
    def ratio(self) -> float:
        """Restored over true flux density."""
        return self.restored_jy / self.true_jy


# ------------------------------------------------------------------------------------- planes


def iter_planes(path: Path) -> Iterator[Plane]:
    """Yield the planes (row, column) of a FITS image or cube of ours, one in memory at a time."""
    with fits.open(path, memmap=False, lazy_load_hdus=True) as hdus:
        pixels = hdus[0].section
        for index in range(hdus[0].header["NAXIS3"]):
            yield np.asarray(pixels[0, index], dtype=np.float32)


def read_row(path: Path, row: int) -> Plane:
    """Read one row of pixels of all planes of a cube, (chan, column)."""
    with fits.open(path, memmap=False, lazy_load_hdus=True) as hdus:
        return np.asarray(hdus[0].section[0, :, row, :], dtype=np.float32)


def thermal_noise_jy(sum_weight: float) -> float:
    """Return the noise of a naturally weighted image, 1/√Σw.

    With w = 1/σ² for every one of n visibilities this is σ/√n.
    """
    return float(1 / np.sqrt(sum_weight)) if sum_weight > 0 else float("nan")


# -------------------------------------------------------------------------------------- gains


def station_phase_error(solved: GainTable, true: GainTable, station_uvw_m: Floats) -> PhaseError:
    """Compare solved with true gains: the rms of what no constant and no shift of the sky explains.

    Self-calibration cannot know a phase common to all stations, nor, without a source of known
    position, a shift of the whole sky, which is a phase linear in u and v. For every time and
    channel both are fitted by least squares, each station alike, and taken off.

    Parameters
    ----------
    solved, true: matched by station name, nearest time and nearest frequency.
    station_uvw_m: (time, station, 3) of the solved table's times and stations.
    """
    stations = [true.station_names.index(name) for name in solved.station_names]
    times, chans = (
        np.abs(true_axis[np.newaxis, :] - solved_axis[:, np.newaxis]).argmin(axis=1)
        for true_axis, solved_axis in (
            (true.time_mjd_s, solved.time_mjd_s),
            (true.freq_hz, solved.freq_hz),
        )
    )
    true_gain = true.gain[np.ix_(times, stations, chans)].mean(axis=3)
    solved_gain = solved.gain.mean(axis=3)
    weight = (solved.weight.min(axis=3) > 0).astype(float)
    error = solved_gain * true_gain.conj()

    residual_rad = np.full(error.shape, np.nan)
    with_shift_rad = np.full(error.shape, np.nan)
    shift_rad = np.full((error.shape[0], error.shape[2]), np.nan)
    for t, c in np.ndindex(shift_rad.shape):
        good = weight[t, :, c] > 0
        if good.sum() < 4:  # three unknowns
            continue
        wavelength_m = SPEED_OF_LIGHT_M_S / solved.freq_hz[c]
        uv = station_uvw_m[t, good, :2] / wavelength_m
        with_shift_rad[t, good, c] = _without_constant(error[t, good, c])
        residual_rad[t, good, c], gradient = _without_gradient(error[t, good, c], uv)
        shift_rad[t, c] = np.hypot(*gradient) / (2 * np.pi)
    return PhaseError(
        _rms(residual_rad), _rms(with_shift_rad), residual_rad, with_shift_rad, shift_rad
    )


def _without_constant(error: NDArray[np.complex128]) -> Floats:
    unit = error / np.abs(error)
    for _ in range(2):  # the direction of the mean, then the mean of the angles about it
        unit = unit * np.exp(-1j * np.angle(unit.sum()))
        unit = unit * np.exp(-1j * np.angle(unit).mean())
    return np.angle(unit)


def _without_gradient(error: NDArray[np.complex128], uv: Floats) -> tuple[Floats, Floats]:
    """Return the phases (station,) that are left, and the gradient, radians per wavelength."""
    design = np.column_stack([np.ones(len(uv)), uv - uv.mean(axis=0)])
    solve = np.linalg.pinv(design)
    unit, total = error * np.exp(-1j * np.angle((error / np.abs(error)).sum())), np.zeros(3)
    for _ in range(10):  # angles that wrapped unwrap as the fit closes in
        step = solve @ np.angle(unit)
        unit, total = unit * np.exp(-1j * (design @ step)), total + step
        if np.abs(design @ step).max() < 1e-12:
            break
    return np.angle(unit), total[1:]


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.nanmean(values**2))) if np.isfinite(values).any() else float("nan")


# ------------------------------------------------------------------------------------ sources


@dataclass(frozen=True, slots=True)
class _Source:
    """A source, or a blend of some, on the pixel grid; covariance in pixel²."""

    index: int
    flux_jy: float
    row: Floats
    column: Floats
    share: Floats
    covariance: NDArray[np.float64]


def fit_brightest(
    restored: Plane,
    geometry: ImageGeometry,
    beam: RestoringBeam,
    sky: SkyModel,
    freq_hz: float,
    n_sources: int = 10,
    order_freq_hz: float | None = None,
    blend_beam: RestoringBeam | None = None,
) -> tuple[SourceFit, ...]:
    """Find the brightest sources of the true sky in a restored image.

    For each, the known shape (the beam, wider for an extended source) is fitted by least squares
    to the pixels above a tenth of its peak: its amplitude, the amplitudes of its neighbours, and
    one shift of them all. Sources within half a beam of a brighter one count as one with it.

    Parameters
    ----------
    restored: (row, column), Jy/beam.
    sky: apparent flux densities, as the image has them (not corrected for the primary beam).
    order_freq_hz, blend_beam: where brightness is compared and which beam makes sources one; by
        default those of the image. Given alike, all planes of a cube have the same sources.
    """
    if not sky.components:
        return ()
    blend_rad = (blend_beam or beam).bmaj_rad
    sources = _sources_in(geometry, beam, blend_rad, sky, freq_hz, order_freq_hz or freq_hz)
    cell_rad, beam_rad = geometry.cell_rad, float(np.sqrt(beam.bmaj_rad * beam.bmin_rad))
    found = []
    for source in sources[:n_sources]:
        amplitude_jy, rows, columns = _fit(restored, source, sources, beam.bmaj_rad / cell_rad)
        component = sky.components[source.index]
        found.append(
            SourceFit(
                name=component.name,
                ra_rad=component.ra_rad,
                dec_rad=component.dec_rad,
                true_jy=source.flux_jy,
                restored_jy=amplitude_jy,
                east_rad=-columns * cell_rad,
                north_rad=rows * cell_rad,
                beam_rad=beam_rad,
            )
        )
    return tuple(found)


def _sources_in(
    geometry: ImageGeometry,
    beam: RestoringBeam,
    blend_rad: float,
    sky: SkyModel,
    freq_hz: float,
    order_freq_hz: float,
) -> list[_Source]:
    """Return the sources a beam or more inside the image, blends joined, the brightest first."""
    rows, columns = geometry.pixel_of(sky.ra_rad, sky.dec_rad)
    bmaj_pixel = blend_rad / geometry.cell_rad
    margin, limit = bmaj_pixel, geometry.npixel - 1 - bmaj_pixel
    with np.errstate(invalid="ignore"):
        inside = (np.minimum(rows, columns) > margin) & (np.maximum(rows, columns) < limit)
    flux_jy, order_jy = sky.flux_jy([freq_hz, order_freq_hz]).T
    left = [int(k) for k in np.argsort(-order_jy, kind="stable") if inside[k] and order_jy[k] > 0]
    beam_pixel2 = _covariance(beam.bmaj_rad, beam.bmin_rad, beam.bpa_rad) / geometry.cell_rad**2
    sources = []
    while left:
        first = left[0]
        near = np.hypot(rows[left] - rows[first], columns[left] - columns[first])
        blended = near < BLENDED_WITHIN_BEAMS * bmaj_pixel
        members = [k for k, is_in in zip(left, blended, strict=True) if is_in]
        left = [k for k, is_in in zip(left, blended, strict=True) if not is_in]
        total_jy = float(flux_jy[members].sum())
        widths = [(c.bmaj_rad, c.bmin_rad, c.bpa_rad) for c in (sky.components[k] for k in members)]
        extent = np.stack([_covariance(*w) for w in widths]) / geometry.cell_rad**2
        sources.append(
            _Source(
                first,
                total_jy,
                rows[members],
                columns[members],
                flux_jy[members] / total_jy,
                np.stack(
                    [np.broadcast_to(beam_pixel2, extent.shape), beam_pixel2 + extent], axis=1
                ),
            )
        )
    return sources


def _covariance(bmaj_rad: float, bmin_rad: float, bpa_rad: float) -> Floats:
    """Return the covariance (row, column) of an elliptical Gaussian; columns count westwards."""
    along = np.array([np.cos(bpa_rad), -np.sin(bpa_rad)])
    across = np.array([np.sin(bpa_rad), np.cos(bpa_rad)])
    axes = np.outer(along, along) * bmaj_rad**2 + np.outer(across, across) * bmin_rad**2
    return np.asarray(axes / FWHM_PER_SIGMA**2)


def _template(source: _Source, at: Floats) -> tuple[Floats, Floats]:
    """Return what 1 Jy of a source looks like at (2, pixel) positions, and its two slopes."""
    value, slope = np.zeros(at.shape[1]), np.zeros(at.shape)
    members = zip(source.row, source.column, source.share, source.covariance, strict=True)
    for row, column, share, (beam, seen) in members:
        offset = at - np.array([[row], [column]])
        pull = np.linalg.solve(seen, offset)
        # A source wider than the beam spreads over more of them: its peak is lower.
        height = share * np.sqrt(np.linalg.det(beam) / np.linalg.det(seen))
        lobe = height * np.exp(-(offset * pull).sum(axis=0) / 2)
        value += lobe
        slope -= lobe * pull
    return value, slope


def _fit(
    restored: Plane, target: _Source, sources: Sequence[_Source], bmaj_pixel: float
) -> tuple[float, float, float]:
    """Return amplitude, Jy, and shift from the true position, rows and columns, of a source."""
    reach = int(np.ceil(2 * np.sqrt(target.covariance[:, 1].max() * -2 * np.log(FIT_ABOVE)))) + 1
    centre = np.array([target.row[0], target.column[0]])
    first = np.maximum(np.round(centre).astype(int) - reach, 0)
    stop = np.minimum(first + 2 * reach + 1, restored.shape)
    grid = np.mgrid[first[0] : stop[0], first[1] : stop[1]].reshape(2, -1).astype(float)
    lobe, _ = _template(target, grid)
    grid = grid[:, lobe > FIT_ABOVE * lobe.max()]
    pixels = restored[tuple(grid.astype(int))].astype(float)
    near = [
        other
        for other in sources
        if other is not target
        and np.hypot(*(np.array([other.row[0], other.column[0]]) - centre))
        < NEIGHBOURS_WITHIN_BEAMS * bmaj_pixel
    ]
    offset = np.zeros(2)
    for _ in range(FIT_STEPS):
        lobes, slopes = zip(
            *(_template(source, grid - offset[:, np.newaxis]) for source in (target, *near)),
            strict=True,
        )
        amplitudes = np.linalg.lstsq(np.stack(lobes, axis=1), pixels, rcond=1e-3)[0]
        moved = -np.tensordot(amplitudes, np.stack(slopes), axes=1)
        design = np.column_stack([*lobes, *moved])
        step = np.linalg.lstsq(design, pixels, rcond=1e-6)[0][-2:]
        offset += np.clip(step, -bmaj_pixel / 4, bmaj_pixel / 4)
        if not np.isfinite(offset).all() or np.hypot(*offset) > bmaj_pixel:
            return float("nan"), float("nan"), float("nan")
        if np.abs(step).max() < 1e-6:
            break
    return float(amplitudes[0]), float(offset[0]), float(offset[1])
