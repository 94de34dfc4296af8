"""How many workers and buffer bytes there are, and which blocks have them.

Workers belong to a block from its release until it has ended. Buffers stay when their block ends:
all that are deployed count, and those that released blocks have asked for.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from batch_imaging.control.config import View
from batch_imaging.control.config.entities import Resources
from batch_imaging.control.config.quantity import parse_quantity, quantity_text
from batch_imaging.errors import ParameterError

DEFAULT_BUFFER = "1Gi"
"""Size of a buffer whose deployment says none, as in its chart."""

NAMED = 3
"""How many holders of a resource a reason names."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What released blocks may have together; None is without limit."""

    workers: int | None = None
    buffer_bytes: int | None = None

    @classmethod
    def of(cls, max_workers: int | None, max_buffers: str | None) -> Self:
        """Return the capacity of what a user gives.

        Raises
        ------
        ParameterError: a number is negative, or a size is none.
        """
        if max_workers is not None and max_workers < 0:
            raise ParameterError(f"max_workers = {max_workers}: must be 0 or more")
        try:
            return cls(max_workers, None if max_buffers is None else parse_quantity(max_buffers))
        except ValueError as error:
            raise ParameterError(f"max_buffers = {error}") from error

    def excess(self, need: Resources) -> str | None:
        """Return by how much a block asks for more than there is at all, or None."""
        workers, n_bytes = need.workers, sum(need.buffers.values())
        if self.workers is not None and workers > self.workers:
            return (
                f"asks for {_workers(workers)}, "
                f"{workers - self.workers} more than there are ({self.workers})"
            )
        if self.buffer_bytes is not None and n_bytes > self.buffer_bytes:
            return (
                f"asks for {quantity_text(n_bytes)} of buffers, "
                f"{quantity_text(n_bytes - self.buffer_bytes)} more than there are "
                f"({quantity_text(self.buffer_bytes)})"
            )
        return None


@dataclass(slots=True)
class Usage:
    """What is in use: workers by block, bytes by buffer."""

    workers: dict[str, int] = field(default_factory=dict)
    buffers: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, view: View, released: Iterable[tuple[str, Resources]]) -> Self:
        """Return what deployed buffers and released blocks use."""
        usage = cls(buffers=dict(deployed_buffers(view)))
        for pb_id, need in released:
            usage.take(pb_id, need)
        return usage

    def take(self, pb_id: str, need: Resources) -> None:
        """Count what a released block uses. A buffer of several blocks counts once."""
        if need.workers:
            self.workers[pb_id] = need.workers
        self.buffers |= {
            name: max(size_bytes, self.buffers.get(name, 0))
            for name, size_bytes in need.buffers.items()
        }

    def adds(self, need: Resources) -> bool:
        """Whether a block needs anything that is not there for it already."""
        return need.workers > 0 or self._new_bytes(need) > 0

    def shortage(self, need: Resources, capacity: Capacity) -> str | None:
        """Return what a block has to wait for, or None."""
        used_workers, used_bytes = sum(self.workers.values()), sum(self.buffers.values())
        new_bytes = self._new_bytes(need)
        if (
            capacity.workers is not None
            and need.workers
            and used_workers + need.workers > capacity.workers
        ):
            return (
                f"waits for {_workers(need.workers)}: {used_workers} of {capacity.workers} "
                f"are in use by {_some(self.workers)}"
            )
        if (
            capacity.buffer_bytes is not None
            and new_bytes
            and used_bytes + new_bytes > capacity.buffer_bytes
        ):
            return (
                f"waits for {quantity_text(new_bytes)} of buffers: {quantity_text(used_bytes)} of "
                f"{quantity_text(capacity.buffer_bytes)} are in use by {_some(self.buffers)}"
            )
        return None

    def _new_bytes(self, need: Resources) -> int:
        return sum(
            max(0, size_bytes - self.buffers.get(name, 0))
            for name, size_bytes in need.buffers.items()
        )


def deployed_buffers(view: View) -> Iterable[tuple[str, int]]:
    """Yield name and size of the buffers that are deployed; one of a wrong size is left out."""
    for deploy_id in view.list_deployments():
        deployment = view.get_deployment(deploy_id)
        if deployment and deployment.chart == "buffer":
            try:
                yield deploy_id, parse_quantity(str(deployment.values.get("size", DEFAULT_BUFFER)))
            except ValueError:
                continue


def _workers(n: int) -> str:
    return f"{n} worker{'s' * (n != 1)}"


def _some(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    first, more = sorted(names)[:NAMED], len(list(names)) - NAMED
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")
