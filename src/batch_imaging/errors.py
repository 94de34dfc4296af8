"""Every error this program raises on purpose, with the exit code its command line ends in.

    BatchImagingError                1   unexpected
    ├── ParameterError               2   a parameter is wrong; nothing was started
    ├── DataError                    3   input data cannot be used
    ├── EngineError                  4   the cluster did not come, or went away
    │   ├── ClusterStartTimeout
    │   └── WorkerLost
    ├── ProductError                 5   a product could not be written or is not complete
    └── ResourceError                6   not enough memory or disk, foreseen or met on the way

Messages name the thing, the place and the way out.
"""


class BatchImagingError(Exception):
    """Root of all errors of this package."""

    exit_code = 1


class ParameterError(BatchImagingError):
    """A parameter is unknown, of the wrong type, out of range or contradicts another."""

    exit_code = 2


class DataError(BatchImagingError):
    """A Measurement Set, catalogue or position file cannot be used."""

    exit_code = 3


class EngineError(BatchImagingError):
    """The execution engine failed."""

    exit_code = 4


class ClusterStartTimeout(EngineError):
    """The workers did not all connect before the deadline."""


class WorkerLost(EngineError):
    """A worker died while it held a unit of work, more often than is tolerated."""


class ProductError(BatchImagingError):
    """A product could not be written, or is incomplete."""

    exit_code = 5


class ResourceError(BatchImagingError):
    """Memory or disk does not suffice."""

    exit_code = 6
