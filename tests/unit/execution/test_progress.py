"""Stages are timed, counted and logged."""

import logging
import time

import pytest

from batch_imaging.execution.progress import Progress


def test_a_stage_is_recorded_and_logged_in_one_line(caplog):
    progress = Progress(show_bar=False)
    with caplog.at_level(logging.INFO, "batch_imaging"), progress.stage("half: gridding", 3) as bar:
        assert list(bar.track(iter("abc"))) == ["a", "b", "c"]
        time.sleep(0.02)
    (record,) = progress.stages
    assert (record.name, record.units) == ("half: gridding", 3)
    assert 0.02 <= record.wall_s < 2
    assert caplog.messages == [f"half: gridding: 3 units in {record.wall_s:.1f} s"]


def test_a_stage_that_fails_is_no_finished_stage():
    progress = Progress(show_bar=False)

    def fail():
        with progress.stage("gridding"):
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert progress.stages == []


def test_with_a_bar_the_log_stays_quiet(caplog):
    progress = Progress(show_bar=True)
    with caplog.at_level(logging.INFO, "batch_imaging"), progress.stage("gridding", 2) as bar:
        assert list(bar.track(range(2))) == [0, 1]
    assert caplog.messages == []
    assert len(progress.stages) == 1
