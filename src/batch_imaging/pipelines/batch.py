"""The main job: simulate or take Measurement Sets, ICAL, spectral imaging, into the two buffers."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from batch_imaging import __version__
from batch_imaging.execution.executor import Executor
from batch_imaging.execution.progress import Progress
from batch_imaging.io.fits_image import ImageHeader, Provenance
from batch_imaging.io.measurement_set import describe_measurement_set
from batch_imaging.parameters import Parameters, parameter_hash
from batch_imaging.pipelines.ical import IcalResult, run_ical
from batch_imaging.pipelines.simulate import SimulationResult, run_simulation
from batch_imaging.pipelines.spectral import SpectralResult, run_spectral

if TYPE_CHECKING:
    from batch_imaging.pipelines.line_imaging import LineResult

LOG = logging.getLogger("batch_imaging")


@dataclass(frozen=True, slots=True)
class Buffers:
    """The folders that stand for the buffer reservations."""

    vis: Path
    img: Path


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What a run is called: its processing and execution blocks, the commit it was made with."""

    pb_id: str
    eb_id: str
    git_commit: str = ""


@dataclass(slots=True)
class BatchResult:
    """What a run has made so far: None where a pipeline was not asked for or has not ended."""

    simulation: SimulationResult | None = None
    ical: IcalResult | None = None
    spectral: SpectralResult | None = None
    line: "LineResult | None" = None


def run_pipelines(
    parameters: Parameters,
    buffers: Buffers,
    identity: RunIdentity,
    executor: Executor,
    progress: Progress,
    result: BatchResult,
    sets: Sequence[Path] = (),
) -> None:
    """Run the pipelines of a batch_imaging processing block.

    Only workers touch the buffers: this process may stand where they are not mounted. A product
    that was not finished stays behind as `*.partial`.

    Parameters
    ----------
    result: filled in as pipelines end, so that a report can be made of a run that fails.
    sets: Measurement Sets to image; without any, they are simulated into ``buffers.vis``.
    """
    if not sets:
        LOG.info("Running simulation pipeline")
        result.simulation = run_simulation(parameters, buffers.vis, executor, progress)
        sets = result.simulation.sets
    header = executor.run(make_header, parameters, sets[0], identity)
    LOG.info("Running ICAL pipeline")
    result.ical = run_ical(sets, parameters, buffers.img, header, executor, progress)
    if parameters.spectral.enabled:
        LOG.info("Running spectral imaging pipeline")
        result.spectral = run_spectral(result.ical, buffers.img, header, executor, progress)


def make_header(parameters: Parameters, one_set: Path, identity: RunIdentity) -> ImageHeader:
    """Return what all images of a run say; frequencies and times are filled in per image."""
    info = describe_measurement_set(one_set)
    begin, end = info.time_range_mjd_s
    return ImageHeader(
        freq_hz=np.array([info.freq_hz.mean()]),
        chan_width_hz=np.array([info.chan_width_hz.sum()]),
        unit="Jy/beam",
        object_name=info.field_name,
        telescope=info.stations.array_name,
        observer="",
        start_mjd_s=begin,
        end_mjd_s=end,
        reference_itrf_m=info.stations.reference_itrf_m,
        provenance=Provenance(
            origin="batch_imaging",
            pipeline_version=__version__,
            git_commit=identity.git_commit,
            pb_id=identity.pb_id,
            eb_id=identity.eb_id,
            parameter_hash=parameter_hash(parameters),
        ),
        history=(
            f"weighting {parameters.imaging.weighting}, "
            f"gridding accuracy {parameters.imaging.accuracy:g}",
            f"calibration context {parameters.ical.calibration_context or 'none'}, "
            f"deconvolution {parameters.ical.algorithm}",
        ),
    )
