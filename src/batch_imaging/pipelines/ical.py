"""ICAL: self-calibration and continuum imaging of one field, from Measurement Sets to images.

The joint phase (joint.py) finds the sky and the gains from all data together; the windows phase
(windows.py) finishes each window on its own, so that spectra the joint terms cannot follow do not
stay behind. docs/ical.md tells the whole way.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from batch_imaging.errors import DataError
from batch_imaging.execution.executor import Executor
from batch_imaging.execution.progress import Progress
from batch_imaging.io.fits_image import ImageHeader
from batch_imaging.io.gain_table_file import write_gain_table
from batch_imaging.model.continuum import ContinuumModel
from batch_imaging.model.gains import GainTable
from batch_imaging.model.image import ImageGeometry
from batch_imaging.model.visibility import stokes_i
from batch_imaging.parameters import Imaging, Parameters
from batch_imaging.pipelines.imaging import ImagingSetup, measure_density
from batch_imaging.pipelines.joint import JointPhase, MajorCycle
from batch_imaging.pipelines.units import (
    Observation,
    Unit,
    load_unit,
    make_observation,
    survey,
    window_units,
)
from batch_imaging.pipelines.windows import (
    UNIT_OF,
    WindowOutcome,
    cube_path,
    image_path,
    image_windows,
    make_gain_table,
)

LOG = logging.getLogger("batch_imaging")


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
    with progress.stage("ical: weights", len(observation.windows)) as bar:
        units = [window_units(observation, window) for window in observation.windows]
        window_weight = np.array(list(bar.track(executor.map(sum_weights, units))))
    if not window_weight.any():
        raise DataError(
            f"{infos[0].path}: all samples of this and all other sets are flagged or without "
            "weight: there is nothing to image"
        )
    geometry = ImageGeometry(
        parameters.imaging.npixel, parameters.cell_rad, observation.infos[0].phase_centre
    )
    setup = _imaging_setup(parameters.imaging, geometry, units, executor, progress)
    joint = JointPhase(ical, observation, window_weight, setup, n_terms, executor, progress).run()
    LOG.info("ICAL: %d major cycles; %s", len(joint.cycles) - 1, joint.stopped_because)
    context = joint.cycles[-1].context
    windows = image_windows(
        ical, observation, joint.model, setup, context, folder, header, executor, progress
    )
    files = {f"{name}_cube": cube_path(folder, name) for name in UNIT_OF}
    files |= {name: image_path(folder, name) for name in (*UNIT_OF, "psf", "gains")}
    gain_table = make_gain_table(observation, windows, context)
    executor.run(write_gain_table, files["gains"], gain_table)
    return IcalResult(
        observation,
        _refine(joint.model, observation, windows),
        setup,
        joint.cycles,
        joint.stopped_because,
        windows,
        gain_table,
        files,
    )


def _refine(
    model: ContinuumModel, observation: Observation, windows: Sequence[WindowOutcome]
) -> ContinuumModel:
    """Let the joint model follow the windows' corrections by up to two more spectral terms.

    Primary beam and source spectra bend more than a straight line over a wide band. At most half
    as many terms as there are windows, so that the continuum stays smooth between them.
    """
    good = [w for w in windows if w.beam is not None]
    n_terms = max(1, min(model.terms_jy.shape[1] + 2, len(good) // 2))
    freq_hz = observation.freq_hz[[w.window.index for w in good]]
    return model.refined([w.correction for w in good], freq_hz, n_terms)


def _imaging_setup(
    imaging: Imaging,
    geometry: ImageGeometry,
    units: Sequence[tuple[Unit, ...]],
    executor: Executor,
    progress: Progress,
) -> ImagingSetup:
    setup = ImagingSetup(
        geometry, imaging.accuracy, imaging.weighting, imaging.robust, executor.native_threads
    )
    if imaging.weighting == "natural":
        return setup
    flat = [unit for of_window in units for unit in of_window]
    density = np.zeros((geometry.npixel // 2 + 1, geometry.npixel))
    with progress.stage("ical: uv density", len(flat)) as bar:
        for part in bar.track(executor.map(measure_density, flat, setup)):
            density += part
    return replace(setup, density=density)


def sum_weights(units: tuple[Unit, ...]) -> float:
    """Return the sum of a window's Stokes I weights (a unit of work)."""
    return sum(float(stokes_i(load_unit(unit).block)[1].sum(dtype=float)) for unit in units)
