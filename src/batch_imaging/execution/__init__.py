"""Where and in what order work runs: executors, engines that bring clusters, the plan, progress."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch_imaging.execution.delayed import rsexecute as rsexecute


def __getattr__(name: str) -> Any:
    """Import Dask when it is asked for: it takes a second, and most modules need none."""
    if name != "rsexecute":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from batch_imaging.execution.delayed import rsexecute

    return rsexecute
