"""Log lines in the three forms."""

import io
import json
import logging
import re
import threading

import pytest

from batch_imaging.logging_format import FILE_ONLY, configure_logging, log_tags

# The fields and characters that the SKA developer portal's page "SKA Log Message Format" allows.
SKA_LINE = re.compile(
    r"(?P<version>\d{1,2})"
    r"\|(?P<timestamp>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3,6}Z)"
    r"\|(?P<severity>DEBUG|INFO|WARNING|ERROR|CRITICAL)"
    r"\|(?P<thread>[-A-Za-z0-9]{0,32})"
    r"\|(?P<function>[-.\w]*)"
    r"\|(?P<line>[-.\w]{1,64}#\d{1,5})"
    r"\|(?P<tags>|[-A-Za-z]+:[-\w]*(,[-A-Za-z]+:[-\w]*)*)"
    r"\|(?P<message>.*)"
)


@pytest.fixture
def lines():
    """Configure logging to a string; afterwards put all as it was."""
    root, ours, stream = logging.getLogger(), logging.getLogger("batch_imaging"), io.StringIO()
    handlers, levels = root.handlers[:], (root.level, ours.level)
    root.handlers = []

    def configured(*args):
        configure_logging(*args, stream=stream)
        return lambda: stream.getvalue().splitlines()

    yield configured
    root.handlers = handlers
    for logger, level in zip((root, ours), levels, strict=True):
        logger.setLevel(level)


def fail():
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("batch_imaging.io").exception("cannot | read")


def test_plain_is_what_the_original_printed(lines):
    written = lines()
    logging.getLogger("batch_imaging").info("Running simulation pipeline")
    logging.getLogger("batch_imaging.pipelines.ical").info("Running %s pipeline", "ICAL")
    logging.getLogger("another.package").warning("busy")
    assert written() == [
        "INFO:batch_imaging:Running simulation pipeline",
        "INFO:batch_imaging:Running ICAL pipeline",
        "WARNING:another.package:busy",
    ]


def test_level_holds_for_this_package_only(lines):
    written = lines("plain", logging.DEBUG)
    logging.getLogger("distributed").info("hidden")
    logging.getLogger("batch_imaging.io").debug("shown")
    assert written() == ["DEBUG:batch_imaging:shown"]


def test_ska_line_has_its_eight_fields(lines):
    written = lines("ska")
    logging.getLogger("batch_imaging.io").info("message", extra={"pb_id": "pb-1", "channel": 3})
    (line,) = written()
    found = SKA_LINE.fullmatch(line)
    assert found
    assert found["thread"] == "MainThread"
    assert found["function"] == "batch_imaging.io.test_ska_line_has_its_eight_fields"
    assert found["line"].startswith("test_logging_format.py#")
    assert found["tags"] == "pb-id:pb-1,channel:3"
    assert found["message"] == " message"


def test_ska_line_stays_a_line_whatever_is_logged(lines):
    written = lines("ska")
    fail()
    thread = threading.Thread(target=fail, name="ThreadPoolExecutor-0_0 (with | a long name)")
    thread.start()
    thread.join()
    exec(
        compile("LOG.info('from a module')", "<string>", "exec"),
        {"LOG": logging.getLogger("batch_imaging")},
    )
    logging.getLogger("batch_imaging").info("tag", extra={"worker": "tcp://127.0.0.1:8786, x|y"})
    assert len(written()) == 4
    for line in written():
        assert SKA_LINE.fullmatch(line), line
    assert "ValueError: two\\nlines" in written()[0]
    assert "thread" not in written()[3]


def test_what_is_logged_inside_tags_has_them(lines):
    written = lines("ska")
    log = logging.getLogger("batch_imaging")
    with log_tags(stage="ical", unit=1), log_tags(unit=2, channel=17):
        log.info("inside")
        log.info("own", extra={"channel": 3})
    log.info("outside")
    tags = [line.split("|")[6] for line in written()]
    assert tags == ["stage:ical,unit:2,channel:17", "stage:ical,unit:2,channel:3", ""]


def test_plain_names_the_unit_of_work_and_leaves_out_what_is_for_files(lines):
    written = lines()
    log = logging.getLogger("batch_imaging")
    with log_tags(stage="ical"):
        log.info("planned")
        with log_tags(unit=2, worker="0"):
            log.warning("flagged")
            log.warning("too much for a terminal", extra=FILE_ONLY)
    assert written() == [
        "INFO:batch_imaging:planned",
        "WARNING:batch_imaging:flagged [stage:ical,unit:2,worker:0]",
    ]


def test_json_lines(lines):
    written = lines("json")
    logging.getLogger("batch_imaging.io").info("done", extra={"stage": "ical"})
    fail()
    first, second = map(json.loads, written())
    assert (first["level"], first["message"], first["stage"]) == ("INFO", "done", "ical")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["timestamp"])
    assert "exception" not in first
    assert second["message"] == "cannot | read"
    assert second["exception"].endswith("ValueError: two\nlines")
