"""What all jobs of partitioned imaging need to know, decided before the first one starts."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from batch_imaging.errors import ParameterError
from batch_imaging.io.measurement_set import describe_structure
from batch_imaging.model.direction import Direction
from batch_imaging.model.image import ImageGeometry
from batch_imaging.parameters import Ical, Imaging, Parameters, parameter_hash
from batch_imaging.pipelines.imaging import ImagingSetup
from batch_imaging.pipelines.partitioned.partition import Partition
from batch_imaging.pipelines.units import group_windows

ACCURACY = 1e-7
"""Of gridding, so that images do not depend on how the data were cut."""
PLAN = "plan.json"


@dataclass(frozen=True, slots=True)
class FrequencyPlane:
    """Channels that make one plane of the joint deconvolution: their edges and mean frequency."""

    low_hz: float
    high_hz: float
    freq_hz: float


@dataclass(frozen=True, slots=True)
class Target:
    """What the headers of images say of the observation."""

    ra_rad: float
    dec_rad: float
    field_name: str
    telescope: str
    reference_itrf_m: tuple[float, float, float]
    time_range_mjd_s: tuple[float, float]


@dataclass(frozen=True, slots=True)
class ImagingPlan:
    """All that the jobs of a workflow need to know; `plan.json`.

    Attributes
    ----------
    ical: how to clean; gains are not solved for.
    planes: in order of frequency.
    cpus: processors of each job.
    """

    imaging: Imaging
    ical: Ical
    parameter_hash: str
    partition: Partition
    planes: tuple[FrequencyPlane, ...]
    target: Target
    cpus: int = 1

    @property
    def geometry(self) -> ImageGeometry:
        centre = Direction(self.target.ra_rad, self.target.dec_rad)
        return ImageGeometry(self.imaging.npixel, self.imaging.cellsize, centre)

    @property
    def weighted_by_density(self) -> bool:
        return self.imaging.weighting != "natural"

    def setup(self, density: NDArray[np.float64] | None = None) -> ImagingSetup:
        return ImagingSetup(
            self.geometry,
            min(self.imaging.accuracy, ACCURACY),
            self.imaging.weighting,
            self.imaging.robust,
            self.cpus,
            density,
        )

    def plane_of(self, freq_hz: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return (chan,) the frequency plane of each channel."""
        low, high = (
            np.array([getattr(plane, edge) for plane in self.planes])
            for edge in ("low_hz", "high_hz")
        )
        return np.searchsorted((high[:-1] + low[1:]) / 2, freq_hz)


def make_plan(partition: Partition, parameters: Parameters, cpus: int = 1) -> ImagingPlan:
    """Decide on frequency planes from the metadata of the sets, whatever the parts are.

    Raises
    ------
    DataError: a set cannot be read.
    """
    structures = {path: describe_structure(path) for path in {p.path for p in partition.parts}}
    used = sorted({(part.path, part.group) for part in partition.parts})
    groups = [structures[path].groups[group] for path, group in used]
    freq_hz = np.concatenate([group.window.freq_hz for group in groups])
    width_hz = np.concatenate([group.window.chan_width_hz for group in groups])
    rows = np.concatenate([np.full(len(g.window.freq_hz), float(len(g.rows))) for g in groups])
    distinct_hz, channel = np.unique(freq_hz, return_inverse=True)
    weight = np.bincount(channel, rows).astype(float)
    ical = parameters.ical.model_copy(update={"calibration_context": ""})
    n_planes = ical.nmoment if ical.algorithm == "mmclean" else 1
    planes = []
    for members in group_windows(weight, n_planes):
        inside = np.isin(channel, members)
        planes.append(
            FrequencyPlane(
                float((freq_hz - width_hz / 2)[inside].min()),
                float((freq_hz + width_hz / 2)[inside].max()),
                float(np.average(distinct_hz[members], weights=weight[members])),
            )
        )
    stations, first = structures[used[0][0]].stations, groups[0]
    x, y, z = map(float, stations.reference_itrf_m)
    target = Target(
        first.phase_centre.ra_rad,
        first.phase_centre.dec_rad,
        first.field_name,
        stations.array_name,
        (x, y, z),
        (
            float(min(group.time_mjd_s[0] for group in groups)),
            float(max(group.time_mjd_s[-1] for group in groups)),
        ),
    )
    return ImagingPlan(
        parameters.imaging,
        ical,
        parameter_hash(parameters),
        partition,
        tuple(planes),
        target,
        cpus,
    )


def read_plan(folder: Path) -> ImagingPlan:
    """Read the plan of a folder.

    Raises
    ------
    ParameterError: there is none, or it is damaged.
    """
    path = folder / PLAN
    try:
        return TypeAdapter(ImagingPlan).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ParameterError(
            f"{path}: is no plan ({type(error).__name__}); run this in the folder that "
            "`batch-imaging dag` wrote, or name it with --folder"
        ) from error
