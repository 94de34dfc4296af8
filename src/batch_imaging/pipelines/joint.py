"""The joint phase of ICAL: major cycles over all data, deconvolved together as spectral terms."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from batch_imaging.errors import DataError
from batch_imaging.execution.executor import Executor
from batch_imaging.execution.progress import Progress
from batch_imaging.kernels.deconvolution import (
    CleanSettings,
    centre_components,
    deconvolve,
    weighted_mean,
)
from batch_imaging.kernels.noise import robust_noise
from batch_imaging.model.continuum import ContinuumModel
from batch_imaging.model.visibility import Visibility, stokes_i
from batch_imaging.parameters import CONTEXT_DELAY, Ical
from batch_imaging.pipelines.calibration import UnitGains, apply_gains, calibrate_unit
from batch_imaging.pipelines.imaging import (
    ImagingSetup,
    WeightedImage,
    beam_of_psf,
    invert,
    predict_model,
)
from batch_imaging.pipelines.units import (
    LoadedUnit,
    Observation,
    Unit,
    group_windows,
    load_unit,
    plan_units,
)

LOG = logging.getLogger("batch_imaging")

AUTO_THRESHOLD_SIGMA = 5.0
AUTO_GAIN = 0.2
AUTO_MAJOR_GAIN = 0.9
FIRST_MAJOR_GAIN = 0.5  # while gains are unknown, only what stands far above their sidelobes
AUTO_NITER = 5000
DIVERGED = 1.1  # times the residual before
CLEAN_BELOW = 0.95  # of the threshold: the exact residual ends a hair above the image-plane one


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
class _CycleTask:
    unit: Unit
    gains: UnitGains | None

    @property
    def channel(self) -> str:
        return self.unit.channel


@dataclass(frozen=True, slots=True)
class JointResult:
    """Where the major cycles ended: the model, their history, and why."""

    model: ContinuumModel
    cycles: tuple[MajorCycle, ...]
    stopped_because: str


def calibrate_and_invert(
    task: _CycleTask, model: ContinuumModel, setup: ImagingSetup, context: str
) -> tuple[WeightedImage, UnitGains]:
    """Solve a unit's gains against the model and image what the model leaves (a unit of work)."""
    loaded = load_unit(task.unit)
    expected = predict_model(loaded, model, setup)
    gains = task.gains or UnitGains.ones(loaded)
    gains = calibrate_unit(loaded, expected, gains, context)
    return residual_image(loaded, gains, expected, setup), gains


def residual_image(
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
    return psf_image(load_unit(unit).block, setup)


def psf_image(block: Visibility, setup: ImagingSetup) -> WeightedImage:
    """Image a unit source at the phase centre with the block's weights."""
    _, weight = stokes_i(block)
    return invert(block, np.ones(weight.shape, dtype=np.complex64), weight, setup)


class JointPhase:
    """The major cycles over all data."""

    def __init__(
        self,
        ical: Ical,
        observation: Observation,
        window_weight: NDArray[np.float64],
        setup: ImagingSetup,
        n_terms: int,
        executor: Executor,
        progress: Progress,
    ) -> None:
        self._ical = ical
        self._setup = setup.draft()
        self._executor, self._progress = executor, progress
        groups = group_windows(window_weight, n_terms)
        self._n_terms = min(n_terms, len(groups))
        self._units = plan_units(observation, groups)
        low_hz = observation.freq_hz - observation.chan_width_hz / 2
        high_hz = observation.freq_hz + observation.chan_width_hz / 2
        self._freq_hz = np.array(
            [np.average(observation.freq_hz[g], weights=window_weight[g]) for g in groups]
        )
        self._freq_range_hz = np.array([[low_hz[g].min(), high_hz[g].max()] for g in groups])

    def run(self) -> JointResult:
        """Run major cycles until a reason to stop is found."""
        ref_freq_hz = float(self._freq_hz.mean())
        model = ContinuumModel.empty(self._setup.geometry, self._n_terms, ref_freq_hz)
        previous = model
        psf, weight = self._make_psf()
        data = str(self._units[0].windows[0].path)
        beam = beam_of_psf(weighted_mean(psf, weight), self._setup, data)
        gains: list[UnitGains | None] = [None] * len(self._units)
        cycles: list[MajorCycle] = []
        while True:
            index = len(cycles)
            context = self._context(index)
            with self._progress.stage(f"ical: major cycle {index}", len(self._units)) as bar:
                tasks = [_CycleTask(u, g) for u, g in zip(self._units, gains, strict=True)]
                results = self._executor.map(
                    calibrate_and_invert, tasks, model, self._setup, context
                )
                gains = []
                planes = self._sum_groups(_keeping_gains(bar.track(results), gains))
            residual = np.stack([plane.normalised() for plane in planes])
            mean = weighted_mean(residual, weight)
            cycle = measure_cycle(index, context, mean, len(model))
            if has_diverged(cycle, cycles):
                reason = (
                    "diverged: the last cycle raised the residual, so its components are not used"
                )
                return JointResult(previous, (*cycles, cycle), reason)
            if reason := reason_to_stop(self._ical, cycle, cycles):
                return JointResult(model, (*cycles, cycle), reason)
            with self._progress.stage(f"ical: minor cycle {index}"):
                cleaned = self._executor.run(
                    deconvolve,
                    residual,
                    psf,
                    self._freq_range_hz,
                    weight,
                    self._setup.geometry.cell_rad,
                    beam.bmaj_rad,
                    self._clean_settings(cycle),
                    self._executor.native_threads * self._executor.n_workers,
                )
            components = cleaned.components
            if not np.isfinite(components).all():
                raise DataError(
                    f"{data}: deconvolution in major cycle {index} gave values that are not "
                    "finite; try a lower ical.gain or ical.nmoment = 1"
                )
            if self._before_selfcal(cycle):
                components = centre_components(components, mean)
            previous, model = model, model.plus(components, self._freq_hz)
            cycles.append(replace(cycle, iterations=cleaned.iterations, components=len(model)))
            LOG.debug("%s", cycles[-1])

    def _context(self, cycle: int) -> str:
        return "".join(
            letter
            for letter in self._ical.calibration_context
            if cycle >= self._ical.first_selfcal + CONTEXT_DELAY[letter]
        )

    def _make_psf(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        with self._progress.stage("ical: psf", len(self._units)) as bar:
            images = bar.track(self._executor.map(invert_psf, self._units, self._setup))
            planes = self._sum_groups(images)
        weight = np.array([plane.weight for plane in planes])
        return np.stack([plane.normalised() for plane in planes]), weight

    def _sum_groups(self, images: Iterable[WeightedImage]) -> list[WeightedImage]:
        """Sum the units' images, as they come and in their order, into one for each group."""
        sums: dict[int, WeightedImage] = {}
        for unit, image in zip(self._units, images, strict=True):
            sums[unit.group] = sums[unit.group] + image if unit.group in sums else image
        return [sums[group] for group in sorted(sums)]

    def _clean_settings(self, cycle: MajorCycle) -> CleanSettings:
        return clean_settings(
            self._ical, self._n_terms, cycle.noise_jy, first=self._before_selfcal(cycle)
        )

    def _before_selfcal(self, cycle: MajorCycle) -> bool:
        return cycle.context == "" and self._ical.calibration_context != ""


def _keeping_gains(
    results: Iterable[tuple[WeightedImage, UnitGains]], gains: list[UnitGains | None]
) -> Iterator[WeightedImage]:
    """Yield the images, append the gains to ``gains``."""
    for image, solved in results:
        gains.append(solved)
        yield image


def has_diverged(cycle: MajorCycle, before: Sequence[MajorCycle]) -> bool:
    """Return whether the last minor cycle raised the residual."""
    return (
        bool(before) and before[-1].context == cycle.context and _left(cycle, before[-1]) > DIVERGED
    )


def reason_to_stop(ical: Ical, cycle: MajorCycle, before: Sequence[MajorCycle]) -> str:
    """Return why no major cycle follows, "" if one does."""
    rule = ical.stopping
    if cycle.peak_jy == 0:
        return "the residual is zero"
    started = cycle.context == ical.calibration_context
    if started and before:
        if cycle.peak_jy <= _threshold_jy(rule.threshold_jy, cycle.noise_jy):
            return f"the residual peak {cycle.peak_jy:.4g} Jy/beam is below the threshold"
        left = _left(cycle, before[-1])
        if before[-1].context == cycle.context and 1 - left < rule.convergence:
            return (
                f"converged: after the last cycle {100 * left:.0f} % of the residual was left, "
                f"peak {cycle.peak_jy:.4g}, rms {cycle.rms_jy:.4g} Jy/beam"
            )
    if cycle.index >= rule.max_nmajor:
        return f"the budget of {rule.max_nmajor} major cycles is spent"
    return ""


def clean_settings(ical: Ical, n_terms: int, noise_jy: float, *, first: bool) -> CleanSettings:
    """Return how to clean a residual with this noise, by the user's stopping rule.

    ``first`` is the cycle before any gains are known.
    """
    rule = ical.stopping
    major_gain = FIRST_MAJOR_GAIN if first else AUTO_MAJOR_GAIN
    if rule.fractional_threshold is not None:
        major_gain = 1 - rule.fractional_threshold
    return CleanSettings(
        scales_pixel=() if ical.algorithm == "hogbom" else ical.scales,
        n_terms=n_terms,
        gain=AUTO_GAIN if rule.gain is None else rule.gain,
        major_gain=major_gain,
        threshold_jy=CLEAN_BELOW * _threshold_jy(rule.threshold_jy, noise_jy),
        max_iterations=AUTO_NITER if rule.niter is None else rule.niter,
    )


def _threshold_jy(threshold_jy: float | None, noise_jy: float) -> float:
    return AUTO_THRESHOLD_SIGMA * noise_jy if threshold_jy is None else threshold_jy


def _left(cycle: MajorCycle, before: MajorCycle) -> float:
    """Return the part of the residual that a cycle left, by its peak or its rms."""
    return min(cycle.rms_jy / before.rms_jy, cycle.peak_jy / before.peak_jy)


def measure_cycle(
    index: int, context: str, mean: NDArray[np.float32], components: int
) -> MajorCycle:
    """Return the state of a residual (npixel, npixel) that a model of so many pixels leaves."""
    return MajorCycle(
        index,
        context,
        float(np.abs(mean).max()),
        float(mean.std()),
        robust_noise(mean),
        0,
        components,
    )
