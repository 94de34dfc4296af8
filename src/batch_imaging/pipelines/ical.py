"""ICAL: self-calibration and continuum imaging of one field, from Measurement Sets to images and gains.

Two phases. Joint: major cycles over all data, in which the windows are deconvolved together as spectral terms and the gains
follow the growing model; it ends when the residual has converged or the budget is spent. Windows: each window is imaged on its
own, its residual cleaned once more so that spectra the terms cannot follow do not stay behind, its gains solved a last time, and
its residual computed exactly from the visibilities.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batch_imaging.errors import DataError
from batch_imaging.execution.executor import Executor
from batch_imaging.execution.progress import Progress
from batch_imaging.io.fits_image import (
    FitsCubeWriter,
    ImageHeader,
    write_fits_image,
    write_plane,
)
from batch_imaging.io.gain_table_file import write_gain_table
from batch_imaging.kernels.deconvolution import CleanSettings, centre_components, deconvolve
from batch_imaging.kernels.restoring import convolve_with_beam, fit_beam
from batch_imaging.model.beam import RestoringBeam
from batch_imaging.model.continuum import ContinuumModel
from batch_imaging.model.gains import GainTable
from batch_imaging.model.image import ImageGeometry
from batch_imaging.model.visibility import stokes_i
from batch_imaging.parameters import Ical, Parameters
from batch_imaging.pipelines.calibration import (
    UnitGains,
    apply_gains,
    calibrate_unit,
    integration_rows,
)
from batch_imaging.pipelines.imaging import (
    ImagingSetup,
    WeightedImage,
    embed,
    invert,
    measure_density,
    predict_model,
)
from batch_imaging.pipelines.units import (
    LoadedUnit,
    Observation,
    Unit,
    Window,
    load_unit,
    make_observation,
    plan_units,
    survey,
    window_units,
)

LOG = logging.getLogger("batch_imaging")

PRODUCTS = ("deconvolved", "residual", "restored")
AUTO_THRESHOLD_SIGMA = 5.0
AUTO_GAIN = 0.1
AUTO_MAJOR_GAIN = 0.9
FIRST_MAJOR_GAIN = 0.5  # while gains are unknown, only what stands far above their sidelobes
AUTO_NITER = 5000
PSF_PATCH_NPIXEL = 512  # of a window's psf: beyond it sidelobes of what is left are in the noise
WINDOW_MAJOR_GAIN = 0.97  # what is left is faint and shallow: one call may go nearly all the way
CONTEXT_DELAY = {"T": 0, "G": 2, "B": 3}  # cycles after first_selfcal, as the original's controls


@dataclass(frozen=True, slots=True)
class MajorCycle:
    """The state of the residual at the start of a major cycle, and what was done about it.

    Attributes
    ----------
    peak_jy, rms_jy, noise_jy: largest absolute value, standard deviation, and the noise estimated
        from the median absolute deviation, of the residual planes.
    iterations: minor iterations that followed; components: pixels in the model after them.
    """

    index: int
    context: str
    peak_jy: float
    rms_jy: float
    noise_jy: float
    iterations: int
    components: int


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
class IcalResult:
    """What ICAL found and wrote.

    Attributes
    ----------
    model: the continuum, smooth in frequency.
    stopped_because: why the major cycles ended, a sentence.
    files: name of the product to its path.
    """

    observation: Observation
    model: ContinuumModel
    setup: ImagingSetup
    cycles: tuple[MajorCycle, ...]
    stopped_because: str
    windows: tuple[WindowOutcome, ...]
    gain_table: GainTable
    files: dict[str, Path]


@dataclass(frozen=True, slots=True)
class _CycleTask:
    unit: Unit
    gains: UnitGains | None


@dataclass(frozen=True, slots=True)
class _WindowTask:
    window: Window
    units: tuple[Unit, ...]
    header: ImageHeader | None  # given for the window whose images are written on their own


@dataclass(frozen=True, slots=True)
class _WindowWork:
    """What all window tasks share."""

    context: str
    settings: CleanSettings
    threshold_sigma: float
    folder: Path


def run_ical(
    sets: Sequence[Path],
    parameters: Parameters,
    folder: Path,
    header: ImageHeader,
    executor: Executor,
    progress: Progress,
) -> IcalResult:
    """Calibrate and image Measurement Sets of one field.

    Parameters
    ----------
    sets: any number of sets, each with one spectral window.
    folder: where products go.
    header: what all images say; its frequencies, times and beams are filled in here.

    Raises
    ------
    DataError: the sets cannot be imaged, or not together.
    ProductError: a product cannot be written.
    """
    ical = parameters.ical
    with progress.stage("ical: survey", len(sets)) as bar:
        infos = list(bar.track(executor.map(survey, list(sets))))
    n_terms = ical.nmoment if ical.algorithm == "mmclean" else 1
    observation = make_observation(infos, n_terms)
    n_terms = min(n_terms, len(observation.windows))
    units = plan_units(observation, n_terms)
    setup = _imaging_setup(parameters, observation, units, executor, progress)
    joint = _JointPhase(ical, observation, units, setup, n_terms, executor, progress)
    model, cycles, reason = joint.run()
    LOG.info("ICAL: %d major cycles; %s", len(cycles), reason)
    windows, files = _image_windows(
        parameters, observation, model, setup, cycles, folder, header, executor, progress
    )
    table = make_gain_table(observation, windows)
    model = _refine(model, observation, windows)
    files["gains"] = folder / "ska_pipeline_ical_gains.fits"
    write_gain_table(files["gains"], table)
    return IcalResult(observation, model, setup, cycles, reason, windows, table, files)


def _refine(
    model: ContinuumModel, observation: Observation, windows: Sequence[WindowOutcome]
) -> ContinuumModel:
    """Let the joint model follow the windows' corrections by up to two more spectral terms.

    Primary beam and source spectra bend more than a straight line over a wide band. At most half
    as many terms as there are windows, so that the continuum stays smooth between them.
    """
    good = [w for w in windows if w.beam is not None]
    n_terms = min(model.terms_jy.shape[1] + 2, len(good) // 2)
    if n_terms < 1:
        return model
    freq_hz = observation.freq_hz[[w.window.index for w in good]]
    return model.refined([w.correction for w in good], freq_hz, n_terms)


def _imaging_setup(
    parameters: Parameters,
    observation: Observation,
    units: tuple[Unit, ...],
    executor: Executor,
    progress: Progress,
) -> ImagingSetup:
    imaging = parameters.imaging
    setup = ImagingSetup(
        ImageGeometry(
            imaging.npixel, parameters.cell_rad, observation.infos[0].phase_centre
        ),
        imaging.accuracy,
        imaging.weighting,
        imaging.robust,
        executor.native_threads,
    )
    if imaging.weighting == "natural":
        return setup
    with progress.stage("ical: weights", len(units)) as bar:
        density = sum(bar.track(executor.map(measure_density, units, setup)))
    return replace(setup, density=np.asarray(density))


# ------------------------------------------------------------------------------ joint phase


def calibrate_and_invert(
    task: _CycleTask, model: ContinuumModel, setup: ImagingSetup, context: str
) -> tuple[WeightedImage, UnitGains]:
    """Solve a unit's gains against the model and image what the model leaves (a unit of work)."""
    loaded = load_unit(task.unit)
    expected = predict_model(loaded, model, setup)
    gains = task.gains or UnitGains.ones(loaded)
    gains = calibrate_unit(loaded, expected, gains, context)
    return _residual_image(loaded, gains, expected, setup), gains


def _residual_image(
    loaded: LoadedUnit,
    gains: UnitGains,
    expected: NDArray[np.complexfloating],
    setup: ImagingSetup,
) -> WeightedImage:
    corrected = apply_gains(loaded, gains)
    vis, weight = stokes_i(corrected)
    return invert(corrected, vis - expected, weight, setup)


def invert_psf(unit: Unit, setup: ImagingSetup) -> WeightedImage:
    """Image a unit source at the phase centre as one unit samples it (a unit of work)."""
    block = load_unit(unit).block
    _, weight = stokes_i(block)
    return invert(block, np.ones(weight.shape, dtype=np.complex64), weight, setup)


class _JointPhase:
    """The major cycles over all data."""

    def __init__(
        self,
        ical: Ical,
        observation: Observation,
        units: tuple[Unit, ...],
        setup: ImagingSetup,
        n_terms: int,
        executor: Executor,
        progress: Progress,
    ) -> None:
        self._ical, self._rule = ical, ical.stopping
        self._units, self._setup = units, setup.draft()
        self._executor, self._progress = executor, progress
        self._n_terms = n_terms
        groups = [u.group for u in units for _ in u.windows]
        indices = [w.index for u in units for w in u.windows]
        self._n_groups = max(groups) + 1
        members = [sorted({i for g, i in zip(groups, indices, strict=True) if g == group})
                   for group in range(self._n_groups)]
        self._freq_hz = np.array([observation.freq_hz[m].mean() for m in members])
        half = observation.chan_width_hz / 2
        self._freq_range_hz = np.array(
            [
                [
                    (observation.freq_hz - half)[m].min(),
                    (observation.freq_hz + half)[m].max(),
                ]
                for m in members
            ]
        )

    def run(self) -> tuple[ContinuumModel, tuple[MajorCycle, ...], str]:
        ref_freq_hz = float(self._freq_hz.mean())
        model = ContinuumModel.empty(self._setup.geometry, self._n_terms, ref_freq_hz)
        psf, plane_weight = self._make_psf()
        beam = fit_beam(psf.mean(axis=0), self._setup.geometry.cell_rad)
        gains: list[UnitGains | None] = [None] * len(self._units)
        cycles: list[MajorCycle] = []
        while True:
            index = len(cycles)
            context = self._context(index)
            with self._progress.stage(f"ical: major cycle {index}", len(self._units)) as bar:
                residual, gains = self._make_residual(model, gains, context, bar.track)
            cycle = _measure(index, context, residual, len(model))
            if reason := self._reason_to_stop(cycle, cycles):
                return model, (*cycles, cycle), reason
            with self._progress.stage(f"ical: minor cycle {index}"):
                cleaned = self._executor.run(
                    deconvolve,
                    residual,
                    psf,
                    self._freq_range_hz,
                    plane_weight,
                    self._setup.geometry.cell_rad,
                    beam.bmaj_rad,
                    self._clean_settings(cycle),
                    self._executor.native_threads * self._executor.n_workers,
                )
            components = cleaned.components
            if self._before_selfcal(cycle):
                components = centre_components(components, residual.mean(axis=0))
            model = model.plus(components, self._freq_hz)
            cycles.append(
                replace(cycle, iterations=cleaned.iterations, components=len(model))
            )
            LOG.debug("%s", cycles[-1])

    def _context(self, cycle: int) -> str:
        begin = self._ical.first_selfcal
        return "".join(
            letter
            for letter in self._ical.calibration_context
            if cycle >= max(begin, 1) + CONTEXT_DELAY[letter]
        )

    def _make_psf(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        with self._progress.stage("ical: psf", len(self._units)) as bar:
            images = bar.track(self._executor.map(invert_psf, self._units, self._setup))
            planes = self._sum_groups(list(images))
        weights = np.array([plane.weight for plane in planes])
        if not weights.any():
            raise DataError("all samples of all Measurement Sets are flagged: nothing to image")
        psf = np.stack([plane.normalised() for plane in planes])
        best = psf[int(np.argmax(weights))]
        psf[weights == 0] = best
        return psf, weights

    def _make_residual(self, model, gains, context, track):  # type: ignore[no-untyped-def]
        tasks = [_CycleTask(u, g) for u, g in zip(self._units, gains, strict=True)]
        results = list(
            track(
                self._executor.map(calibrate_and_invert, tasks, model, self._setup, context)
            )
        )
        planes = self._sum_groups([image for image, _ in results])
        return np.stack([p.normalised() for p in planes]), [g for _, g in results]

    def _sum_groups(self, images: list[WeightedImage]) -> list[WeightedImage]:
        sums: list[WeightedImage | None] = [None] * self._n_groups
        for unit, image in zip(self._units, images, strict=True):
            so_far = sums[unit.group]
            sums[unit.group] = image if so_far is None else so_far + image
        return [s for s in sums if s is not None]

    def _reason_to_stop(self, cycle: MajorCycle, before: list[MajorCycle]) -> str:
        rule = self._rule
        if cycle.peak_jy == 0:
            return "the residual is zero"
        started = cycle.context == self._ical.calibration_context
        if started and before:
            if cycle.peak_jy <= _threshold_jy(rule.threshold_jy, cycle.noise_jy):
                return f"the residual peak {cycle.peak_jy:.4g} Jy/beam is below the threshold"
            last = before[-1]
            same_gains = last.context == cycle.context or not cycle.context
            drop = 1 - cycle.rms_jy / last.rms_jy
            if same_gains and drop < rule.convergence:
                return (
                    f"converged: the last cycle lowered the residual rms by {100 * drop:.1f} % "
                    f"to {cycle.rms_jy:.4g} Jy/beam"
                )
        if cycle.index >= rule.max_nmajor:
            return f"the budget of {rule.max_nmajor} major cycles is spent"
        return ""

    def _clean_settings(self, cycle: MajorCycle) -> CleanSettings:
        return _clean_settings(
            self._ical, self._n_terms, cycle.noise_jy, first=self._before_selfcal(cycle)
        )

    def _before_selfcal(self, cycle: MajorCycle) -> bool:
        return cycle.context == "" and self._ical.calibration_context != ""


def _clean_settings(ical: Ical, n_terms: int, noise_jy: float, *, first: bool) -> CleanSettings:
    rule = ical.stopping
    major_gain = FIRST_MAJOR_GAIN if first else AUTO_MAJOR_GAIN
    if rule.fractional_threshold is not None:
        major_gain = 1 - rule.fractional_threshold
    return CleanSettings(
        scales_pixel=() if ical.algorithm == "hogbom" else ical.scales,
        n_terms=n_terms,
        gain=AUTO_GAIN if rule.gain is None else rule.gain,
        major_gain=major_gain,
        threshold_jy=_threshold_jy(rule.threshold_jy, noise_jy),
        max_iterations=AUTO_NITER if rule.niter is None else rule.niter,
    )


def _threshold_jy(threshold_jy: float | None, noise_jy: float) -> float:
    return AUTO_THRESHOLD_SIGMA * noise_jy if threshold_jy is None else threshold_jy


def _measure(
    index: int, context: str, residual: NDArray[np.float32], components: int
) -> MajorCycle:
    mean = residual.mean(axis=0)
    return MajorCycle(
        index,
        context,
        float(np.abs(mean).max()),
        float(mean.std()),
        robust_noise(mean),
        0,
        components,
    )


def robust_noise(image: NDArray[np.float32]) -> float:
    """Return the standard deviation of a Gaussian with the image's median absolute deviation."""
    return float(1.4826 * np.median(np.abs(image - np.median(image))))


# ---------------------------------------------------------------------------- windows phase


def _image_windows(
    parameters: Parameters,
    observation: Observation,
    model: ContinuumModel,
    setup: ImagingSetup,
    cycles: tuple[MajorCycle, ...],
    folder: Path,
    header: ImageHeader,
    executor: Executor,
    progress: Progress,
) -> tuple[tuple[WindowOutcome, ...], dict[str, Path]]:
    freq_hz, width_hz = observation.freq_hz, observation.chan_width_hz
    cubes = {name: folder / f"ska_pipeline_ical_{name}_cube.fits" for name in PRODUCTS}
    singles = {name: folder / f"ska_pipeline_ical_{name}.fits" for name in (*PRODUCTS, "psf")}
    chosen = len(observation.windows) // 2
    begin, end = observation.time_range_mjd_s
    base = replace(
        header, freq_hz=freq_hz, chan_width_hz=width_hz, start_mjd_s=begin, end_mjd_s=end
    )
    single_header = replace(
        base, freq_hz=freq_hz[[chosen]], chan_width_hz=width_hz[[chosen]]
    )
    work = _WindowWork(
        context=parameters.ical.calibration_context if cycles[-1].context else "",
        settings=replace(
            _clean_settings(parameters.ical, 1, 0.0, first=False), major_gain=WINDOW_MAJOR_GAIN
        ),
        threshold_sigma=(
            AUTO_THRESHOLD_SIGMA if parameters.ical.stopping.threshold_jy is None else 0.0
        ),
        folder=folder,
    )
    tasks = [
        _WindowTask(
            window,
            window_units(observation, window),
            single_header if window.index == chosen else None,
        )
        for window in observation.windows
    ]
    with (
        FitsCubeWriter(cubes["deconvolved"], setup.geometry, replace(base, unit="Jy/pixel")) as a,
        FitsCubeWriter(cubes["residual"], setup.geometry, replace(base, unit="Jy/beam")) as b,
        FitsCubeWriter(cubes["restored"], setup.geometry, replace(base, unit="Jy/beam")) as c,
        progress.stage("ical: windows", len(tasks)) as bar,
    ):
        outcomes = tuple(bar.track(executor.map(image_window, tasks, model, setup, work)))
        beams = tuple(outcome.beam for outcome in outcomes)
        rms = np.array([outcome.rms_jy for outcome in outcomes])
        a.finish()
        b.finish(beams, rms=rms)
        c.finish(beams, rms=rms, peak=np.array([outcome.peak_jy for outcome in outcomes]))
    files = {f"{name}_cube": path for name, path in cubes.items()} | singles
    return outcomes, files


def image_window(
    task: _WindowTask, model: ContinuumModel, setup: ImagingSetup, work: _WindowWork
) -> WindowOutcome:
    """Finish one window: clean its own residual, calibrate, write its planes (a unit of work)."""
    loaded = [load_unit(unit) for unit in task.units]
    psf_setup = setup if task.header else setup.draft().patch(PSF_PATCH_NPIXEL)
    psf_sum = _sum(invert_psf(unit, psf_setup) for unit in task.units)
    times = np.concatenate([_times(item) for item in loaded])
    gains = [UnitGains.ones(item) for item in loaded]
    if psf_sum.weight == 0:
        return _blank_window(task, model, gains, times)
    psf = psf_sum.normalised()
    beam = fit_beam(psf, setup.geometry.cell_rad)
    correction = ContinuumModel.empty(setup.geometry, 1, model.ref_freq_hz)
    residual, gains = _window_residual(loaded, gains, model, setup.draft(), work.context)
    settings = replace(
        work.settings,
        threshold_jy=max(
            work.settings.threshold_jy, work.threshold_sigma * robust_noise(residual)
        ),
    )
    freq_hz = float(loaded[0].block.freq_hz.mean())
    band = np.array([[freq_hz * 0.999, freq_hz * 1.001]])
    if np.abs(residual).max() > settings.threshold_jy:
        cleaned = deconvolve(
            residual[np.newaxis],
            embed(psf, residual.shape)[np.newaxis],
            band,
            np.ones(1),
            setup.geometry.cell_rad,
            beam.bmaj_rad,
            settings,
            setup.threads,
        )
        correction = correction.plus(cleaned.components, np.array([freq_hz]))
        model = model.plus(cleaned.components, np.array([freq_hz]))
    residual, gains = _window_residual(loaded, gains, model, setup, work.context)
    deconvolved = model.plane(freq_hz)
    restored = residual + convolve_with_beam(deconvolved, beam, setup.geometry.cell_rad)
    _write_window(task, deconvolved, residual, restored, psf, beam, setup.geometry, work.folder)
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
    images, solved = [], []
    for item, start in zip(loaded, gains, strict=True):
        expected = predict_model(item, model, setup)
        new = calibrate_unit(item, expected, start, context)
        images.append(_residual_image(item, new, expected, setup))
        solved.append(new)
    return _sum(images).normalised(), solved


def _sum(images):  # type: ignore[no-untyped-def]
    total = None
    for image in images:
        total = image if total is None else total + image
    return total


def _times(loaded: LoadedUnit) -> NDArray[np.float64]:
    block = loaded.block
    return np.array([block.time_mjd_s[rows.start] for rows in integration_rows(block)])


def _blank_window(
    task: _WindowTask,
    model: ContinuumModel,
    gains: list[UnitGains],
    times: NDArray[np.float64],
) -> WindowOutcome:
    """Leave the planes NaN, as they are."""
    nan = float("nan")
    nothing = ContinuumModel.empty(model.geometry, 1, model.ref_freq_hz)
    return WindowOutcome(
        task.window, None, nan, nan, 0.0, nothing, task.units, tuple(gains), times
    )


def _write_window(
    task: _WindowTask,
    deconvolved: NDArray[np.float32],
    residual: NDArray[np.float32],
    restored: NDArray[np.float32],
    psf: NDArray[np.float32],
    beam: RestoringBeam,
    geometry: ImageGeometry,
    folder: Path,
) -> None:
    planes = {"deconvolved": deconvolved, "residual": residual, "restored": restored}
    for name, plane in planes.items():
        write_plane(folder / f"ska_pipeline_ical_{name}_cube.fits", task.window.index, plane)
    if task.header is None:
        return
    single = folder / "ska_pipeline_ical_deconvolved.fits"
    write_fits_image(single, deconvolved, geometry, replace(task.header, unit="Jy/pixel"))
    with_beam = replace(task.header, unit="Jy/beam", beams=(beam,))
    for name in ("residual", "restored"):
        write_fits_image(folder / f"ska_pipeline_ical_{name}.fits", planes[name], geometry, with_beam)
    write_fits_image(
        folder / "ska_pipeline_ical_psf.fits", psf, geometry, replace(with_beam, unit="")
    )


def make_gain_table(
    observation: Observation, windows: Sequence[WindowOutcome]
) -> GainTable:
    """Put the windows' gains together, T·G·B for every integration, as they apply to DATA.

    DATA holds the conjugates of our visibilities (docs/conventions.md), so gains are conjugated. The chan axis is that of the windows, or of all channels once a bandpass was solved; corr is ("I",) while
    one phase holds for all correlations.
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
