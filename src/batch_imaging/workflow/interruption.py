"""What ends a block from outside: a signal, a cancellation, a lost ownership, a dead engine.

A thread follows the database; when something ends the block it raises the reason as an exception
in the main thread, wherever that is, by way of a signal. The thread writes the progress as well.
"""

import logging
import signal
import threading
import time
from types import TracebackType
from typing import Self

from batch_imaging.control.config import View
from batch_imaging.control.config.entities import (
    DeploymentStatus,
    SchedulingStatus,
    engine_deployment_id,
)
from batch_imaging.control.config.reader import pb_path
from batch_imaging.errors import (
    BatchImagingError,
    Cancelled,
    ConfigUnavailable,
    EngineError,
    OwnershipLost,
)
from batch_imaging.signals import RaisingSignals
from batch_imaging.workflow.claimed_block import ClaimedBlock

LOG = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PROGRESS_S = 1.0


class _Interrupted(BaseException):
    """Carries a cause past every `except Exception` on the way."""

    def __init__(self, cause: BatchImagingError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Interruptions:
    """Within this context the main thread is interrupted; after it, signals are ignored.

    The cause comes out of the context as it is; within, it is no Exception, so that nothing
    swallows it.

    What follows is only cleaning up, which a second signal must not keep from being done.
    """

    def __init__(self, claimed: ClaimedBlock) -> None:
        self._claimed = claimed
        self._closing = threading.Event()
        self._cause: BatchImagingError | None = None
        self._signals = RaisingSignals(self._interrupt, dict.fromkeys(SIGNALS, signal.SIG_IGN))
        self._thread = threading.Thread(target=self._follow, name="interruptions", daemon=True)

    def __enter__(self) -> Self:
        self._signals.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._signals.__exit__(kind, error, traceback)
        self._closing.set()
        self._thread.join(PROGRESS_S)
        if isinstance(error, _Interrupted):
            raise error.cause from None

    def _interrupt(self, number: int) -> BaseException:
        stopped = f"{self._claimed.id}: stopped by {signal.Signals(number).name}"
        return _Interrupted(self._cause or Cancelled(stopped))

    def _follow(self) -> None:
        while not self._closing.is_set():
            try:
                with self._claimed.config.follow() as follower:
                    while not self._closing.is_set():
                        self._cause = self._find_cause(follower.view)
                        if self._cause:
                            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                            return
                        follower.wait(PROGRESS_S)
                        self._write_progress()
            except ConfigUnavailable as error:
                LOG.warning("%s; processing goes on", error)
            except Exception:
                LOG.exception("Following the configuration database failed; it is tried again")
                self._closing.wait(PROGRESS_S)

    def _find_cause(self, view: View) -> BatchImagingError | None:
        claimed = self._claimed
        if pb_path(claimed.id) not in view:
            return Cancelled(f"{claimed.id}: was deleted")
        state = view.get_processing_block_state(claimed.id)
        if state and state.status.ended:
            return Cancelled(f"{claimed.id}: was set {state.status}: {state.reason or 'no reason'}")
        owner = view.get_processing_block_owner(claimed.id)
        if owner != claimed.config.owner:
            return OwnershipLost(
                f"{claimed.id}: its owner is {owner or 'nobody'}, not this process"
            )
        sbi_id = claimed.block.sbi_id
        scheduling = view.get_scheduling_block(sbi_id) if sbi_id else None
        if scheduling and scheduling.status == SchedulingStatus.CANCELLED:
            return Cancelled(f"{claimed.id}: scheduling block {sbi_id} was cancelled")
        engine_id = engine_deployment_id(claimed.id)
        if view.get_deployment_state(engine_id):
            buffers = state.resources.buffers if state and state.resources else {}
            for deploy_id in (engine_id, *buffers):
                said = view.get_deployment_state(deploy_id)
                if said and said.status == DeploymentStatus.FAILED:
                    return EngineError(f"{deploy_id}: {said.reason}")
        return None

    def _write_progress(self) -> None:
        begin = time.monotonic()
        try:
            self._claimed.write_progress()
        except (Cancelled, OwnershipLost):
            return  # the next look at the view says the same
        self._closing.wait(max(0.0, PROGRESS_S / 2 - (time.monotonic() - begin)))
