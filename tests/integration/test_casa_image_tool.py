"""Our FITS cubes in the image tool of CASA, which needs a Python of its own."""

import json
import os
import subprocess

import numpy as np
import pytest

from batch_imaging.io.fits_image import ImageHeader, Provenance, write_fits_image
from batch_imaging.model.beam import RestoringBeam
from batch_imaging.model.direction import Direction
from batch_imaging.model.image import ImageGeometry

CASA_PYTHON = os.environ.get("BATCH_IMAGING_CASA_PYTHON", "")
LOOK = """
import json, sys
from casatools import image
tool = image()
tool.open(sys.argv[1])
system = tool.coordsys()
world = system.toworld([3, 12, 1, 0], "n")["numeric"]
found = {
    "shape": tool.shape().tolist(),
    "unit": tool.brightnessunit(),
    "world": world.tolist(),
    "rest_freq_hz": system.restfrequency()["value"].tolist(),
    "frame": system.referencecode("spectral"),
    "beam": tool.restoringbeam(channel=1, polarization=0),
    "pixel": tool.getchunk([3, 12, 1, 0], [3, 12, 1, 0]).item(),
}
print("found " + json.dumps(found))
"""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not CASA_PYTHON, reason="BATCH_IMAGING_CASA_PYTHON names no Python with casatools"
    ),
]


def test_headers_are_read(tmp_path):
    geometry = ImageGeometry(16, 1e-4, Direction.from_degrees(40.0, -30.0))
    pixels = np.random.default_rng(2).normal(size=(2, 16, 16)).astype(np.float32)
    header = ImageHeader(
        freq_hz=np.array([1.4e9, 1.4001e9]),
        chan_width_hz=np.full(2, 1e5),
        unit="Jy/beam",
        object_name="field",
        telescope="ATCA",
        observer="",
        start_mjd_s=5.1e9,
        end_mjd_s=5.1e9 + 600,
        reference_itrf_m=np.array([-4750915.8, 2792906.2, -3200483.7]),
        provenance=Provenance("batch_imaging", "1", "", "", "", ""),
        beams=(RestoringBeam(4e-4, 3e-4, 0.5), RestoringBeam(3.9e-4, 3e-4, 0.5)),
        rest_freq_hz=1.42e9,
        frame="LSRK",
    )
    path = tmp_path / "cube.fits"
    write_fits_image(path, pixels, geometry, header)
    done = subprocess.run(
        [CASA_PYTHON, "-c", LOOK, str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("found "))
    found = json.loads(line.removeprefix("found "))
    assert found["shape"] == [16, 16, 2, 1]
    assert (found["unit"], found["frame"]) == ("Jy/beam", ["LSRK"])
    ra_rad, dec_rad, freq_hz, _ = found["world"]
    assert geometry.pixel_of(ra_rad, dec_rad) == (pytest.approx(12), pytest.approx(3))
    assert freq_hz == pytest.approx(1.4001e9)
    assert found["pixel"] == float(pixels[1, 12, 3])
    assert found["rest_freq_hz"] == [1.42e9]
    assert found["beam"]["major"]["value"] == pytest.approx(np.rad2deg(3.9e-4) * 3600)
