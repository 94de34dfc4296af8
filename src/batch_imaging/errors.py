"""Every error this program raises on purpose, with the exit code its command line ends in.

    BatchImagingError                1   unexpected
    ├── ParameterError               2   a parameter is wrong; nothing was started
    ├── DataError                    3   input data cannot be used
    ├── EngineError                  4   the cluster did not come, or went away
    │   ├── ClusterStartTimeout
    │   ├── VersionMismatch
    │   └── WorkerLost
    ├── ProductError                 5   a product could not be written or is not complete
    ├── ResourceError                6   not enough memory or disk, foreseen or met on the way
    ├── ControlError                 7   the control system failed or refused
    │   ├── ConfigUnavailable            the configuration database cannot be reached
    │   ├── ConfigEntryError
    │   │   ├── ConfigCollision          what should be created is there already
    │   │   ├── ConfigVanished           what should be changed is not there
    │   │   └── MalformedRecord          an entry of the database is not what its key promises
    │   ├── InvalidPath                  an id is empty, or a path has not the form of one
    │   ├── PassingFailure               what failed may well work in a while
    │   ├── SettingError                 an environment variable or option has no valid value
    │   └── OwnershipLost                a processing block is not this script's any more
    └── Cancelled                    8   the operator or a signal ended it

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


class VersionMismatch(EngineError):
    """Scheduler or workers have other versions of Python or libraries than this process."""


class WorkerLost(EngineError):
    """A worker died while it held a unit of work, more often than is tolerated."""


class ProductError(BatchImagingError):
    """A product could not be written, or is incomplete."""

    exit_code = 5


class ResourceError(BatchImagingError):
    """Memory or disk does not suffice."""

    exit_code = 6


class ControlError(BatchImagingError):
    """The control system failed, or refused what was asked."""

    exit_code = 7


class ConfigUnavailable(ControlError):
    """The configuration database did not answer within the deadline."""


class PassingFailure(ControlError):
    """Something did not work that may well work in a while, unchanged."""


class SettingError(ControlError, ValueError):
    """A setting of the control system, mostly from the environment, has no valid value."""


class InvalidPath(ControlError, ValueError):
    """A path that no entry of the configuration database can have."""


class ConfigEntryError(ControlError, RuntimeError):
    """An entry of the configuration database is in the way, missing or unreadable.

    Attributes
    ----------
    path: of the entry, as in `/pb/<pb_id>/state`.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class ConfigCollision(ConfigEntryError):
    """An entry that should be created exists."""


class ConfigVanished(ConfigEntryError):
    """An entry that should be changed or deleted does not exist."""


class MalformedRecord(ConfigEntryError):
    """An entry does not have the members, or values, of its kind."""


class OwnershipLost(ControlError):
    """The owner entry of a processing block is gone, or names another process."""


class Cancelled(BatchImagingError):
    """A processing block, its scheduling block or its process was told to end."""

    exit_code = 8
