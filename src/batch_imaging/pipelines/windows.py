"""The last phase of ICAL: every window finished on its own, its planes written, its gains kept."""

import functools
import logging
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from batch_imaging.errors import DataError
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
from batch_imaging.pipelines.calibration import (
    UnitGains,
    apply_gains,
    calibrate_unit,
    integration_rows,
)
from batch_imaging.pipelines.imaging import (
    PSF_PATCH_NPIXEL,
    ImagingSetup,
    WeightedImage,
    beam_of_psf,
    embed,
    predict_model,
)
from batch_imaging.pipelines.joint import (
    AUTO_THRESHOLD_SIGMA,
    clean_settings,
    psf_image,
    residual_image,
)
from batch_imaging.pipelines.units import (
    Observation,
    Unit,
    Window,
    load_unit,
    window_units,
)

LOG = logging.getLogger("batch_imaging")

GAIN_ROUNDS = 6  # alternations of T, G and B, where more than one is solved
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
    beam: None if the window could not be imaged; ``problem`` says why, and its planes are NaN.
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
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _WindowTask:
    """``header`` is given for the window whose images are written on their own as well."""

    window: Window
    units: tuple[Unit, ...]
    header: ImageHeader | None

    @property
    def channel(self) -> int:
        return self.window.index


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
    if ical.stopping.fractional_threshold is None:
        settings = replace(settings, major_gain=WINDOW_MAJOR_GAIN)
    work = _WindowWork(
        context,
        settings,
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
    cubes = {
        name: FitsCubeWriter(cube_path(folder, name), setup.geometry, replace(header, unit=unit))
        for name, unit in UNIT_OF.items()
    }
    with progress.stage("ical: windows", len(tasks)) as bar:
        for cube in cubes.values():
            executor.run(cube.create)
        outcomes = tuple(bar.track(executor.map(image_window, tasks, model, setup, work)))
        _require_an_image(outcomes)
        beams = tuple(outcome.beam for outcome in outcomes)
        rms = np.array([outcome.rms_jy for outcome in outcomes])
        peak = np.array([outcome.peak_jy for outcome in outcomes])
        executor.run(cubes["deconvolved"].finish)
        executor.run(cubes["residual"].finish, beams, rms)
        executor.run(cubes["restored"].finish, beams, rms, peak)
    return outcomes


def _require_an_image(outcomes: Sequence[WindowOutcome]) -> None:
    """Raise DataError if no window could be imaged."""
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    if len(problems) == len(outcomes):
        raise DataError(problems[0])


def image_window(
    task: _WindowTask, model: ContinuumModel, setup: ImagingSetup, work: _WindowWork
) -> WindowOutcome:
    """Finish one window: clean its own residual, calibrate, write its planes (a unit of work)."""
    cell_rad = setup.geometry.cell_rad
    correction = ContinuumModel.empty(setup.geometry, 1, model.ref_freq_hz)
    first_block = load_unit(task.units[0]).block
    freq_hz = float(first_block.freq_hz.mean())
    times = np.concatenate([_times(unit) for unit in task.units])
    start = tuple(UnitGains.ones(load_unit(unit)) for unit in task.units)
    residual, gains = _window_residual(task.units, start, model, setup.draft(), work.context)
    psf_setup = setup if task.header else setup.draft().patch(PSF_PATCH_NPIXEL)
    psf_sum = _sum(
        psf_image(apply_gains(load_unit(unit), g), psf_setup)
        for unit, g in zip(task.units, gains, strict=True)
    )
    try:
        if psf_sum.weight == 0:
            raise DataError(f"{task.window.path}: all samples are flagged or without weight")
        psf = psf_sum.normalised()
        beam = beam_of_psf(psf, setup, str(task.window.path))
    except DataError as error:  # one bad window must not end the others; its planes stay NaN
        nan, problem = float("nan"), str(error)
        LOG.warning("%s; its planes are blank", problem)
        return WindowOutcome(
            task.window, None, nan, nan, 0.0, correction, task.units, gains, times, problem
        )
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
    residual, gains = _window_residual(task.units, gains, model, setup, work.context)
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
        gains,
        times,
    )


def _window_residual(
    units: tuple[Unit, ...],
    gains: tuple[UnitGains, ...],
    model: ContinuumModel,
    setup: ImagingSetup,
    context: str,
) -> tuple[NDArray[np.float32], tuple[UnitGains, ...]]:
    """Solve the gains against the model and image what is left, unit by unit."""
    solved: list[UnitGains] = []

    def residuals() -> Iterator[WeightedImage]:
        for unit, start in zip(units, gains, strict=True):
            loaded = load_unit(unit)
            expected = predict_model(loaded, model, setup)
            solved.append(calibrate_unit(loaded, expected, start, context, GAIN_ROUNDS))
            yield residual_image(loaded, solved[-1], expected, setup)

    return _sum(residuals()).normalised(), tuple(solved)


def _sum(images: Iterable[WeightedImage]) -> WeightedImage:
    return functools.reduce(operator.add, images)


def _times(unit: Unit) -> NDArray[np.float64]:
    block = load_unit(unit).block
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


def make_gain_table(
    observation: Observation, windows: Sequence[WindowOutcome], context: str
) -> GainTable:
    """Put the windows' gains together, T·G·B for every integration, as they apply to DATA.

    DATA holds the conjugates of our visibilities (docs/conventions.md), so gains are conjugated.
    The chan axis is that of the windows, or of all channels if B was solved; corr is ("I",) if only
    T was. A weight is the smallest of the letters that were solved, zero where one found no data.
    """
    first = observation.infos[0]
    gain, weight, freq_hz = [], [], []
    for outcome, info in zip(windows, observation.infos, strict=True):
        tables = [_full_gains(g, context) for g in outcome.gains]
        gain.append(np.concatenate([table for table, _ in tables]))
        weight.append(np.concatenate([weights for _, weights in tables]))
        own_hz = observation.freq_hz[[outcome.window.index]]
        freq_hz.append(info.freq_hz[slice(*outcome.window.channels)] if "B" in context else own_hz)
    return GainTable(
        np.concatenate(gain, axis=2).conj(),
        np.concatenate(weight, axis=2),
        windows[0].times_mjd_s,
        np.full(len(windows[0].times_mjd_s), first.integration_s),
        np.concatenate(freq_hz),
        first.corr if set(context) & {"G", "B"} else ("I",),
        first.stations.names,
    )


def _full_gains(
    gains: UnitGains, context: str
) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
    """Return T·G·B of one unit of one window and their weights, (time, station, chan, corr)."""
    phase, phase_weight = gains.phase[:, 0, :, np.newaxis, np.newaxis], gains.phase_weight[:, 0]
    product, weights = phase, np.full(phase.shape, np.inf if context else 0.0)
    if "T" in context:
        weights = np.minimum(weights, phase_weight[..., np.newaxis, np.newaxis])
    for letter, values, weight in (
        ("G", gains.gain, gains.gain_weight),
        ("B", gains.bandpass, gains.bandpass_weight),
    ):
        if letter in context:
            product = product * values.transpose(2, 0, 1)
            weights = np.minimum(weights, weight.transpose(2, 0, 1))
    return product, np.broadcast_to(weights, product.shape)
