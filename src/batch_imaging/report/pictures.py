"""Which pictures a run gets, in the order of the report, and what stands below each."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from batch_imaging.pipelines.ical import IcalResult
from batch_imaging.report import quicklook
from batch_imaging.report.numbers import brightness
from batch_imaging.report.quality import PlaneQuality, iter_planes, read_row
from batch_imaging.report.run_record import RunRecord
from batch_imaging.report.summary import ARCSEC, RunQuality


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG, the stem of its file, and its caption; wide ones get a line of their own."""

    name: str
    caption: str
    png: bytes
    wide: bool = False


def draw_pictures(run: RunRecord, quality: RunQuality) -> Iterator[Picture]:
    """Yield a picture of everything that is there."""
    ical = run.result.ical
    if ical is None:
        return
    plane = quality.windows[quality.chosen]
    if plane.beam is not None:
        yield from _images(run, ical, quality, plane)
    yield Picture(
        "cycles",
        f"Convergence over {len(ical.cycles)} major cycles of the joint phase; "
        f"{ical.stopped_because}.",
        quicklook.draw_cycles(ical.cycles),
    )
    if run.parameters.ical.calibration_context:
        yield from _gains(run, ical, quality)
    yield Picture(
        "channels",
        "Noise, peak and dynamic range (restored peak over residual rms) against frequency.",
        quicklook.draw_channels(quality.windows, quality.channels),
        wide=True,
    )
    measured = [index for index, fits in enumerate(quality.sources) if fits]
    if len(measured) > 1:
        yield Picture(
            "spectra",
            "Apparent spectra of the brightest sources, fitted in every window's restored image.",
            quicklook.draw_spectra(
                np.array([quality.windows[index].freq_hz for index in measured]),
                [quality.sources[index] for index in measured],
            ),
            wide=True,
        )
    if quality.channels and plane.beam is not None:
        yield _cut(run, ical, quality, plane)


def _images(
    run: RunRecord, ical: IcalResult, quality: RunQuality, plane: PlaneQuality
) -> Iterator[Picture]:
    geometry, beam, noise = ical.setup.geometry, plane.beam, plane.noise_jy
    freq = f"{plane.freq_hz / 1e6:.2f} MHz"
    images = {name: next(iter_planes(ical.files[name])) for name in ("restored", "residual", "psf")}
    yield Picture(
        "restored",
        f"Restored image of window {quality.chosen} at {freq}. The stretch shows the noise as well "
        "as the brightest source. The blue ellipse, bottom left, is the beam.",
        quicklook.draw_restored(
            images["restored"],
            geometry,
            beam,
            noise,
            f"Restored, {freq}",
            sky=run.truth.apparent if run.truth else None,
            freq_hz=plane.freq_hz,
        ),
    )
    yield Picture(
        "residual",
        f"Residual at {freq}, within ± 10 × its robust noise of {' '.join(brightness(noise))}.",
        quicklook.draw_residual(images["residual"], geometry, beam, noise, f"Residual, {freq}"),
    )
    yield Picture(
        "psf",
        f"Middle of the point spread function at {freq}, and the beam fitted to its main lobe.",
        quicklook.draw_psf(images["psf"], geometry, beam, f"Point spread function, {freq}"),
    )


def _gains(run: RunRecord, ical: IcalResult, quality: RunQuality) -> Iterator[Picture]:
    solved = ical.gain_table
    chan = int(np.abs(solved.freq_hz - quality.windows[quality.chosen].freq_hz).argmin())
    true = run.truth.gains if run.truth else None
    same_axes = true is not None and true.gain.shape == solved.gain.shape
    yield Picture(
        "gains",
        "Phases of a few stations, relative to the mean of all stations at each time.",
        quicklook.draw_gains(solved, chan, true if same_axes else None),
    )
    if quality.phase and np.isfinite(quality.phase.rms_rad):
        yield Picture(
            "phase_error",
            "Distribution of solved against true phases over all stations, times and windows.",
            quicklook.draw_phase_error(quality.phase),
        )


def _cut(run: RunRecord, ical: IcalResult, quality: RunQuality, plane: PlaneQuality) -> Picture:
    assert run.result.spectral is not None
    geometry = ical.setup.geometry
    restored = next(iter_planes(ical.files["restored"]))
    row = int(np.argmax(np.nan_to_num(restored))) // geometry.npixel
    north_arcmin = (row - geometry.npixel // 2) * geometry.cell_rad * ARCSEC / 60
    east_rad = geometry.lm_grid()[0][0]
    return Picture(
        "cut",
        "Cut of the restored spectral cube through the brightest source: every channel is a row.",
        quicklook.draw_cut(
            read_row(run.result.spectral.files["total_cube"], row),
            np.array([channel.freq_hz for channel in quality.channels]),
            east_rad,
            plane.noise_jy,
            f"Spectral cube, {north_arcmin:+.0f} arcmin north of the phase centre",
        ),
        wide=True,
    )
