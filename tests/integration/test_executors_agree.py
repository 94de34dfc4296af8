"""A run has the same results serially and on Dask, whatever the number of workers."""

import numpy as np
import pytest

from batch_imaging.execution.engines.local import local_executor
from batch_imaging.io.fits_image import read_fits_image
from batch_imaging.io.gain_table_file import read_gain_table
from batch_imaging.io.measurement_set import read_measurement_set

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def parameters(make_parameters):
    return make_parameters(
        nfreqwin=4, simulation={"noise": 0.1, "phase_error": 0.5}, spectral={"enabled": True}
    )


@pytest.fixture(scope="module")
def serial(parameters, run_small):
    return run_small(parameters)


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_dask_has_the_results_of_the_serial_executor(parameters, run_small, serial, n_workers):
    with local_executor(n_workers, 2**30) as executor:
        run = run_small(parameters, executor)
        assert len(executor.peak_rss_bytes) <= n_workers
    for one, other in zip(serial.result.simulation.sets, run.result.simulation.sets, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(
            read_measurement_set(one).vis, read_measurement_set(other).vis
        )
    assert run.ical.stopped_because == serial.ical.stopped_because
    assert len(run.ical.cycles) == len(serial.ical.cycles)
    names = sorted(path.name for path in serial.img.iterdir())
    assert sorted(path.name for path in run.img.iterdir()) == names
    peak_jy = max(outcome.peak_jy for outcome in serial.ical.windows)
    for name in names:
        if "gains" in name:
            ours, theirs = (read_gain_table(folder / name) for folder in (run.img, serial.img))
            np.testing.assert_allclose(ours.gain, theirs.gain, atol=1e-6)
            continue
        ours, theirs = (read_fits_image(folder / name)[0] for folder in (run.img, serial.img))
        np.testing.assert_allclose(ours, theirs, atol=1e-6 * peak_jy, err_msg=name)
