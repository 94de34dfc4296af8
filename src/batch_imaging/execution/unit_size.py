"""How large a unit of work may be, what a process keeps of them, how many there will be.

One place for the pipelines, which cut the data by it, and for the plan, which foretells how.
"""

import itertools

import numpy as np

from batch_imaging.parameters import Parameters

N_CORR = 2
"""Correlations that the simulation writes, XX and YY."""

UNIT_BYTES = 64 * 2**20
"""Most bytes of visibilities in one unit (or one integration of one channel, if that is more)."""

CACHE_BYTES = 160 * 2**20
"""Most bytes of units that one process keeps between stages."""

_BYTES_PER_SAMPLE = 12  # complex64 and float32
_BYTES_PER_ROW = 40  # uvw, time, antennas


def unit_bytes(n_rows: int, samples_per_row: int) -> int:
    """Return the memory of so many rows with so many channels × correlations."""
    return n_rows * (_BYTES_PER_ROW + _BYTES_PER_SAMPLE * samples_per_row)


def count_groups(parameters: Parameters) -> int:
    """Return how many neighbourhoods of windows are deconvolved together, one plane each."""
    n_terms = parameters.ical.nmoment if parameters.ical.algorithm == "mmclean" else 1
    return min(n_terms, parameters.nfreqwin)


def cut_joint_units(parameters: Parameters, rows: int) -> tuple[int, int]:
    """Return how many units joint imaging has, and the bytes of the largest.

    Each group of windows is cut into stacks that a unit may hold; a window that is larger by
    itself, into pieces of some integrations.
    """
    bounds = np.linspace(0, parameters.nfreqwin, count_groups(parameters) + 1).round().astype(int)
    a_stack = next(k for k in itertools.count(1) if stack_bytes(rows, k + 1) > UNIT_BYTES)
    n_units = largest = 0
    for windows in map(int, np.diff(bounds)):
        for stack in [a_stack] * (windows // a_stack) + [windows % a_stack]:
            size = stack_bytes(rows, stack) if stack else 0
            pieces = min(-(-size // UNIT_BYTES), parameters.ntimes)
            n_units += pieces
            largest = max(largest, size // max(pieces, 1))
    return n_units, largest


def stack_bytes(rows: int, windows: int) -> int:
    """Return the memory of windows that share their rows."""
    return unit_bytes(rows, windows * N_CORR)
