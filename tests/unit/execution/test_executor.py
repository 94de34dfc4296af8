"""The serial executor, and the records of progress."""

import os

import ducc0
import pytest

from batch_imaging.execution.engines import open_executor
from batch_imaging.execution.executor import SerialExecutor, peak_rss_bytes


def scale(unit, factor):
    if unit < 0:
        raise ValueError(f"{unit} is negative")
    return unit * factor


def test_results_come_in_the_order_of_the_units():
    assert list(SerialExecutor().map(scale, [3, 1, 2], 10)) == [30, 10, 20]
    assert list(SerialExecutor().map(scale, [], 10)) == []


def test_run_passes_all_arguments():
    assert SerialExecutor().run(scale, 3, 4) == 12
    assert SerialExecutor().run(os.getpid) == os.getpid()


def test_units_are_done_one_at_a_time_as_results_are_taken():
    done = []
    results = SerialExecutor().map(done.append, [1, 2, 3])
    assert done == []
    next(results)
    assert done == [1]


def test_the_first_error_is_raised_as_it_is():
    results = SerialExecutor().map(scale, [1, -2, -3], 1)
    assert next(results) == 1
    with pytest.raises(ValueError, match=r"^-2 is negative$"):
        next(results)


def test_memory_is_recorded():
    executor = SerialExecutor()
    assert executor.peak_rss_bytes == {}
    held = bytearray(os.urandom(2**20))
    executor.run(len, held)
    ((process, peak),) = executor.peak_rss_bytes.items()
    assert process.endswith(f":{os.getpid()}")
    assert 2**20 < peak <= peak_rss_bytes() < 2**40


def test_units_are_in_the_log_file(tmp_path):
    with SerialExecutor().log_to(tmp_path), pytest.raises(ValueError, match="-2 is negative"):
        list(SerialExecutor().map(scale, [1, -2], 1))
    lines = (tmp_path / "worker-serial.log").read_text().splitlines()
    assert [line.split("|")[6] for line in lines] == ["unit:0", "unit:0", "unit:1", "unit:1"]
    assert lines[-1].endswith("ValueError: -2 is negative")


@pytest.mark.parametrize("threads", [1, 2])
def test_native_threads_are_set(threads):
    executor = SerialExecutor(threads)
    assert executor.native_threads == threads
    assert ducc0.misc.thread_pool_size() == threads


def test_the_serial_engine_needs_no_cluster():
    with open_executor("serial", n_workers=4, memory_limit_bytes=2**30) as executor:
        assert isinstance(executor, SerialExecutor)
        assert executor.n_workers == 1
