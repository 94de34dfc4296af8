"""Logs of real Dask workers: who said what, on which unit and channel, and where it is seen."""

import logging
import time
from dataclasses import dataclass

import pytest

from batch_imaging.execution.engines.local import local_executor
from batch_imaging.execution.progress import Progress

pytestmark = pytest.mark.integration

LOG = logging.getLogger("batch_imaging.pipelines")


@dataclass(frozen=True)
class Channel:
    channel: int


def image(unit):
    if unit.channel == 17:
        LOG.warning("all samples are flagged")
    if unit.channel == 19:
        raise ValueError("nothing left")
    return unit.channel


@pytest.fixture(scope="module")
def executor():
    with local_executor(2, 2**30) as dask_executor:
        yield dask_executor


def image_channels(executor, channels):
    with Progress(show_bar=False).stage("spectral imaging", len(channels)) as bar:
        return list(bar.track(executor.map(image, [Channel(number) for number in channels])))


def test_a_warning_is_in_the_worker_s_file_and_reaches_the_client_once(executor, tmp_path, caplog):
    with executor.log_to(tmp_path):
        image_channels(executor, range(15, 19))
    tags = "stage:spectral-imaging,unit:2,channel:17,worker:"
    (line,) = [line for line in lines_in(tmp_path) if "|WARNING|" in line]
    assert tags in line
    assert line.endswith(" all samples are flagged")
    (seen,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (seen.name, seen.getMessage()) == (LOG.name, "all samples are flagged")
    assert f"{tags}{seen.worker}" in line
    assert sum("channel:16" in line for line in lines_in(tmp_path)) == 2  # begins, is done


def test_why_a_unit_failed_is_found_in_one_line(executor, tmp_path, caplog):
    with executor.log_to(tmp_path), pytest.raises(ValueError, match="nothing left"):
        image_channels(executor, [18, 19])
    (line,) = [line for line in lines_in(tmp_path) if "|ERROR|" in line]
    assert "channel:19,worker:" in line
    assert line.endswith("ValueError: nothing left")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_one_file_in_the_order_of_time(executor, tmp_path):
    for _ in range(2):
        with executor.log_to(tmp_path, combined=True):
            image_channels(executor, range(6))
    assert [path.name for path in tmp_path.iterdir()] == ["workers.log"]
    lines = lines_in(tmp_path)
    assert sum("is done" in line or " done in " in line for line in lines) == 12
    times = [line.split("|")[1] for line in lines]
    assert times == sorted(times)


def test_a_folder_that_cannot_be_written_is_said_and_ends_nothing(executor, tmp_path, caplog):
    def complaining():
        said = [record.getMessage().partition(": no log file in") for record in caplog.records]
        return {worker for worker, no_file, _ in said if no_file}

    (tmp_path / "logs").touch()
    with executor.log_to(tmp_path / "logs"):
        deadline = time.monotonic() + 10
        while len(complaining()) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert image_channels(executor, [3])
    assert complaining() == {"worker 0", "worker 1"}


def test_dask_s_performance_report_is_kept(executor, tmp_path):
    pytest.importorskip("bokeh")
    with executor.keep_performance_report(tmp_path / "dask.html"):
        image_channels(executor, [1, 2])
    assert "image-" in (tmp_path / "dask.html").read_text()


def lines_in(folder):
    return [line for path in folder.iterdir() for line in path.read_text().splitlines()]
