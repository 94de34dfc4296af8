"""Statistics of a cube larger than the memory allowed, against spectral-cube's plain class."""

import tempfile
from pathlib import Path

import numpy as np
from astropy.io import fits

from benchmarks.cost import measure
from benchmarks.table import Measurement, Table, tabulate

SHAPE, QUICK_SHAPE = (512, 1024, 1024), (160, 1024, 1024)
MEMORY_BYTES = 0.6e9  # less than the smaller of them
PLAIN = """
import sys, warnings
warnings.simplefilter("ignore")
from spectral_cube import SpectralCube
cube = SpectralCube.read(sys.argv[1], use_dask=False)
cube.allow_huge_operations = True
for name in ("min", "max", "mean", "std", "mad_std"):
    getattr(cube, name)(axis=(1, 2), how="slice")
"""


def benchmark_cubes(quick: bool) -> list[Table]:
    """Measure the statistics of each channel of a cube: time, and peak resident memory."""
    shape = QUICK_SHAPE if quick else SHAPE
    with tempfile.TemporaryDirectory() as folder:
        cube = Path(folder) / "cube.fits"
        write_noise(cube, shape)
        stats = ["-m", "batch_imaging", "cube", "stats", str(cube), "--json", "--quiet"]
        stats += ["--workers", "2", "--memory", f"{MEMORY_BYTES:.0f}"]
        ours, plain = measure(stats), measure(["-c", PLAIN, str(cube)])
    cube_bytes = 4 * np.prod(shape)
    measurements = [
        Measurement("wall-clock", ours.wall_s, "s", plain.wall_s / 3, plain.wall_s),
        Measurement("processor time", ours.cpu_s, "s", peer=plain.cpu_s),
        Measurement(
            "peak memory", ours.peak_bytes / 1e6, "MB", MEMORY_BYTES / 1e6, plain.peak_bytes / 1e6
        ),
    ]
    note = (
        f"Minimum, maximum, mean, standard deviation and noise of the {shape[0]} channels of a "
        f"cube of {cube_bytes / 1e9:.2g} GB; 2 threads against the plain class of spectral-cube. "
        "Start of the interpreter and imports included. The goal is a third of its time, and the "
        "memory that was allowed."
    )
    return [tabulate("Statistics of a cube", measurements, "spectral-cube", note)]


def write_noise(path: Path, shape: tuple[int, int, int]) -> None:
    """Write a cube of noise, a channel at a time."""
    n_chan, rows, columns = shape
    header = fits.Header(
        [
            ("SIMPLE", True),
            ("BITPIX", -32),
            ("NAXIS", 3),
            ("NAXIS1", columns),
            ("NAXIS2", rows),
            ("NAXIS3", n_chan),
        ]
    )
    axes = (("RA---SIN", 0.0, -1e-3, "deg"), ("DEC--SIN", -30.0, 1e-3, "deg"))
    for i, (ctype, value, step, unit) in enumerate((*axes, ("FREQ", 1.4e9, 1e4, "Hz")), 1):
        header.update({f"CTYPE{i}": ctype, f"CRVAL{i}": value, f"CDELT{i}": step})
        header.update({f"CUNIT{i}": unit, f"CRPIX{i}": 1.0})
    header.update(BUNIT="Jy/beam", BMAJ=3e-3, BMIN=3e-3, BPA=0.0, RESTFRQ=1.4e9)
    plane = np.random.default_rng(1).normal(size=(rows, columns)).astype(">f4")
    header.tofile(path)
    with path.open("ab") as stream:
        for channel in range(n_chan):
            stream.write(np.roll(plane, channel).tobytes())
        stream.write(bytes(-stream.tell() % 2880))
