"""The mosaic of ten ASKAP beams, which other programs read."""

import zipfile

import numpy as np
import pytest

from batch_imaging.cli import main

pytestmark = pytest.mark.long


@pytest.mark.filterwarnings("ignore:Cube is a Stokes cube", "ignore:COPY_IF_NEEDED")
def test_ten_beams_become_one_cube(shared_data, tmp_path):
    spectral_cube = pytest.importorskip("spectral_cube")
    with zipfile.ZipFile(shared_data / "askap-emu-cubes.zip") as archive:
        archive.extractall(tmp_path)
        cubes = [str(tmp_path / name) for name in sorted(archive.namelist())]
    out = tmp_path / "mosaic.fits"
    # these are corners of large images, far out in their primary beams: take wider ones
    options = ["--fwhm", "20deg@800MHz", "--beam-limit", "20arcsec", "--workers", "2"]
    assert len(cubes) == 10
    assert main(["mosaic", *cubes, "-o", str(out), *options, "--quiet"]) == 0

    cube = spectral_cube.SpectralCube.read(out)
    weights = spectral_cube.SpectralCube.read(tmp_path / "mosaic.weights.fits")
    assert cube.shape[0] == len(cube.beams) == 36
    major_arcsec = cube.beams.major.to_value("arcsec")
    assert 11 < major_arcsec.min() < major_arcsec.max() < 20
    for channel in (0, 17, 35):
        pixels, weight = cube.unmasked_data[channel].value, weights.unmasked_data[channel].value
        known = np.isfinite(pixels)
        assert known.any()
        assert (weight[known] > 0).all()
        assert not weight[~known].any()
