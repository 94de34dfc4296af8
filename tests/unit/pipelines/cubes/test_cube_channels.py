"""The table CHANNELS of our cubes, through all that copies and cuts them; and their readers."""

import warnings
from datetime import UTC, datetime

import numpy as np
import pytest
import xarray
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from spectral_cube import SpectralCube

from batch_imaging.errors import ParameterError
from batch_imaging.io.fits_image import FitsCubeWriter, ImageHeader, Provenance, write_plane
from batch_imaging.io.zarr_cube import ZarrPlaneWriter, write_zarr_plane
from batch_imaging.model.beam import RestoringBeam
from batch_imaging.model.direction import Direction
from batch_imaging.model.image import ImageGeometry
from batch_imaging.pipelines.cubes.opening import open_cube
from batch_imaging.pipelines.cubes.rechunking import rechunk_cube
from batch_imaging.pipelines.cubes.selection import Selection, spectral_axis
from batch_imaging.pipelines.cubes.smoothing import smooth_spectra
from batch_imaging.pipelines.cubes.writing import write_cube

GEOMETRY = ImageGeometry(16, 1e-4, Direction.from_degrees(40.0, -30.0))
FREQ_HZ = 1.4e9 + 1e5 * np.array([0, 1, 2, 4, 5])  # with a gap
OUTCOMES = ["OK", "OK", "FLAGGED", "OK", "OK"]
RMS, PEAK = np.array([1, 2, np.nan, 4, 5]), np.array([9, 8, np.nan, 6, 5])
BEAM = RestoringBeam(4e-4, 3e-4, 0.5)


def write_products(folder):
    """Write one cube as FITS and as zarr, as the imaging of planes does."""
    header = ImageHeader(
        freq_hz=FREQ_HZ,
        chan_width_hz=np.full(5, 1e5),
        unit="Jy/beam",
        object_name="field",
        telescope="ATCA",
        observer="",
        start_mjd_s=5.1e9,
        end_mjd_s=5.1e9 + 600,
        reference_itrf_m=np.array([-4750915.8, 2792906.2, -3200483.7]),
        provenance=Provenance("batch_imaging", "1", "", "", "", ""),
        rest_freq_hz=1.42e9,
    )
    pixels = np.random.default_rng(2).normal(size=(5, 16, 16)).astype(np.float32)
    pixels[2] = np.nan
    beams = tuple(BEAM if outcome == "OK" else None for outcome in OUTCOMES)
    date = datetime(2024, 5, 1, tzinfo=UTC)
    for writer, write in (
        (FitsCubeWriter(folder / "cube.fits", GEOMETRY, header, date), write_plane),
        (ZarrPlaneWriter(folder / "cube.zarr", GEOMETRY, header, date), write_zarr_plane),
    ):
        writer.create()
        for index, plane in enumerate(pixels):
            write(writer.path, index, plane)
        writer.finish(beams, RMS, PEAK, OUTCOMES)
    return folder / "cube.fits", folder / "cube.zarr"


def channels(path):
    return fits.getdata(path, "CHANNELS")


@pytest.mark.parametrize("kind", [0, 1], ids=["fits", "zarr"])
def test_it_is_cut_and_copied_with_the_channels(kind, schedule, tmp_path):
    source = write_products(tmp_path)[kind]
    part = open_cube(source, schedule(), selection=Selection(channels=(1, 4)))
    write_cube(part, tmp_path / "part.zarr", schedule(), "part")
    rechunk_cube(tmp_path / "part.zarr", tmp_path / "part.fits", schedule())
    table = channels(tmp_path / "part.fits")
    np.testing.assert_array_equal(table["FREQ"], FREQ_HZ[1:4])
    np.testing.assert_array_equal(table["RMS"], RMS[1:4])
    assert list(table["OUTCOME"]) == OUTCOMES[1:4]
    assert table.columns["RMS"].unit == "Jy/beam"


def test_noise_is_left_out_where_pixels_are_others(schedule, tmp_path):
    source, _ = write_products(tmp_path)
    corner = open_cube(source, schedule(), selection=Selection(box=(0, 8, 0, 8)))
    smooth = smooth_spectra(open_cube(source, schedule(), "spectra"), 2.0, "box", source)
    for cube, name in ((corner, "corner.fits"), (smooth, "smooth.fits")):
        write_cube(cube, tmp_path / name, schedule(), name)
        assert not {"RMS", "PEAK"} & set(channels(tmp_path / name).names)
        assert list(channels(tmp_path / name)["OUTCOME"]) == OUTCOMES


def test_frequencies_are_those_of_the_table(schedule, tmp_path):
    for source in write_products(tmp_path):
        chosen = Selection(freq_hz=(1.40015e9, 1.40055e9))
        part = open_cube(source, schedule(), selection=chosen)
        np.testing.assert_array_equal(spectral_axis(part, "Hz", source), FREQ_HZ[2:])


def test_a_temporary_zarr_changes_nothing_and_goes(schedule, tmp_path):
    source, _ = write_products(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for name, tmp_dir in (("direct.fits", None), ("by-way.fits", scratch)):
        spectra = open_cube(source, schedule(chunk=(5, 4, 16)), "spectra")
        write_cube(spectra, tmp_path / name, schedule(), "copy", tmp_dir=tmp_dir)
    assert (tmp_path / "by-way.fits").read_bytes() == (tmp_path / "direct.fits").read_bytes()
    assert not list(scratch.iterdir())
    with pytest.raises(ParameterError, match=r"absent.*give a folder"):
        write_cube(spectra, tmp_path / "c.fits", schedule(), "copy", tmp_dir=tmp_path / "absent")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_other_programs_agree_on_where_things_are(tmp_path):
    images = pytest.importorskip("casacore.images")
    source, store = write_products(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("ignore", FITSFixedWarning)
        by_astropy = WCS(fits.getheader(source))
        by_spectral_cube = SpectralCube.read(source)
    ra_deg, dec_deg = map(float, by_astropy.wcs_pix2world(3, 12, 0, 0, 0)[:2])
    by_casacore = images.image(str(source))
    _, first_hz, dec_rad, ra_rad = by_casacore.toworld([0, 0, 12, 3])
    assert np.rad2deg([ra_rad, dec_rad]) == pytest.approx([ra_deg % 360, dec_deg], abs=1e-9)
    row, column = GEOMETRY.pixel_of(ra_rad, dec_rad)
    assert (row, column) == (pytest.approx(12), pytest.approx(3))
    axis_hz = by_spectral_cube.spectral_axis.to_value("Hz")
    assert first_hz == pytest.approx(axis_hz[0], abs=1e-3)
    assert by_spectral_cube.beam.major.to_value("rad") == pytest.approx(4e-4)
    with xarray.open_zarr(store) as cube:
        np.testing.assert_array_equal(cube["frequency"], FREQ_HZ)
        assert float(cube["l"][3]) == pytest.approx(5 * 1e-4)
        pixel = cube["SKY"].isel(time=0, frequency=1, polarization=0, l=3, m=12)
        assert float(pixel) == float(fits.getdata(source)[0, 1, 12, 3])
        assert [str(outcome) for outcome in cube["OUTCOME"].values] == OUTCOMES
