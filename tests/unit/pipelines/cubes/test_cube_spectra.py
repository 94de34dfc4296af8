"""Spectra at positions: pixels, and apertures measured in beams."""

from pathlib import Path

import numpy as np
import pytest

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.pipelines.cubes.extraction import (
    Position,
    extract_spectra,
    pixel_position,
    read_positions,
    sky_position,
    write_spectra,
)

HERE = Path("cube.fits")
CELL = 10.0  # arcsec
FLUX = np.array([1.0, 3.0, 2.0])
BEAMS = np.array([[60.0, 60.0, 0.0], [50.0, 50.0, 0.0], [40.0, 40.0, 0.0]])


@pytest.fixture
def source(opened):
    """A point source at column 22, row 17, as beams of three sizes show it."""
    y, x = np.mgrid[:41, :41]
    squared = ((x - 22) ** 2 + (y - 17) ** 2) * CELL**2
    shapes = [np.exp(-4 * np.log(2) * squared / fwhm**2) for fwhm in BEAMS[:, 0]]
    return opened((FLUX[:, None, None] * shapes).astype(np.float32), BEAMS)


def test_a_pixel_has_the_flux_of_a_point_source(source, schedule):
    (spectrum,) = extract_spectra(source, [pixel_position("22.3,16.8")], schedule(), HERE)
    np.testing.assert_allclose(spectrum.values, FLUX, rtol=1e-6)
    assert spectrum.unit == "Jy/beam"


def test_an_aperture_of_each_channels_beams_has_it_too(source, schedule):
    (spectrum,) = extract_spectra(source, [pixel_position("22,17")], schedule(), HERE, 4.0)
    np.testing.assert_allclose(spectrum.values, FLUX, rtol=0.01)
    assert spectrum.unit == "Jy"


def test_directions_and_lists(source, tmp_path):
    direction = source.wcs.celestial.pixel_to_world(22, 17)
    colons = direction.to_string("hmsdms", sep=":")
    for text in (direction.to_string("hmsdms"), direction.to_string("decimal"), colons):
        found = sky_position(source, text)
        assert (found.column, found.row) == pytest.approx((22, 17), abs=0.02)
    listed = tmp_path / "list.csv"
    listed.write_text(f"name,ra,dec\nA,{direction.ra.deg},{direction.dec.deg}\n")
    assert read_positions(source, listed)[0].name == "A"
    listed.write_text("x,y\n3,4\n")
    assert read_positions(source, listed) == [Position("1", 3.0, 4.0)]
    listed.write_text("a,b\n3,4\n")
    with pytest.raises(DataError, match="columns ra,dec"):
        read_positions(source, listed)
    with pytest.raises(ParameterError, match="no direction"):
        sky_position(source, "somewhere")


def test_no_such_position_and_no_beam(source, opened, schedule):
    with pytest.raises(DataError, match=r"column 41\.0.*outside its 41 columns"):
        extract_spectra(source, [Position("far", 41, 3)], schedule(), HERE)
    bare = opened(np.zeros((2, 5, 5), np.float32))
    with pytest.raises(DataError, match="no beam to measure"):
        extract_spectra(bare, [Position("here", 2, 2)], schedule(), HERE, 1.0)


def test_a_spectrum_as_csv(source, schedule, tmp_path):
    spectra = extract_spectra(source, [pixel_position("22,17")], schedule(), HERE)
    write_spectra(tmp_path / "s.csv", spectra, np.array([1e9, 2e9, 3e9]), np.full(3, np.nan))
    rows = (tmp_path / "s.csv").read_text().splitlines()
    assert rows[0] == 'channel,freq_hz,velocity_km_s,"pixel 22,17 [Jy/beam]"'
    assert rows[2] == "1,2000000000.0,nan,3.0"
