"""How much memory a run needs, and how much there is.

Needs are linear in visibilities, pixels and planes. The constants are fitted to peak resident
memory of runs of 2 workers with 2 to 32 windows, 94 to 272 stations, 5 to 40 times and 1024² to
4096² pixels: a worker came out within 20 %. The sum over processes is an upper bound, 10 to 60 %
above what was seen, because they do not all come to their peaks at the same time.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from batch_imaging.errors import ResourceError
from batch_imaging.execution.unit_size import (
    CACHE_BYTES,
    count_groups,
    cut_joint_units,
    stack_bytes,
)
from batch_imaging.kernels.gridding import SINGLE_PRECISION_LIMIT
from batch_imaging.parameters import Parameters

LARGEST_NPIXEL = 65536  # that parameters allow

# Interpreter and libraries take most of the base, and share a part of it between processes. What
# grows with pixels is the grid and its transforms, radler's work space for the planes that are
# deconvolved together, and the copies that the main process hands round.
_WORKER_BASE_BYTES, _MAIN_BASE_BYTES, _SHARED_BYTES = 310e6, 270e6, 90e6
_WORKER_BYTES_PER_PIXEL, _WORKER_BYTES_PER_PLANE_PIXEL = 60.0, 14.0
_MAIN_BYTES_PER_PLANE_PIXEL = 31.0
_DOUBLE_BYTES_PER_PIXEL = 40.0  # more, for grids in double precision
_DENSITY_BYTES_PER_PIXEL = 16.0  # more, for uniform and robust weighting
_SIMULATION_BYTES_PER_ROW = 170.0  # a window is simulated in one piece
_UNIT_COPIES = 1.5  # of the unit in hand: model, corrected and residual visibilities


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """Peak memory, as functions of the pixels of an image.

    Attributes
    ----------
    data_bytes, simulation_bytes: visibilities that a worker holds while it images, or simulates.
    """

    n_workers: int
    n_groups: int
    data_bytes: float
    simulation_bytes: float
    extra_bytes_per_pixel: float

    @classmethod
    def of(cls, parameters: Parameters, rows: int, n_workers: int) -> "MemoryModel":
        n_units, one_unit_bytes = cut_joint_units(parameters, rows)
        window_bytes = stack_bytes(rows, 1)
        # Units of joint imaging are cached first, then those of windows; a window is finished with
        # all its integrations in memory.
        all_bytes = n_units * one_unit_bytes + parameters.nfreqwin * window_bytes
        cached = max(min(all_bytes / n_workers, CACHE_BYTES), window_bytes)
        extra = _DOUBLE_BYTES_PER_PIXEL * (parameters.imaging.accuracy < SINGLE_PRECISION_LIMIT)
        extra += _DENSITY_BYTES_PER_PIXEL * (parameters.imaging.weighting != "natural")
        data_bytes = cached + _UNIT_COPIES * one_unit_bytes
        simulation_bytes = _SIMULATION_BYTES_PER_ROW * rows
        return cls(n_workers, count_groups(parameters), data_bytes, simulation_bytes, extra)

    def worker_bytes(self, pixels: float) -> float:
        per_pixel = _WORKER_BYTES_PER_PIXEL + self.extra_bytes_per_pixel
        per_pixel += _WORKER_BYTES_PER_PLANE_PIXEL * self.n_groups
        imaging_bytes = self.data_bytes + per_pixel * pixels
        return _WORKER_BASE_BYTES + max(imaging_bytes, self.simulation_bytes)

    def main_bytes(self, pixels: float) -> float:
        return _MAIN_BASE_BYTES + _MAIN_BYTES_PER_PLANE_PIXEL * self.n_groups * pixels

    def total_bytes(self, pixels: float) -> float:
        own = self.worker_bytes(pixels) - _SHARED_BYTES
        return self.main_bytes(pixels) + self.n_workers * own


def npixel_that_fits(needed_bytes: Callable[[float], float], available_bytes: float) -> int:
    """Return the largest even image side whose pixels need no more memory, 0 if none fits."""
    halves = range(1, LARGEST_NPIXEL // 2 + 1)
    return 2 * bisect_right(halves, available_bytes, key=lambda n: needed_bytes(4 * n**2))


def require_memory(memory: MemoryModel, npixel: int, available_bytes: int) -> None:
    """Refuse an image for which the memory of all processes does not suffice.

    Raises
    ------
    ResourceError: with what is needed, what is free and how many pixels would fit.
    """
    needed_bytes = memory.total_bytes(npixel**2)
    if needed_bytes <= available_bytes:
        return
    way_out = _way_out(memory.total_bytes, available_bytes)
    who = "one worker needs"
    if memory.n_workers > 1:
        who = f"{memory.n_workers} workers need"
        way_out += ", or use fewer workers (n_workers)"
    raise ResourceError(
        f"imaging.npixel = {npixel}: {who} about {shown_bytes(needed_bytes)} of memory, "
        f"{shown_bytes(available_bytes)} are free; {way_out}"
    )


def require_worker_memory(
    memory: MemoryModel, npixel: int, worker_limit_bytes: int, available_bytes: int
) -> None:
    """Refuse an image for which one worker, or this process that leads them, is too small.

    Where each has memory of its own, nothing is shared and a sum means nothing.

    Raises
    ------
    ResourceError: with what is needed, what there is and how many pixels would fit.
    """
    for who, needed_bytes, limit_bytes, more in (
        ("a worker", memory.worker_bytes, worker_limit_bytes, "larger workers (workerMemory)"),
        ("the script", memory.main_bytes, available_bytes, "more memory for it (resources)"),
    ):
        if needed_bytes(npixel**2) > limit_bytes:
            raise ResourceError(
                f"imaging.npixel = {npixel}: {who} needs about "
                f"{shown_bytes(needed_bytes(npixel**2))} of memory and may take "
                f"{shown_bytes(limit_bytes)}; {_way_out(needed_bytes, limit_bytes)}, or have the "
                f"installation give {more}"
            )


def _way_out(needed_bytes: Callable[[float], float], available_bytes: float) -> str:
    fits = npixel_that_fits(needed_bytes, available_bytes)
    return f"imaging.npixel {fits} would fit" if fits >= 32 else "no image would fit"


@dataclass(frozen=True, slots=True)
class _ControlGroup:
    """Files in which Linux says what the processes of a container may use, and do."""

    limit: str
    used: str
    statistics: str
    page_cache: str

    def free_bytes(self, root: Path) -> float:
        """Return what is left, infinite without a limit."""
        try:
            limit_bytes = int((root / self.limit).read_text())  # no number if there is none
            used_bytes = int((root / self.used).read_text())
            statistics = dict(map(str.split, (root / self.statistics).read_text().splitlines()))
            # Pages of files that were read or written count as used, but make way for others.
            cached_bytes = int(statistics.get(self.page_cache, 0))
        except (OSError, ValueError):
            return math.inf
        return max(limit_bytes - max(used_bytes - cached_bytes, 0), 0)


_CONTROL_GROUPS = (
    _ControlGroup("memory.max", "memory.current", "memory.stat", "inactive_file"),
    _ControlGroup(  # version 1
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def available_memory_bytes(control_groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory that this process may still take: the machine's, or its container's."""
    in_container = (group.free_bytes(control_groups) for group in _CONTROL_GROUPS)
    return int(min(psutil.virtual_memory().available, *in_container))


def shown_bytes(n_bytes: float) -> str:
    """Return a size with three digits and its unit."""
    size = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} PB"
