"""FITS images against astropy's WCS, casacore and spectral-cube, which share no code with ours."""

import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from batch_imaging.errors import DataError, ProductError
from batch_imaging.io.fits_image import (
    FitsCubeWriter,
    ImageHeader,
    Provenance,
    read_fits_image,
    write_fits_image,
    write_plane,
)
from batch_imaging.model.beam import RestoringBeam
from batch_imaging.model.direction import Direction
from batch_imaging.model.image import ImageGeometry

GEOMETRY = ImageGeometry(32, 5e-4, Direction.from_degrees(0.0, -30.0))
DATE = datetime(2020, 5, 24, 12, 30, tzinfo=UTC)
BEAMS = (RestoringBeam(1.2e-3, 9e-4, 0.3), None, RestoringBeam(1.0e-3, 8e-4, -0.1))

GOLDEN = """\
SIMPLE  =                    T / FITS standard 4.0
BITPIX  =                  -32 / IEEE single precision
NAXIS   =                    4
NAXIS1  =                   32
NAXIS2  =                   32
NAXIS3  =                    1
NAXIS4  =                    1
EXTEND  =                    T
BUNIT   = 'Jy/beam '
BTYPE   = 'Intensity'
DATAMIN =                  0.0
DATAMAX =                  1.0
BMAJ    = 0.055952909680744456 / [deg] median of the channels
BMIN    = 0.027976454840372228 / [deg] median of the channels
BPA     =    14.32394487827058 / [deg] east of north
CTYPE1  = 'RA---SIN'
CRPIX1  =                 17.0
CRVAL1  =                  0.0
CDELT1  = -0.02864788975654116
CUNIT1  = 'deg     '
CTYPE2  = 'DEC--SIN'
CRPIX2  =                 17.0
CRVAL2  =                -30.0
CDELT2  = 0.028647889756541162
CUNIT2  = 'deg     '
CTYPE3  = 'FREQ    '
CRPIX3  =                  1.0
CRVAL3  =          100000000.0
CDELT3  =            1000000.0
CUNIT3  = 'Hz      '
CTYPE4  = 'STOKES  '
CRPIX4  =                  1.0
CRVAL4  =                  1.0
CDELT4  =                  1.0
CUNIT4  = ''
RADESYS = 'ICRS    '
LONPOLE =                180.0
LATPOLE =                -30.0
RESTFRQ =          100000000.0 / [Hz]
SPECSYS = 'TOPOCENT'
SSYSOBS = 'TOPOCENT'
VELREF  =                  259 / 1 LSR, 2 HEL, 3 OBS, +256 radio
TIMESYS = 'UTC     '
DATE-OBS= '2020-05-23T12:00:00.000000' / start
DATE-AVG= '2020-05-23T15:00:00.000000' / middle
DATE-END= '2020-05-23T18:00:00.000000' / end
MJD-OBS =              58992.5
MJD-AVG =            58992.625
MJD-END =             58992.75
DATE    = '2020-05-24T12:30:00' / of this file
OBJECT  = 'EoR0    '
TELESCOP= 'SKA1-LOW'
INSTRUME= 'SKA1-LOW'
OBSERVER= 'A. Observer'
OBSRA   =                  0.0 / [deg]
OBSDEC  =                -30.0 / [deg]
OBSGEO-X=          -2562123.25 / [m] ITRF
OBSGEO-Y=           5085018.75 / [m] ITRF
OBSGEO-Z=           -2861789.5 / [m] ITRF
ORIGIN  = 'batch_imaging'
PIPEVER = '0.1.0   '
PIPEGIT = '0123abc '
PBID    = 'pb-mvp01-20200523-00001'
EBID    = 'eb-mvp01-20200523-00001'
PARHASH = '5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e'
HISTORY one line
HISTORY many words many words many words many words many words many words many
HISTORY words many words
HISTORY ?ngstr?m new line
"""


def header(n_chan=3, **changes):
    fields = ImageHeader(
        freq_hz=1e8 + 1e6 * np.arange(n_chan),
        chan_width_hz=np.full(n_chan, 1e6),
        unit="Jy/beam",
        object_name="EoR0",
        telescope="SKA1-LOW",
        observer="A. Observer",
        start_mjd_s=58992.5 * 86400,
        end_mjd_s=58992.75 * 86400,
        reference_itrf_m=np.array([-2562123.25, 5085018.75, -2861789.5]),
        provenance=Provenance(
            origin="batch_imaging",
            pipeline_version="0.1.0",
            git_commit="0123abc",
            pb_id="pb-mvp01-20200523-00001",
            eb_id="eb-mvp01-20200523-00001",
            parameter_hash="5e" * 32,
        ),
    )
    return replace(fields, **changes)


def noise(n_chan=3, npixel=32):
    pixels = np.random.default_rng(180555).normal(size=(n_chan, npixel, npixel))
    return pixels.astype(np.float32)


def astropy_wcs(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)  # OBSGEO-XYZ also as geodetic position
        return WCS(fits.getheader(path))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "image.fits"


@pytest.mark.parametrize(
    ("ra_deg", "dec_deg"), [(0, -30), (359.99, -30), (0.01, -26.7), (83, -85), (180, 0), (275, 89)]
)
def test_sky_positions_agree_with_astropy(path, ra_deg, dec_deg):
    geometry = ImageGeometry(32, 0.008, Direction.from_degrees(ra_deg, dec_deg))
    write_fits_image(path, noise(), geometry, header())
    rng = np.random.default_rng(1)
    separation, angle = np.deg2rad(7) * rng.random(50), 2 * np.pi * rng.random(50)
    centre = SkyCoord(ra_deg, dec_deg, unit="deg")
    sources = centre.directional_offset_by(angle * units.rad, separation * units.rad)

    wcs = astropy_wcs(path)
    column, row, *_ = wcs.wcs_world2pix(sources.ra.deg, sources.dec.deg, 1e8, 1, 0)

    expected = geometry.pixel_of(sources.ra.rad, sources.dec.rad)
    np.testing.assert_allclose((row, column), expected, rtol=0, atol=1e-9)
    assert np.ptp(row) > 10  # the points do spread over the image
    assert wcs.has_spectral
    assert wcs.wcs.radesys == "ICRS"


def test_east_is_left_and_north_is_up(path):
    image = np.zeros((32, 32), np.float32)
    image[20, 5] = 1.0  # north-east of the centre at (16, 16)
    write_fits_image(path, image, GEOMETRY, header(1))

    _, _, row, column = np.unravel_index(fits.getdata(path).argmax(), (1, 1, 32, 32))
    ra_deg, dec_deg, *_ = astropy_wcs(path).wcs_pix2world(column, row, 0, 0, 0)

    assert 0 < ra_deg < 1
    assert -30 < dec_deg < -29


def test_header_text(path):
    write_fits_image(
        path,
        np.eye(32, dtype=np.float32),
        GEOMETRY,
        header(
            1,
            beams=(RestoringBeam(2.0**-10, 2.0**-11, 0.25),),
            history=("one line", "many words " * 8, "Ångström\nnew line"),
        ),
        date=DATE,
    )
    text = fits.getheader(path).tostring(sep="\n", endcard=False, padding=False)
    assert "\n".join(line.rstrip() for line in text.splitlines()) == GOLDEN.rstrip()


@pytest.mark.parametrize("n_history", range(12))
def test_room_for_beams_is_kept_wherever_the_block_ends(path, n_history):
    lines = tuple(f"line {i}" for i in range(n_history))
    cube = noise()
    write_fits_image(path, cube, GEOMETRY, header(beams=BEAMS, history=lines))

    assert path.stat().st_size % 2880 == 0
    with fits.open(path) as hdus:
        hdus.verify("exception")
        np.testing.assert_array_equal(hdus[0].data[0], cube)
        assert tuple(hdus[0].header.get("HISTORY", ())) == lines
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "BEAMS", "CHANNELS"]


def test_round_trip_of_a_cube(path):
    cube = noise()
    cube[1] = np.nan
    written = header(beams=BEAMS)
    write_fits_image(path, cube, GEOMETRY, written)

    read, geometry, freq_hz, beams = read_fits_image(path)

    np.testing.assert_array_equal(read, cube)
    assert read.dtype == np.float32
    assert read.dtype.isnative
    assert geometry.npixel == 32
    assert geometry.cell_rad == pytest.approx(GEOMETRY.cell_rad, rel=1e-14)
    assert geometry.phase_centre.dec_rad == pytest.approx(GEOMETRY.phase_centre.dec_rad, rel=1e-14)
    np.testing.assert_array_equal(freq_hz, written.freq_hz)
    assert beams[1] is None
    for got, given in zip(beams[::2], BEAMS[::2], strict=True):
        # the table is in single precision
        assert got.bmaj_rad == pytest.approx(given.bmaj_rad, rel=1e-7)
        assert got.bmin_rad == pytest.approx(given.bmin_rad, rel=1e-7)
        assert got.bpa_rad == pytest.approx(given.bpa_rad, rel=1e-7)


def test_round_trip_of_a_plane(path):
    image = noise(1)[0]
    beam = RestoringBeam(1.2e-3, 9e-4, -1.5)
    write_fits_image(path, image, GEOMETRY, header(1, beams=(beam,)))

    read, _, freq_hz, (read_beam,) = read_fits_image(path)

    np.testing.assert_array_equal(read, image[np.newaxis])
    np.testing.assert_array_equal(freq_hz, [1e8])
    assert read_beam.bpa_rad == pytest.approx(-1.5)
    primary = fits.getheader(path)
    assert "CASAMBM" not in primary
    assert primary["CDELT3"] == 1e6


def test_beams_table(path):
    write_fits_image(path, noise(), GEOMETRY, header(beams=BEAMS))
    with fits.open(path) as hdus:
        primary, beams, channels = hdus[0].header, hdus["BEAMS", 1], hdus["CHANNELS", 1]
        assert primary["CASAMBM"] is True
        assert primary["BMAJ"] == pytest.approx(np.rad2deg(1.1e-3))
        assert primary["BPA"] == pytest.approx(np.rad2deg(0.1))
        assert (beams.header["NCHAN"], beams.header["NPOL"]) == (3, 1)
        assert [column.unit for column in beams.columns] == ["arcsec", "arcsec", "deg", None, None]
        np.testing.assert_allclose(beams.data["BMAJ"], np.rad2deg([1.2e-3, 1.1e-3, 1e-3]) * 3600)
        np.testing.assert_array_equal(beams.data["CHAN"], [0, 1, 2])
        np.testing.assert_array_equal(channels.data["HAS_BEAM"], [True, False, True])


def test_median_position_angle_knows_that_it_is_an_axis(path):
    angles = np.deg2rad([88.0, -89.0, 89.0])
    beams = tuple(RestoringBeam(1e-3, 9e-4, angle) for angle in angles)
    write_fits_image(path, noise(), GEOMETRY, header(beams=beams))
    assert fits.getheader(path)["BPA"] == pytest.approx(89.0)


def test_channels_table_of_irregular_channels(path):
    freq_hz = np.array([1.00e8, 1.01e8, 1.03e8, 1.06e8])
    rms, peak = np.array([0.1, 0.2, 0.3, np.nan]), np.array([1.0, 2.0, 3.0, np.nan])
    write_fits_image(path, noise(4), GEOMETRY, header(4, freq_hz=freq_hz), rms=rms, peak=peak)

    with fits.open(path) as hdus:
        channels, primary = hdus["CHANNELS"], hdus[0].header
        np.testing.assert_array_equal(channels.data["FREQ"], freq_hz)
        np.testing.assert_array_equal(channels.data["RMS"], rms)
        np.testing.assert_array_equal(channels.data["PEAK"], peak)
        assert [column.unit for column in channels.columns] == ["Hz", "Hz", "Jy/beam", "Jy/beam"]
        # least squares by hand: slope Σ(i − 1.5)(ν − ν̄) / Σ(i − 1.5)², through the mean
        assert primary["CDELT3"] == pytest.approx(2.0e6, rel=1e-12)
        assert primary["CRVAL3"] == pytest.approx(1.025e8 - 1.5 * 2.0e6, rel=1e-14)
    np.testing.assert_array_equal(read_fits_image(path)[2], freq_hz)


def test_descending_channels_within_tolerance_are_a_linear_axis(path):
    freq_hz = np.array([1.02e8, 1.01e8 + 0.5, 1.00e8])
    write_fits_image(path, noise(), GEOMETRY, header(freq_hz=freq_hz))
    primary = fits.getheader(path)
    assert (primary["CRVAL3"], primary["CDELT3"]) == (1.02e8, -1e6)


def test_blank_image_has_no_extremes(path):
    write_fits_image(path, np.full((3, 32, 32), np.nan, np.float32), GEOMETRY, header())
    primary = fits.getheader(path)
    assert "DATAMIN" not in primary
    assert "BMAJ" not in primary
    assert np.isnan(read_fits_image(path)[0]).all()


def test_planes_of_two_processes_make_the_bytes_of_the_one_shot_writer(tmp_path, path):
    cube, given = noise(5), header(5, beams=(*BEAMS, None, None))
    write_fits_image(path, cube, GEOMETRY, given, rms=cube.std(axis=(1, 2)), date=DATE)

    in_parts = tmp_path / "parts.fits"
    spawn = multiprocessing.get_context("spawn")
    with (
        FitsCubeWriter(in_parts, GEOMETRY, given, DATE) as writer,
        ProcessPoolExecutor(2, mp_context=spawn) as pool,
    ):
        order = [4, 0, 3, 1, 2]
        list(pool.map(partial(write_plane, in_parts), order, cube[order]))
        assert not in_parts.exists()
        writer.finish(given.beams, rms=cube.std(axis=(1, 2)))

    assert in_parts.read_bytes() == path.read_bytes()


def test_planes_that_were_not_written_are_blank(path):
    cube = noise()
    with FitsCubeWriter(path, GEOMETRY, header()) as writer:
        write_plane(path, 1, cube[1])
        writer.finish()

    read = read_fits_image(path)[0]
    np.testing.assert_array_equal(read[1], cube[1])
    assert np.isnan(read[[0, 2]]).all()
    assert fits.getheader(path)["DATAMAX"] == cube[1].max()


def test_source_date_epoch_makes_files_reproducible(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1590323400")
    for name in ("a.fits", "b.fits"):
        write_fits_image(tmp_path / name, noise(), GEOMETRY, header())
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()
    assert fits.getheader(tmp_path / "a.fits")["DATE"] == "2020-05-24T12:30:00"


def test_failure_keeps_the_older_product_and_nothing_else(path):
    write_fits_image(path, noise(), GEOMETRY, header())
    before = path.read_bytes()

    def fail_half_way():
        with FitsCubeWriter(path, GEOMETRY, header()):
            write_plane(path, 0, noise()[0])
            raise RuntimeError("worker died")

    with pytest.raises(RuntimeError, match="worker died"):
        fail_half_way()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("index", "shape"), [(3, (32, 32)), (-1, (32, 32)), (0, (16, 32))], ids=str
)
def test_planes_that_do_not_fit_are_refused(path, index, shape):
    with (
        FitsCubeWriter(path, GEOMETRY, header()),
        pytest.raises(ProductError, match=r"image\.fits: plane .* does not fit"),
    ):
        write_plane(path, index, np.zeros(shape, np.float32))


def test_wrong_shapes_and_lengths_are_refused(path):
    with pytest.raises(ProductError, match="shape"):
        write_fits_image(path, noise(2), GEOMETRY, header(3))
    with pytest.raises(ProductError, match="rms has 2 values, not 3"):
        write_fits_image(path, noise(), GEOMETRY, header(), rms=np.ones(2))
    with pytest.raises(ProductError, match="ascend or descend"):
        header(3, freq_hz=np.array([1e8, 1.1e8, 1.05e8]))
    with pytest.raises(ProductError, match="every channel"):
        header(3, chan_width_hz=np.ones(2))
    assert list(path.parent.iterdir()) == []


def test_a_folder_that_is_missing_is_named(tmp_path):
    path = tmp_path / "absent" / "image.fits"
    with pytest.raises(ProductError, match="absent"):
        write_fits_image(path, noise(), GEOMETRY, header())
    with pytest.raises(ProductError, match="absent"):
        write_plane(path, 0, noise()[0])


def test_casacore_opens_the_cube(path):
    casacore_images = pytest.importorskip("casacore.images")
    cube = noise()
    write_fits_image(path, cube, GEOMETRY, header(beams=BEAMS))

    image = casacore_images.image(str(path))

    assert image.shape() == [1, 3, 32, 32]
    assert image.unit() == "Jy/beam"
    np.testing.assert_array_equal(image.getdata()[0], cube)
    _, freq_hz, dec_rad, ra_rad = image.toworld([0, 2, 30, 3])
    row, column = GEOMETRY.pixel_of(ra_rad, dec_rad)
    assert (float(row), float(column)) == pytest.approx((30, 3), abs=1e-9)
    assert freq_hz == pytest.approx(1.02e8)
    direction = image.coordinates()["direction"]
    assert (direction.get_frame(), direction.get_projection()) == ("ICRS", "SIN")
    beam = image.info()["imageinfo"]["perplanebeams"]["*0"]
    assert beam["major"]["unit"] == "arcsec"
    assert beam["major"]["value"] == pytest.approx(np.rad2deg(1.2e-3) * 3600)


@pytest.mark.filterwarnings("ignore")
def test_spectral_cube_reads_a_beam_a_channel(path):
    spectral_cube = pytest.importorskip("spectral_cube")
    cube = noise()
    write_fits_image(path, cube, GEOMETRY, header(beams=BEAMS))

    read = spectral_cube.SpectralCube.read(path)

    assert isinstance(read, spectral_cube.VaryingResolutionSpectralCube)
    assert read.unit == "Jy/beam"
    np.testing.assert_allclose(read.spectral_axis.to_value("Hz"), header().freq_hz)
    np.testing.assert_allclose(read.beams.major.to_value("rad"), [1.2e-3, 1.1e-3, 1e-3], rtol=1e-6)
    np.testing.assert_array_equal(read.unmasked_data[:].value, cube)


def foreign_image(axes, **cards):
    """A file as another program may write it: `axes` of (type, length, reference value, step)."""
    hdu = fits.PrimaryHDU(np.ones([length for _, length, _, _ in reversed(axes)], np.float32))
    for i, (ctype, length, crval, cdelt) in enumerate(axes, 1):
        hdu.header[f"CTYPE{i}"] = ctype
        hdu.header[f"CRPIX{i}"] = length / 2 + 1 if "SIN" in ctype or "TAN" in ctype else 1
        hdu.header[f"CRVAL{i}"] = crval
        hdu.header[f"CDELT{i}"] = cdelt
    hdu.header.update(cards)
    return hdu


RA, DEC = ("RA---SIN", 16, 350.0, -0.01), ("DEC--SIN", 16, -27.0, 0.01)
STOKES = ("STOKES", 1, 1, 1)


def test_reads_an_image_of_two_axes(path):
    foreign_image([RA, DEC], BMAJ=0.03, BMIN=0.02, BPA=10.0, RESTFRQ=1.5e8).writeto(path)
    cube, geometry, freq_hz, (beam,) = read_fits_image(path)
    assert cube.shape == (1, 16, 16)
    assert geometry.phase_centre.ra_rad == pytest.approx(np.deg2rad(350))
    assert geometry.cell_rad == pytest.approx(np.deg2rad(0.01))
    assert freq_hz == [1.5e8]
    assert np.rad2deg(beam.bmin_rad) == pytest.approx(0.02)


def test_reads_an_image_without_frequency_or_beam(path):
    foreign_image([RA, DEC]).writeto(path)
    _, _, freq_hz, beams = read_fits_image(path)
    assert np.isnan(freq_hz).all()
    assert beams == (None,)


def test_reads_stokes_before_frequency_in_j2000(path):
    frequency = ("FREQ", 3, 1e8, 2e6)
    foreign_image([RA, DEC, STOKES, frequency], RADESYS="FK5", EQUINOX=2000.0).writeto(path)
    cube, _, freq_hz, _ = read_fits_image(path)
    assert cube.shape == (3, 16, 16)
    np.testing.assert_allclose(freq_hz, [1e8, 1.02e8, 1.04e8])


@pytest.mark.parametrize(
    ("axes", "cards"),
    [
        ([("RA---TAN", *RA[1:]), ("DEC--TAN", *DEC[1:])], {}),
        ([("GLON-SIN", *RA[1:]), ("GLAT-SIN", *DEC[1:])], {}),
        ([RA, ("DEC--SIN", 18, -27.0, 0.01)], {}),
        ([RA, ("DEC--SIN", 16, -27.0, 0.02)], {}),
        ([("RA---SIN", 16, 350.0, 0.01), DEC], {}),
        ([RA, DEC], {"CRPIX1": 8.0}),
        ([RA, DEC], {"CROTA2": 30.0}),
        ([("RA---SIN", 16, 350.0, -1.0), ("DEC--SIN", 16, -27.0, 1.0)], {"PV2_2": 0.3}),
        ([RA, DEC], {"RADESYS": "FK4", "EQUINOX": 1950.0}),
    ],
    ids=["tan", "galactic", "oblong", "cells", "mirrored", "crpix", "rotated", "slant", "B1950"],
)
def test_other_grids_are_refused(path, axes, cards):
    foreign_image(axes, **cards).writeto(path)
    with pytest.raises(DataError, match=r"image\.fits: axes .* regrid it"):
        read_fits_image(path)


def test_several_stokes_parameters_are_refused(path):
    foreign_image([RA, DEC, ("STOKES", 4, 1, 1)]).writeto(path)
    with pytest.raises(DataError, match="4 planes for 1 frequencies"):
        read_fits_image(path)


def test_files_without_an_image_are_refused(path):
    fits.PrimaryHDU().writeto(path)
    with pytest.raises(DataError, match="holds no image"):
        read_fits_image(path)
    path.write_text("no FITS file")
    with pytest.raises(DataError, match="cannot be read as FITS"):
        read_fits_image(path)
