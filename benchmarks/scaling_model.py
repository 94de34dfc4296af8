"""How long imaging takes on many workers: what each stage computes, moves and schedules.

A stage lasts as long as the slowest of what it needs, all of which overlap: its workers' cores,
the storage they share, the scheduler, and the process that adds their images up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

SAMPLE_BYTES = 8.2  # on disk, of a correlation: value, weight, flag
PIXEL_BYTES = 4
KERNEL_WIDTH = 6  # cells of the gridding kernel in u, v and w, at an accuracy of 1e-4
OVERSAMPLING = 1.5  # of the grid in u and v


@dataclass(frozen=True, slots=True)
class Work:
    """A unit's size, in visibilities (of Stokes I) and pixels."""

    visibilities: int
    pixels: int


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one core for a unit that predicts, subtracts, inverts and makes a psf.

    Attributes
    ----------
    task_s: that the scheduler and its client take for a task, whatever it does.
    """

    unit_s: float
    visibility_s: float
    pixel_s: float
    task_s: float

    @classmethod
    def fitted(cls, works: Sequence[Work], seconds: Sequence[float], task_s: float) -> "Costs":
        """Fit by least squares of relative errors, without negative costs."""
        terms = np.array([(1, work.visibilities, work.pixels) for work in works], dtype=float)
        scale = terms.max(axis=0)
        measured = np.asarray(seconds)
        found, _ = nnls(terms / scale / measured[:, np.newaxis], np.ones(len(works)))
        unit_s, visibility_s, pixel_s = (float(value) for value in found / scale)
        return cls(unit_s, visibility_s, pixel_s, task_s)

    def unit_seconds(self, work: Work) -> float:
        return self.unit_s + self.visibility_s * work.visibilities + self.pixel_s * work.pixels

    def wall_s(self, work: Work, n_units: int, n_workers: int) -> float:
        """Return the seconds of equal units, the last of which may leave workers idle."""
        rounds = -(-n_units // n_workers)
        return max(rounds * self.unit_seconds(work), n_units * self.task_s)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Workers of one core each, and what they share, bytes a second."""

    workers: int
    storage_bytes_s: float
    client_bytes_s: float


@dataclass(frozen=True, slots=True)
class Observation:
    """What is imaged; ``planes`` of the continuum are cleaned together in each major cycle."""

    stations: int
    channels: int
    integrations: int
    npixel: int
    cycles: int = 6
    planes: int = 8
    channels_per_unit: int = 16

    @property
    def visibilities(self) -> int:
        """Of one correlation."""
        return self.stations * (self.stations - 1) // 2 * self.integrations * self.channels

    @property
    def data_bytes(self) -> float:
        """Of all four correlations."""
        return 4 * SAMPLE_BYTES * self.visibilities

    @property
    def image_bytes(self) -> int:
        return PIXEL_BYTES * self.npixel**2


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage of all its rounds needs.

    Attributes
    ----------
    core_s: of all tasks together; serial_s: of what only one core can do.
    storage_bytes: read and written; client_bytes: that come together in one process.
    """

    name: str
    tasks: int
    flop: float
    core_s: float
    storage_bytes: float
    client_bytes: float
    serial_s: float = 0.0

    def needs_s(self, cluster: Cluster, costs: Costs) -> dict[str, float]:
        """Return the seconds that each resource takes, if it alone were short."""
        at_once = max(1, min(cluster.workers, self.tasks))
        return {
            "cores": self.core_s / at_once,
            "storage": self.storage_bytes / cluster.storage_bytes_s,
            "scheduler": self.tasks * costs.task_s,
            "client": self.client_bytes / cluster.client_bytes_s,
            "one core": self.serial_s,
        }


def plan_stages(observation: Observation, costs: Costs, minor_pixel_s: float) -> list[Stage]:
    """Return the stages of a night: major and minor cycles of the continuum, then the cube.

    Parameters
    ----------
    minor_pixel_s: of a pixel in each minor cycle, which is one unit.
    """
    seen, pixels = observation.visibilities, observation.npixel**2
    cycles, channels = observation.cycles, observation.channels
    n_units = -(-channels // observation.channels_per_unit)
    unit = Work(seen // n_units, pixels)
    channel = Work(seen // channels, pixels)
    cleaned = pixels * observation.planes
    return [
        Stage(
            "major cycles",
            cycles * n_units,
            cycles * (2 * gridding_flop(seen) + 2 * n_units * transform_flop(observation.npixel)),
            cycles * n_units * costs.unit_seconds(unit) * 2 / 3,  # the psf is not made again
            cycles * observation.data_bytes,
            cycles * n_units * observation.image_bytes,
        ),
        Stage(
            "minor cycles",
            cycles,
            0.0,
            0.0,
            0.0,
            2 * cycles * observation.planes * observation.image_bytes,
            cycles * cleaned * minor_pixel_s,
        ),
        Stage(
            "spectral cube",
            channels,
            3 * gridding_flop(seen) + 3 * channels * transform_flop(observation.npixel),
            channels * costs.unit_seconds(channel),
            observation.data_bytes + 2 * channels * observation.image_bytes,
            0.0,
        ),
    ]


def gridding_flop(visibilities: int) -> float:
    """Return the operations that put visibilities on w planes, or take them from there.

    A complex value times a real kernel, for each cell in reach: 4 operations.
    """
    return 4.0 * KERNEL_WIDTH**3 * visibilities


def transform_flop(npixel: int, w_planes: int = 2 * KERNEL_WIDTH) -> float:
    """Return the operations of the Fourier transforms of an image: 5 N log2 N each."""
    cells = (OVERSAMPLING * npixel) ** 2
    return w_planes * 5 * cells * float(np.log2(cells))
