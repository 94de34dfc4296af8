"""A signal ends a script wherever it is, and nothing on the way keeps it from that."""

import logging
import os
import signal
import time
from contextlib import suppress

import pytest

from batch_imaging.control.config import Config
from batch_imaging.control.config.entities import ProcessingBlock, WorkflowName
from batch_imaging.errors import Cancelled
from batch_imaging.workflow.claimed_block import ClaimedBlock
from batch_imaging.workflow.interruption import Interruptions


@pytest.fixture
def interruptions():
    before = {number: signal.getsignal(number) for number in (*signal.valid_signals(),)}
    with Config("memory") as config:
        name = WorkflowName(type="batch", id="batch_imaging", version="0.1.0")
        for txn in config.txn():
            txn.create_processing_block(ProcessingBlock(id="pb-a", sbi_id=None, workflow=name))
        yield Interruptions(ClaimedBlock.claim(config, "pb-a"))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, before[number])


def tell(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(10)


def test_the_cause_comes_out_of_the_context(interruptions):
    with pytest.raises(Cancelled, match="pb-a: stopped by SIGINT"), interruptions:
        tell(signal.SIGINT)


def test_no_except_on_the_way_swallows_it(interruptions):
    with pytest.raises(Cancelled, match="SIGTERM"), interruptions, suppress(Exception):
        tell(signal.SIGTERM)


def test_it_waits_until_a_log_line_is_written(interruptions, monkeypatch):
    written = []

    class Interrupted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
            written.append(record.getMessage())

    def log_and_wait() -> None:
        log.warning("whole")
        time.sleep(10)

    log = logging.getLogger("test_interruption")
    monkeypatch.setattr(log, "handlers", [Interrupted()])
    with pytest.raises(Cancelled, match="SIGTERM"), interruptions:
        log_and_wait()
    assert written == ["whole"]
