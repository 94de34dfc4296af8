"""The processing script: whatever happens to it, the engine goes and the state says why."""

import logging
from collections.abc import Callable

from batch_imaging.control.config import Config
from batch_imaging.control.config.entities import Status
from batch_imaging.errors import BatchImagingError, Cancelled, OwnershipLost, ParameterError
from batch_imaging.logging_format import log_tags
from batch_imaging.workflow.claimed_block import ClaimedBlock
from batch_imaging.workflow.deployments import remove_engine
from batch_imaging.workflow.interruption import Interruptions

LOG = logging.getLogger("batch_imaging")

PATIENCE_S = 600.0
"""How long the configuration database may be away before a script gives up."""

SCRIPTS = ("batch_imaging", "test_realtime", "test_receive_addresses")


def process(pb_id: str) -> None:
    """Claim a processing block and process it.

    Raises
    ------
    ConfigVanished, ConfigCollision: there is no such block, or it has an owner.
    BatchImagingError: of any kind; the block is then FAILED or CANCELLED with the reason.
    """
    with Config(deadline_s=PATIENCE_S) as config:
        claimed = ClaimedBlock.claim(config, pb_id)
        LOG.info("Claimed processing block %s", pb_id)
        try:
            with Interruptions(claimed), log_tags(pb_id=claimed.id):
                _script(claimed)(claimed)
        except BaseException as error:
            _clean_up(claimed, *_outcome(error))
            raise
        _clean_up(claimed, Status.FINISHED)


def _script(claimed: ClaimedBlock) -> Callable[[ClaimedBlock], None]:
    """Return the function for the block's workflow; what it imports is loaded only if needed."""
    workflow = claimed.block.workflow
    match workflow.id:
        case "batch_imaging":
            from batch_imaging.workflow.imaging_script import process_imaging

            return process_imaging
        case "test_realtime" | "test_receive_addresses":
            from batch_imaging.workflow import placeholders

            return (
                placeholders.process_realtime
                if workflow.id == "test_realtime"
                else placeholders.process_receive_addresses
            )
        case _:
            raise ParameterError(
                f"workflow {workflow}: not one of {', '.join(SCRIPTS)}, which this program has"
            )


def _outcome(error: BaseException) -> tuple[Status, str]:
    if isinstance(error, Cancelled):
        return Status.CANCELLED, str(error)
    if isinstance(error, SystemExit | KeyboardInterrupt):  # before Interruptions took signals over
        return Status.CANCELLED, "stopped by a signal"
    if isinstance(error, BatchImagingError):
        return Status.FAILED, str(error)
    return Status.FAILED, f"{type(error).__name__}: {error} (see the log)"


def _clean_up(claimed: ClaimedBlock, status: Status, reason: str | None = None) -> None:
    """Remove the engine and write how the block ended; both are tried in any case."""
    try:
        remove_engine(claimed)
    finally:
        try:
            claimed.end(status, reason)
        except OwnershipLost as error:
            LOG.warning("%s; its state is left to the processing controller", error)
