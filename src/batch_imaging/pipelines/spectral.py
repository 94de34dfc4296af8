"""Spectral imaging: each channel, a unit of work, without the continuum and with it.

The continuum is ICAL's model, a smooth polynomial in frequency, predicted at the channel's own
frequency; a line is narrower than that and stays. Gains are those ICAL ended with.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from batch_imaging.errors import DataError
from batch_imaging.execution.executor import Executor
from batch_imaging.execution.progress import Progress
from batch_imaging.io.fits_image import FitsCubeWriter, ImageHeader, write_plane
from batch_imaging.kernels.restoring import convolve_with_beam
from batch_imaging.model.beam import RestoringBeam
from batch_imaging.model.continuum import ContinuumModel
from batch_imaging.model.visibility import stokes_i
from batch_imaging.pipelines.calibration import UnitGains, apply_gains
from batch_imaging.pipelines.ical import IcalResult
from batch_imaging.pipelines.imaging import (
    PSF_PATCH_NPIXEL,
    ImagingSetup,
    WeightedImage,
    beam_of_psf,
    invert,
    predict_model,
)
from batch_imaging.pipelines.units import Unit, load_unit

LOG = logging.getLogger("batch_imaging")


@dataclass(frozen=True, slots=True)
class ChannelOutcome:
    """One channel's result; without a beam it is blank, and ``problem`` says why."""

    freq_hz: float
    chan_width_hz: float
    beam: RestoringBeam | None
    peak_jy: float
    rms_jy: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SpectralResult:
    """Channels in order of frequency, and the cubes."""

    channels: tuple[ChannelOutcome, ...]
    files: dict[str, Path]


@dataclass(frozen=True, slots=True)
class _ChannelTask:
    plane: int
    freq_hz: float
    chan_width_hz: float
    units: tuple[Unit, ...]
    gains: tuple[UnitGains, ...]

    @property
    def channel(self) -> int:
        return self.plane


def run_spectral(
    ical: IcalResult, folder: Path, header: ImageHeader, executor: Executor, progress: Progress
) -> SpectralResult:
    """Image every channel of the observation that ICAL calibrated.

    Raises
    ------
    ProductError: a cube cannot be written.
    """
    tasks = _plan_channels(ical)
    files = {
        "line_cube": folder / "ska_pipeline_spectral_line_residual_cube.fits",
        "total_cube": folder / "ska_pipeline_spectral_restored_cube.fits",
    }
    begin, end = ical.observation.time_range_mjd_s
    cube_header = replace(
        header,
        unit="Jy/beam",
        freq_hz=np.array([task.freq_hz for task in tasks]),
        chan_width_hz=np.array([task.chan_width_hz for task in tasks]),
        start_mjd_s=begin,
        end_mjd_s=end,
    )
    geometry = ical.setup.geometry
    line, total = (FitsCubeWriter(path, geometry, cube_header) for path in files.values())
    with progress.stage("spectral imaging", len(tasks)) as bar:
        for cube in (line, total):
            executor.run(cube.create)
        channels = tuple(
            bar.track(
                executor.map(image_channel, tasks, ical.model, ical.setup, tuple(files.values()))
            )
        )
        beams = tuple(channel.beam for channel in channels)
        rms = np.array([channel.rms_jy for channel in channels])
        executor.run(line.finish, beams, rms)
        executor.run(total.finish, beams, rms, np.array([c.peak_jy for c in channels]))
    return SpectralResult(channels, files)


def _plan_channels(ical: IcalResult) -> list[_ChannelTask]:
    """Return one task a channel, in order of frequency."""
    found = []
    for outcome, info in zip(ical.windows, ical.observation.infos, strict=True):
        first, stop = outcome.window.channels
        for chan in range(first, stop):
            one = replace(outcome.window, channels=(chan, chan + 1))
            units = tuple(replace(unit, windows=(one,)) for unit in outcome.units)
            gains = tuple(replace(g, bandpass=g.bandpass[[chan - first]]) for g in outcome.gains)
            found.append((info.freq_hz[chan], info.chan_width_hz[chan], units, gains))
    found.sort(key=lambda channel: float(channel[0]))
    return [
        _ChannelTask(plane, float(freq_hz), float(width_hz), units, gains)
        for plane, (freq_hz, width_hz, units, gains) in enumerate(found)
    ]


def image_channel(
    task: _ChannelTask, model: ContinuumModel, setup: ImagingSetup, cubes: tuple[Path, Path]
) -> ChannelOutcome:
    """Subtract the continuum from one channel, image it, write its planes (a unit of work)."""
    geometry = setup.geometry
    patch = setup.patch(PSF_PATCH_NPIXEL)
    data = f"{task.units[0].windows[0].path} at {task.freq_hz:.0f} Hz"
    line: WeightedImage | None = None
    psf: WeightedImage | None = None
    for unit, gains in zip(task.units, task.gains, strict=True):
        loaded = load_unit(unit)
        corrected = apply_gains(loaded, gains)
        vis, weight = stokes_i(corrected)
        part = invert(corrected, vis - predict_model(loaded, model, setup), weight, setup)
        psf_part = invert(corrected, np.ones_like(vis), weight, patch)
        line = part if line is None else line + part
        psf = psf_part if psf is None else psf + psf_part
    try:
        if line is None or psf is None or psf.weight == 0:
            raise DataError(f"{data}: all samples are flagged or without weight")
        beam = beam_of_psf(psf.normalised(), setup, data)
    except DataError as error:  # one bad channel must not end the others; its planes stay NaN
        nan, problem = float("nan"), str(error)
        LOG.warning("%s; its planes are blank", problem)
        return ChannelOutcome(task.freq_hz, task.chan_width_hz, None, nan, nan, problem)
    residual = line.normalised()
    continuum = convolve_with_beam(model.plane(task.freq_hz), beam, geometry.cell_rad)
    restored = residual + continuum
    for path, plane in zip(cubes, (residual, restored), strict=True):
        write_plane(path, task.plane, plane)
    return ChannelOutcome(
        task.freq_hz, task.chan_width_hz, beam, float(restored.max()), float(residual.std())
    )
