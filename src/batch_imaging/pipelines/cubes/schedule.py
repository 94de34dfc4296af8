"""How work on a cube is cut into chunks, and who computes them.

A chunk is read, computed and handed back before the next but few is begun, so memory holds as many
chunks as there are workers, however large the cube.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import dask.array as da
import psutil
from dask.array.core import slices_from_chunks
from dask.delayed import delayed

from batch_imaging.errors import EngineError, ParameterError, ResourceError, WorkerLost
from batch_imaging.execution.memory import available_memory_bytes, shown_bytes
from batch_imaging.execution.progress import Progress
from batch_imaging.io.zarr_cube import TILE
from batch_imaging.pipelines.quantities import parse_bytes

Along = Literal["spectra", "planes", "any"]
"""What must not be cut: the spectrum of a pixel, the plane of a channel, or nothing."""

Place = tuple[slice, slice, slice]
"""Channels, rows and columns of a cube."""

Result = TypeVar("Result")

CHUNK_BYTES = 64e6
SMALLEST_CHUNK_BYTES = 64e3
# Of a chunk that is worked on: input, output, float64 temporaries; padded transforms of planes.
COPIES: dict[Along, int] = {"spectra": 8, "any": 8, "planes": 24}
CONNECT_S = 30.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """Who computes chunks, how large they are, and what memory may be taken.

    Attributes
    ----------
    address: of a Dask scheduler; without one, this process computes.
    chunk: (channels, rows, columns), 0 for the whole axis; or bytes; or a size that fits.
    memory_bytes: of this process, all told; by default half of what is free.
    casa_chunk_pixels: of CASA images, whose tiles are read so many together; default 1,000,000.
    """

    workers: int = 1
    address: str = ""
    chunk: tuple[int, int, int] | float | None = None
    memory_bytes: float | None = None
    progress: Progress = field(default_factory=Progress)
    casa_chunk_pixels: int | None = None

    def chunk_shape(
        self, shape: tuple[int, ...], item_bytes: int, along: Along
    ) -> tuple[int, int, int]:
        """Return channels, rows and columns of a chunk of a cube of ``shape``.

        Raises
        ------
        ResourceError: the chunks do not fit into memory.
        """
        room_bytes = self._room_bytes() / (COPIES[along] * (self.workers + 1))
        if isinstance(self.chunk, tuple):
            n_chan, rows, columns = (
                min(n, whole) or whole for n, whole in zip(self.chunk, shape, strict=True)
            )
            n_chan = shape[0] if along == "spectra" else n_chan
            rows, columns = shape[1:] if along == "planes" else (rows, columns)
        else:
            chunk_bytes = min(self.chunk or CHUNK_BYTES, max(room_bytes, SMALLEST_CHUNK_BYTES))
            n_chan, rows, columns = _fitting(shape, int(chunk_bytes) // item_bytes, along)
        needed_bytes = n_chan * rows * columns * item_bytes
        if needed_bytes > room_bytes:
            raise ResourceError(
                f"a chunk of {n_chan} channels × {rows} × {columns} pixels takes "
                f"{shown_bytes(needed_bytes)}, and {self.workers} worker(s) have room for "
                f"{shown_bytes(room_bytes)} each: give more --memory, fewer --workers or a "
                "smaller --chunk"
            )
        return n_chan, rows, columns

    def map_chunks(
        self,
        function: Callable[..., Result],
        cubes: Sequence[da.Array],
        title: str,
    ) -> Iterator[tuple[Place, Result]]:
        """Yield the place of each chunk and what ``function(place, *chunks)`` makes of it."""
        places: list[Place] = list(slices_from_chunks(cubes[0].chunks))
        with self.progress.stage(title, len(places)) as bar, self._submitting() as submit:
            yield from bar.track(self._in_order(submit, function, cubes, places))

    def _in_order(
        self,
        submit: Callable[[Any], Any],
        function: Callable[..., Result],
        cubes: Sequence[da.Array],
        places: list[Place],
    ) -> Iterator[tuple[Place, Result]]:
        waiting: deque[tuple[Place, Any]] = deque()
        for place in places:
            chunks = (cube[place] for cube in cubes)
            waiting.append((place, submit(delayed(function, pure=False)(place, *chunks))))
            if len(waiting) > self.workers:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())

    @contextmanager
    def _submitting(self) -> Iterator[Callable[[Any], Any]]:
        """Yield what turns a lazy value into a future."""
        if self.address:
            # takes half a second to import, and mostly nobody needs it
            from distributed import CancelledError, Client, KilledWorker

            try:
                client = Client(self.address, timeout=CONNECT_S, set_as_default=False)
            except (OSError, TimeoutError, ValueError) as error:
                raise EngineError(
                    f"no Dask scheduler at {self.address} within {CONNECT_S:g} s ({error}): look "
                    "whether it runs, or use --scheduler threads"
                ) from error
            with client:
                try:
                    yield client.compute
                except (KilledWorker, CancelledError) as error:
                    raise WorkerLost(
                        f"the cluster at {self.address} lost its work ({error}): look into the "
                        "logs of its workers, or use --scheduler threads"
                    ) from error
        elif self.workers == 1:
            yield _compute_now
        else:
            with ThreadPoolExecutor(self.workers, "chunk") as pool:
                try:
                    yield lambda value: pool.submit(value.compute, scheduler="synchronous")
                finally:
                    pool.shutdown(wait=True, cancel_futures=True)

    def _room_bytes(self) -> float:
        """Return what chunks and all that is made of them may take."""
        if self.memory_bytes is None:
            room_bytes = available_memory_bytes() / 2
        else:
            room_bytes = self.memory_bytes - psutil.Process().memory_info().rss
        return max(room_bytes, 0.0)


def _fitting(shape: tuple[int, ...], items: int, along: Along) -> tuple[int, int, int]:
    """Return the chunk of at most ``items`` values that is read in the longest runs."""
    n_chan, rows, columns = shape
    if along == "spectra":
        rows_that_fit = items // (n_chan * columns)
        if rows_that_fit:
            return n_chan, _whole_tiles(min(rows_that_fit, rows), rows), columns
        return n_chan, 1, _whole_tiles(min(max(items // n_chan, 1), columns), columns)
    channels_that_fit = items // (rows * columns)
    if channels_that_fit or along == "planes":
        return min(max(channels_that_fit, 1), n_chan), rows, columns
    return 1, _whole_tiles(min(max(items // columns, 1), rows), rows), columns


def _whole_tiles(length: int, whole: int) -> int:
    """Return ``length`` or a little less, so that no tile of a zarr cube belongs to two chunks."""
    return length if length in (whole, length % TILE) else length // TILE * TILE


def _compute_now(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value.compute(scheduler="synchronous"))
    return future


def _finished(place: Place, future: Any) -> tuple[Place, Any]:
    try:
        return place, future.result()
    except MemoryError as error:
        raise ResourceError(
            f"{shown_place(place)}: not enough memory: give a smaller --chunk or fewer --workers"
        ) from error


def shown_place(place: Place) -> str:
    """Return where a chunk lies, as users count: from zero, the end included."""
    names = ("channels", "rows", "columns")
    return ", ".join(f"{name} {s.start}–{s.stop - 1}" for name, s in zip(names, place, strict=True))


def parse_chunk(text: str) -> tuple[int, int, int] | float:
    """Return what ``64MB`` or ``16,512,512`` asks for, as `Schedule.chunk` takes it.

    Raises
    ------
    ParameterError: it is neither.
    """
    try:
        if "," in text:
            n_chan, rows, columns = (max(int(n), 0) for n in text.split(","))
            return n_chan, rows, columns
        return parse_bytes(text)
    except ValueError as error:
        raise ParameterError(
            f"--chunk {text}: give a size as in 64MB, or channels,rows,columns as in 16,512,512 "
            "(0 for a whole axis)"
        ) from error
