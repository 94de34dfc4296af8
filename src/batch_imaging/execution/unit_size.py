"""How large a unit of work may be, and what a process keeps of them: one place for the pipelines,
which cut the data by it, and for the plan, which foretells how they do."""

UNIT_BYTES = 64 * 2**20
"""Most bytes of visibilities in one unit (or one integration of one channel, if that is more)."""

CACHE_BYTES = 160 * 2**20
"""Most bytes of units that one process keeps between stages."""

_BYTES_PER_SAMPLE = 12  # complex64 and float32
_BYTES_PER_ROW = 40  # uvw, time, antennas


def unit_bytes(n_rows: int, samples_per_row: int) -> int:
    """Return the memory of so many rows with so many channels × correlations."""
    return n_rows * (_BYTES_PER_ROW + _BYTES_PER_SAMPLE * samples_per_row)
