"""A signal as an exception in the main thread, raised where it does no harm and is not lost."""

import signal
import sys
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any, Self

SOON_S = 0.02
LOCKING = {"__enter__", "__exit__", "acquire", "release", "_acquire_restore", "_release_save"}


class RaisingSignals:
    """Within this context the first signal raises an exception in the main thread.

    It waits a moment where a lock would stay held, and is raised again if it came in a finalizer or
    in a callback of the garbage collector, where Python reports exceptions and goes on.

    Parameters
    ----------
    make: the exception for the number of a signal; no Exception, or much would swallow it.
    then: the signals that are heard, and what each does once one was, and after the context.
    """

    def __init__(
        self, make: Callable[[int], BaseException], then: Mapping[signal.Signals, Any]
    ) -> None:
        self._make = make
        self._then = then
        self._heard = 0
        self._raised: BaseException | None = None
        self._report = sys.unraisablehook

    def __enter__(self) -> Self:
        for number in self._then:
            signal.signal(number, self._hear)
        signal.signal(signal.SIGALRM, self._try)
        self._report = sys.unraisablehook
        sys.unraisablehook = self._unraisable
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        sys.unraisablehook = self._report

    def _leave(self) -> None:
        for number, handler in self._then.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = number
        self._leave()
        self._try(number, frame)

    def _try(self, _: int, frame: FrameType | None) -> None:
        if _is_locking(frame):
            signal.setitimer(signal.ITIMER_REAL, SOON_S)
            return
        self._raised = self._make(self._heard)
        raise self._raised

    def _unraisable(self, found: "sys.UnraisableHookArgs") -> None:
        if found.exc_value is not None and found.exc_value is self._raised:
            signal.setitimer(signal.ITIMER_REAL, SOON_S)
        else:
            self._report(found)


def _is_locking(frame: FrameType | None) -> bool:
    """Whether an exception that is raised here may leave a lock held."""
    if frame and frame.f_code.co_name in LOCKING:
        return True
    while frame:
        if frame.f_globals.get("__name__") == "logging":
            return True
        frame = frame.f_back
    return False
