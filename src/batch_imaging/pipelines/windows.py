"""The last phase of ICAL: every window finished on its own, its planes written, its gains kept."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from batch_imaging.execution.executor import Executor
from batch_imaging.execution.progress import Progress
from batch_imaging.io.fits_image import FitsCubeWriter, ImageHeader, write_fits_image, write_plane
from batch_imaging.kernels.deconvolution import CleanSettings, deconvolve
from batch_imaging.kernels.noise import robust_noise
from batch_imaging.kernels.restoring import convolve_with_beam
from batch_imaging.model.beam import RestoringBeam
from batch_imaging.model.continuum import ContinuumModel
from batch_imaging.model.gains import GainTable
from batch_imaging.parameters import Ical
from batch_imaging.pipelines.calibration import UnitGains, calibrate_unit, integration_rows
from batch_imaging.pipelines.imaging import (
    ImagingSetup,
    WeightedImage,
    beam_of_psf,
    embed,
    predict_model,
)
from batch_imaging.pipelines.joint import (
    AUTO_THRESHOLD_SIGMA,
    clean_settings,
    invert_psf,
    residual_image,
)
from batch_imaging.pipelines.units import (
    LoadedUnit,
    Observation,
    Unit,
    Window,
    load_unit,
    window_units,
)

PSF_PATCH_NPIXEL = 512  # of a window's psf: beyond it sidelobes of what is left are in the noise
WINDOW_MAJOR_GAIN = 0.97  # what is left is faint and shallow: one call may go nearly all the way
UNIT_OF: dict[str, Literal["Jy/beam", "Jy/pixel"]] = {
    "deconvolved": "Jy/pixel",
    "residual": "Jy/beam",
    "restored": "Jy/beam",
}


@dataclass(frozen=True, slots=True)
class WindowOutcome:
    """One window's result.

    Attributes
    ----------
    beam: None if the window holds no data.
    peak_jy: of the restored image; rms_jy: of the residual; weight: sum of imaging weights.
    correction: what the window's own cleaning added to the joint model.
    units, gains: the window's data and the gains they ended with.
    times_mjd_s: (integration,) of all units in turn.
    """

    window: Window
    beam: RestoringBeam | None
    peak_jy: float
    rms_jy: float
    weight: float
    correction: ContinuumModel
    units: tuple[Unit, ...]
    gains: tuple[UnitGains, ...]
    times_mjd_s: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _WindowTask:
    """``header`` is given for the window whose images are written on their own as well."""

    window: Window
    units: tuple[Unit, ...]
    header: ImageHeader | None


@dataclass(frozen=True, slots=True)
class _WindowWork:
    """What all window tasks share; the threshold is the larger of both kinds."""

    context: str
    settings: CleanSettings
    threshold_sigma: float
    folder: Path


@dataclass(frozen=True, slots=True)
class _WindowImages:
    deconvolved: NDArray[np.float32]
    residual: NDArray[np.float32]
    restored: NDArray[np.float32]


def cube_path(folder: Path, name: str) -> Path:
    """Return the file of a product over all windows."""
    return folder / f"ska_pipeline_ical_{name}_cube.fits"


def image_path(folder: Path, name: str) -> Path:
    """Return the file of a product of the middle window."""
    return folder / f"ska_pipeline_ical_{name}.fits"


def image_windows(
    ical: Ical,
    observation: Observation,
    model: ContinuumModel,
    setup: ImagingSetup,
    context: str,
    folder: Path,
    header: ImageHeader,
    executor: Executor,
    progress: Progress,
) -> tuple[WindowOutcome, ...]:
    """Image all windows: cubes of each product, and single images of the middle window.

    ``context`` names the gains to solve.
    """
    middle = len(observation.windows) // 2
    begin, end = observation.time_range_mjd_s
    header = replace(
        header,
        freq_hz=observation.freq_hz,
        chan_width_hz=observation.chan_width_hz,
        start_mjd_s=begin,
        end_mjd_s=end,
    )
    middle_header = replace(
        header,
        freq_hz=observation.freq_hz[[middle]],
        chan_width_hz=observation.chan_width_hz[[middle]],
    )
    settings = clean_settings(ical, 1, 0.0, first=False)
    work = _WindowWork(
        context,
        replace(settings, major_gain=WINDOW_MAJOR_GAIN),
        AUTO_THRESHOLD_SIGMA if ical.stopping.threshold_jy is None else 0.0,
        folder,
    )
    tasks = [
        _WindowTask(
            window,
            window_units(observation, window),
            middle_header if window.index == middle else None,
        )
        for window in observation.windows
    ]
    with ExitStack() as stack:
        cubes = {
            name: stack.enter_context(
                FitsCubeWriter(cube_path(folder, name), setup.geometry, replace(header, unit=unit))
            )
            for name, unit in UNIT_OF.items()
        }
        bar = stack.enter_context(progress.stage("ical: windows", len(tasks)))
        outcomes = tuple(bar.track(executor.map(image_window, tasks, model, setup, work)))
        beams = tuple(outcome.beam for outcome in outcomes)
        rms = np.array([outcome.rms_jy for outcome in outcomes])
        peak = np.array([outcome.peak_jy for outcome in outcomes])
        cubes["deconvolved"].finish()
        cubes["residual"].finish(beams, rms=rms)
        cubes["restored"].finish(beams, rms=rms, peak=peak)
    return outcomes


def image_window(
    task: _WindowTask, model: ContinuumModel, setup: ImagingSetup, work: _WindowWork
) -> WindowOutcome:
    """Finish one window: clean its own residual, calibrate, write its planes (a unit of work)."""
    loaded = [load_unit(unit) for unit in task.units]
    times = np.concatenate([_times(item) for item in loaded])
    gains = [UnitGains.ones(item) for item in loaded]
    correction = ContinuumModel.empty(setup.geometry, 1, model.ref_freq_hz)
    psf_setup = setup if task.header else setup.draft().patch(PSF_PATCH_NPIXEL)
    psf_sum = _sum(invert_psf(unit, psf_setup) for unit in task.units)
    if psf_sum.weight == 0:  # the planes stay NaN, as they are
        nan = float("nan")
        return WindowOutcome(
            task.window, None, nan, nan, 0.0, correction, task.units, tuple(gains), times
        )
    psf, cell_rad = psf_sum.normalised(), setup.geometry.cell_rad
    beam = beam_of_psf(psf, setup, str(task.window.path))
    freq_hz = float(loaded[0].block.freq_hz.mean())
    residual, gains = _window_residual(loaded, gains, model, setup.draft(), work.context)
    threshold_jy = max(work.settings.threshold_jy, work.threshold_sigma * robust_noise(residual))
    if np.abs(residual).max() > threshold_jy:
        cleaned = deconvolve(
            residual[np.newaxis],
            embed(psf, residual.shape)[np.newaxis],
            np.array([[freq_hz * 0.999, freq_hz * 1.001]]),  # of no effect on a single plane
            np.ones(1),
            cell_rad,
            beam.bmaj_rad,
            replace(work.settings, threshold_jy=threshold_jy),
            setup.threads,
        )
        correction = correction.plus(cleaned.components, np.array([freq_hz]))
        model = model.plus(cleaned.components, np.array([freq_hz]))
    residual, gains = _window_residual(loaded, gains, model, setup, work.context)
    deconvolved = model.plane(freq_hz)
    restored = residual + convolve_with_beam(deconvolved, beam, cell_rad)
    _write_window(task, _WindowImages(deconvolved, residual, restored), psf, beam, setup, work)
    return WindowOutcome(
        task.window,
        beam,
        float(restored.max()),
        float(residual.std()),
        psf_sum.weight,
        correction,
        task.units,
        tuple(gains),
        times,
    )


def _window_residual(
    loaded: list[LoadedUnit],
    gains: list[UnitGains],
    model: ContinuumModel,
    setup: ImagingSetup,
    context: str,
) -> tuple[NDArray[np.float32], list[UnitGains]]:
    """Solve the gains against the model and image what is left."""
    images, solved = [], []
    for item, start in zip(loaded, gains, strict=True):
        expected = predict_model(item, model, setup)
        solved.append(calibrate_unit(item, expected, start, context))
        images.append(residual_image(item, solved[-1], expected, setup))
    return _sum(images).normalised(), solved


def _sum(images: Iterable[WeightedImage]) -> WeightedImage:
    first, *others = images
    for image in others:
        first += image
    return first


def _times(loaded: LoadedUnit) -> NDArray[np.float64]:
    block = loaded.block
    return np.array([block.time_mjd_s[rows.start] for rows in integration_rows(block)])


def _write_window(
    task: _WindowTask,
    images: _WindowImages,
    psf: NDArray[np.float32],
    beam: RestoringBeam,
    setup: ImagingSetup,
    work: _WindowWork,
) -> None:
    planes = {name: getattr(images, name) for name in UNIT_OF}
    for name, plane in planes.items():
        write_plane(cube_path(work.folder, name), task.window.index, plane)
    if task.header is None:
        return
    planes["psf"] = psf
    for name, plane in planes.items():
        header = replace(
            task.header,
            unit=UNIT_OF.get(name, ""),
            beams=() if name == "deconvolved" else (beam,),
        )
        write_fits_image(image_path(work.folder, name), plane, setup.geometry, header)


def make_gain_table(observation: Observation, windows: Sequence[WindowOutcome]) -> GainTable:
    """Put the windows' gains together, T·G·B for every integration, as they apply to DATA.

    DATA holds the conjugates of our visibilities (docs/conventions.md), so gains are conjugated.
    The chan axis is that of the windows, or of all channels once a bandpass was solved; corr is
    ("I",) while one phase holds for all correlations.
    """
    first = observation.infos[0]
    gain, weight, freq_hz = [], [], []
    phase_only = all(g.phase_only for w in windows for g in w.gains)
    bandpass = any((g.bandpass != 1).any() for w in windows for g in w.gains)
    for outcome, info in zip(windows, observation.infos, strict=True):
        chans = slice(*outcome.window.channels) if bandpass else slice(None)
        per_time, per_time_weight = [], []
        for g in outcome.gains:
            slow = (g.gain * g.bandpass) if bandpass else g.gain  # (chan, corr, station)
            slow = slow[:1, :1] if phase_only else slow
            full = g.phase[:, 0, np.newaxis, np.newaxis, :] * slow[np.newaxis]
            per_time.append(full.transpose(0, 3, 1, 2).conj())
            spread = np.ones((1, 1, *slow.shape[:2]))
            per_time_weight.append(g.phase_weight[:, 0, :, np.newaxis, np.newaxis] * spread)
        gain.append(np.concatenate(per_time))
        weight.append(np.concatenate(per_time_weight))
        freq_hz.append(
            info.freq_hz[chans] if bandpass else [observation.freq_hz[outcome.window.index]]
        )
    return GainTable(
        np.concatenate(gain, axis=2),
        np.concatenate(weight, axis=2),
        windows[0].times_mjd_s,
        np.full(len(windows[0].times_mjd_s), first.integration_s),
        np.concatenate(freq_hz),
        ("I",) if phase_only else first.corr,
        first.stations.names,
    )
