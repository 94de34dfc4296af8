"""A small observation of a known sky, and the way to run the pipelines on it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from batch_imaging.execution.executor import Executor, SerialExecutor
from batch_imaging.execution.progress import Progress
from batch_imaging.io.catalogue import write_catalogue
from batch_imaging.model.direction import Direction, radec_from_lm
from batch_imaging.model.sky import PowerLaw, SkyComponent, SkyModel
from batch_imaging.parameters import Parameters, load_parameters
from batch_imaging.pipelines.batch import (
    BatchResult,
    Buffers,
    RunIdentity,
    run_pipelines,
)

# (l, m, flux at 100 MHz), off the pixel grid and several beams apart
SOURCES = (
    (0.0310, 0.0223, 20.0),
    (-0.0507, 0.0613, 12.0),
    (0.0755, -0.0431, 8.0),
    (-0.0212, -0.0705, 5.0),
    (0.0093, 0.0848, 3.0),
    (-0.0811, -0.0127, 2.0),
)


@dataclass(frozen=True)
class SmallRun:
    """A run that has ended: what went in, what came out, and where it is."""

    parameters: Parameters
    result: BatchResult
    vis: Path
    img: Path

    @property
    def ical(self):
        return self.result.ical


@pytest.fixture(scope="session")
def sky_file(tmp_path_factory) -> Path:
    """A catalogue of SOURCES."""
    path = tmp_path_factory.mktemp("sky") / "sky.csv"
    centre = Direction.from_degrees(0.0, -30.0)
    components = []
    for k, (l, m, flux_jy) in enumerate(SOURCES):
        ra_rad, dec_rad = radec_from_lm(l, m, centre)
        spectrum = PowerLaw(flux_jy, 1e8, -0.7)
        components.append(SkyComponent(f"source {k}", float(ra_rad), float(dec_rad), spectrum))
    write_catalogue(path, SkyModel(tuple(components)), 1e8)
    return path


@pytest.fixture(scope="session")
def make_parameters(sky_file) -> Callable[..., Parameters]:
    """A function that returns small parameters, with groups changed member by member."""

    def make(**changes):
        document = {
            "rmax": 200.0,
            "nfreqwin": 3,
            "ntimes": 3,
            "imaging": {"npixel": 128, "cellsize": 0.002},
            "simulation": {"sky": str(sky_file), "flux_limit": 0.1, "primary_beam": False},
            "spectral": {"enabled": False},
        }
        for name, value in changes.items():
            document[name] = document.get(name, {}) | value if isinstance(value, dict) else value
        return load_parameters(document)

    return make


@pytest.fixture(scope="session")
def run_small(tmp_path_factory) -> Callable[..., SmallRun]:
    """A function that runs the pipelines, serially if no executor is given."""

    def run(parameters: Parameters, executor: Executor | None = None, sets=()) -> SmallRun:
        folder = tmp_path_factory.mktemp("run")
        buffers = Buffers(folder / "vis", folder / "img")
        buffers.vis.mkdir()
        buffers.img.mkdir()
        result = BatchResult()
        run_pipelines(
            parameters,
            buffers,
            RunIdentity("pb-test-20200523-00001", "eb-test-20200523-00001"),
            executor or SerialExecutor(),
            Progress(show_bar=False),
            result,
            sets,
        )
        return SmallRun(parameters, result, buffers.vis, buffers.img)

    return run


def fit_source(image, row, column):
    """Return peak, row and column of the source within two pixels of a place.

    A parabola in the logarithm of 3 × 3 pixels: exact for a Gaussian.
    """
    top, left = round(float(row)) - 2, round(float(column)) - 2
    box = image[top : top + 5, left : left + 5]
    i, j = np.unravel_index(box.argmax(), box.shape)
    i, j = top + i, left + j
    dy, dx = np.mgrid[-1:2, -1:2].reshape(2, -1)
    terms = np.stack([np.ones(9), dy, dx, dy**2, dx * dy, dx**2], axis=1).astype(float)
    values = np.log(image[i - 1 : i + 2, j - 1 : j + 2].astype(float)).ravel()
    c, gy, gx, yy, xy, xx = np.linalg.lstsq(terms, values, rcond=None)[0]
    y, x = np.linalg.solve([[2 * yy, xy], [xy, 2 * xx]], [-gy, -gx])
    return np.exp(c + (gy * y + gx * x) / 2), i + y, j + x


@pytest.fixture(name="fit_source", scope="session")
def fit_source_function() -> Callable:
    return fit_source
