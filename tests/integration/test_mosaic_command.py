"""`batch-imaging mosaic` from end to end: fields of a known sky in, mosaic and weights out."""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from astropy import units
from astropy.convolution import convolve_fft
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from radio_beam import Beam
from scipy.ndimage import map_coordinates

from batch_imaging.cli import main

pytestmark = pytest.mark.integration

SIDE, CELL_DEG, N_CHAN, NOISE = 110, 10 / 3600, 3, 1e-3
FREQ_HZ = 1.40e9 + 5e7 * np.arange(N_CHAN)
FWHM_DEG = 0.25  # of the primary beam, at 1.4 GHz
PRIMARY = ("--fwhm", "0.25deg@1.4GHz")
SOURCES = ((40.0, -30.0, 1.0), (40.08, -30.03, 0.6), (39.9, -29.95, 0.8), (40.21, -29.97, 0.5))


@dataclass(frozen=True)
class Pointing:
    """A field: the centre of image and primary beam, its beam in arcsec, its noise."""

    ra: float
    dec: float
    beam: tuple[float, float, float] = (50.0, 50.0, 0.0)
    noise: float = NOISE


LEFT = Pointing(40.1, -30.0, (50.0, 42.0, 30.0))
RIGHT = Pointing(39.95, -30.02, (47.0, 45.0, 110.0), 2 * NOISE)


def power(sky, pointing: Pointing, freq_hz: float) -> np.ndarray:
    """Return the response of the primary beam."""
    angle = sky.separation(SkyCoord(pointing.ra, pointing.dec, unit="deg")).deg
    return 0.5 ** ((2 * angle * freq_hz / 1.4e9 / FWHM_DEG) ** 2)


def field_header(pointing: Pointing, **changes: object) -> fits.Header:
    header = fits.Header({"BUNIT": "Jy/beam", "SPECSYS": "TOPOCENT", "RADESYS": "ICRS"})
    axes = (
        ("RA---SIN", pointing.ra, -CELL_DEG, SIDE / 2, "deg"),
        ("DEC--SIN", pointing.dec, CELL_DEG, SIDE / 2, "deg"),
        ("FREQ", FREQ_HZ[0], FREQ_HZ[1] - FREQ_HZ[0], 1.0, "Hz"),
    )
    for i, axis in enumerate(axes, 1):
        keys = (f"{name}{i}" for name in ("CTYPE", "CRVAL", "CDELT", "CRPIX", "CUNIT"))
        header.update(zip(keys, axis, strict=True))
    beam = np.array(pointing.beam) / (3600, 3600, 1)
    header.update(zip(("BMAJ", "BMIN", "BPA"), beam, strict=True))
    header.update(changes)
    return header


def write_field(
    path: Path, pointing: Pointing, sources=SOURCES, *, blank: int | None = None, **changes: object
) -> Path:
    """Write what a telescope would see of ``sources`` (ra, dec, flux) plus its noise."""
    header = field_header(pointing, **changes)
    shape = Beam(
        *(units.Quantity(size, "arcsec") for size in pointing.beam[:2]),
        units.Quantity(pointing.beam[2], "deg"),
    ).as_kernel(units.Quantity(CELL_DEG, "deg"), x_size=81, y_size=81)
    pixels = np.random.default_rng(int(1e3 * pointing.ra)).normal(size=(N_CHAN, SIDE, SIDE))
    for channel, plane in enumerate(pixels):
        plane[:] = convolve_fft(plane, shape.array, boundary="wrap")
        plane *= pointing.noise / plane.std()
        for ra, dec, flux in sources:
            sky = SkyCoord(ra, dec, unit="deg")
            column, row = WCS(header).celestial.world_to_pixel(sky)
            seen = flux * power(sky, pointing, FREQ_HZ[channel])
            plane += seen * gaussian_at(row, column, pointing.beam)
    if blank is not None:
        pixels[blank] = np.nan
    fits.writeto(path, pixels.astype(np.float32), header)
    return path


def gaussian_at(row: float, column: float, beam: tuple[float, float, float]) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    east, north = -(x - column) * CELL_DEG * 3600, (y - row) * CELL_DEG * 3600
    major, minor, angle = beam[0], beam[1], np.deg2rad(beam[2])
    along = east * np.sin(angle) + north * np.cos(angle)
    across = east * np.cos(angle) - north * np.sin(angle)
    return 0.5 ** (4 * ((along / major) ** 2 + (across / minor) ** 2))


def mosaic(*arguments: object) -> int:
    return main(["mosaic", *map(str, arguments), "--quiet"])


@dataclass(frozen=True)
class Mosaic:
    """Pixels (chan, row, column) of a mosaic and its weights."""

    header: fits.Header
    image: np.ndarray
    weights: np.ndarray

    @classmethod
    def read(cls, path: Path) -> "Mosaic":
        weights = fits.getdata(path.with_name(f"{path.stem}.weights.fits"))
        return cls(fits.getheader(path), fits.getdata(path)[0], weights[0])

    @property
    def sky(self) -> SkyCoord:
        row, column = np.mgrid[: self.image.shape[1], : self.image.shape[2]]
        return WCS(self.header).celestial.pixel_to_world(column, row)

    def at(self, channel: int, ra: float, dec: float) -> float:
        column, row = WCS(self.header).celestial.world_to_pixel(SkyCoord(ra, dec, unit="deg"))
        plane = np.nan_to_num(self.image[channel])
        return float(map_coordinates(plane, [[row], [column]], order=3)[0])


@pytest.fixture
def fields(tmp_path) -> list[Path]:
    return [
        write_field(tmp_path / "left.fits", LEFT),
        write_field(tmp_path / "right.fits", RIGHT),
    ]


def test_sources_under_primary_beams_are_recovered(fields, tmp_path, capsys):
    out = tmp_path / "mosaic.fits"
    assert mosaic(*fields, "-o", out, *PRIMARY) == 0
    assert capsys.readouterr().out.split() == [str(out), str(tmp_path / "mosaic.weights.fits")]
    made = Mosaic.read(out)
    for channel in range(N_CHAN):
        for ra, dec, flux in SOURCES:
            assert made.at(channel, ra, dec) == pytest.approx(flux, rel=0.01)
    assert 50 / 3600 < made.header["BMAJ"] < 55 / 3600
    assert made.header["BUNIT"] == "Jy/beam"
    assert made.header["SPECSYS"] == "TOPOCENT"
    assert "left.fits" in str(made.header["HISTORY"])
    assert not list(tmp_path.glob("*.partial"))


def test_weights_and_cutoff_follow_the_primary_beams(tmp_path):
    out = tmp_path / "mosaic.fits"
    fields = [
        write_field(tmp_path / "left.fits", LEFT, sources=()),
        write_field(tmp_path / "right.fits", RIGHT, sources=()),
    ]
    assert mosaic(*fields, "-o", out, *PRIMARY, "--cutoff", 0.4, "--beam", "60arcsec") == 0
    made = Mosaic.read(out)
    inner = SIDE / 2 - 3  # resampling costs a field its rim
    for channel, freq_hz in enumerate(FREQ_HZ):
        expected = np.zeros(made.image.shape[1:])
        rim = np.zeros(expected.shape, bool)
        for pointing, path in zip((LEFT, RIGHT), fields, strict=True):
            at = WCS(fits.getheader(path)).celestial.world_to_pixel(made.sky)
            far = np.max(np.abs(np.array(at) - SIDE / 2), axis=0)
            rim |= (far > inner) & (far < SIDE / 2 + 3)
            response = power(made.sky, pointing, freq_hz)
            response[(response < 0.4) | (far > SIDE / 2)] = 0
            beam = pointing.beam[0] * pointing.beam[1]
            # smoothing correlated noise from one Gaussian to another, in Jy/beam
            noise = pointing.noise * np.sqrt(beam / 60**2) * (60**2 / beam)
            expected += response**2 / noise**2
        assert (made.weights[channel] > 0)[~rim].tolist() == (expected > 0)[~rim].tolist()
        inside = (expected > 0) & ~rim
        assert made.weights[channel][inside] == pytest.approx(expected[inside], rel=0.15)
        assert np.isnan(made.image[channel][made.weights[channel] == 0]).all()


def test_noise_is_what_the_weights_say(tmp_path):
    fields = [
        write_field(tmp_path / f"{i}.fits", replace(LEFT, ra=LEFT.ra + 0.06 * i), sources=())
        for i in range(3)
    ]
    assert mosaic(*fields, "-o", tmp_path / "noise.fits", *PRIMARY) == 0
    made = Mosaic.read(tmp_path / "noise.fits")
    known = made.weights > 0
    in_sigmas = made.image[known] * np.sqrt(made.weights[known])
    assert in_sigmas.std() == pytest.approx(1, abs=0.05)


def test_failed_planes_are_left_out_and_said_so(tmp_path, capsys):
    good = write_field(tmp_path / "good.fits", LEFT)
    blank = write_field(tmp_path / "blank.fits", RIGHT, blank=1)
    huge = write_field(tmp_path / "huge.fits", replace(RIGHT, ra=40.0), blank=1)
    beams = fits.BinTableHDU.from_columns(
        [
            fits.Column(name, "1E", unit, array=values)
            for name, unit, values in (
                ("BMAJ", "arcsec", [50, 50, 500]),
                ("BMIN", "arcsec", [45, 45, 45]),
                ("BPA", "deg", [0, 0, 0]),
            )
        ],
        name="BEAMS",
    )
    fits.append(huge, beams.data, beams.header)
    out = tmp_path / "mosaic.fits"
    limits = ("--beam-limit", "60arcsec", "--workers", 2)
    assert mosaic(good, blank, huge, "-o", out, *PRIMARY, *limits) == 0
    said = capsys.readouterr().err
    assert f"{blank}: left out of channels 1~1: it is blank" in said
    assert f"{huge}: left out of channels 2~2: it has no beam, or one above the limit" in said
    made = Mosaic.read(out)
    area = (made.weights > 0).sum(axis=(1, 2))
    assert 0 < area[1] < area[2] < area[0]
    for ra, dec, flux in SOURCES[:2]:
        assert made.at(1, ra, dec) == pytest.approx(flux, rel=0.015)
    with fits.open(out) as hdus:
        assert hdus["BEAMS"].data["BMAJ"] == pytest.approx([52, 50, 50], abs=2)


def test_one_beam_one_grid_and_given_centres(fields, tmp_path):
    out, like = tmp_path / "mosaic.fits", tmp_path / "like.fits"
    write_field(like, replace(LEFT, ra=40.0))
    centres = tmp_path / "centres.csv"
    rows = ((path.name, p.ra, p.dec) for path, p in zip(fields, (LEFT, RIGHT), strict=True))
    centres.write_text("file,ra,dec\n" + "".join("{},{},{}\n".format(*row) for row in rows))
    where = ("--like", like, "--centres", centres, "--common-beam")
    assert mosaic(*fields, "-o", out, *PRIMARY, *where) == 0
    made = Mosaic.read(out)
    assert made.image.shape == (N_CHAN, SIDE, SIDE)
    assert made.header["CRVAL1"] == 40.0
    assert made.at(0, *SOURCES[0][:2]) == pytest.approx(1.0, rel=0.01)
    assert "CASAMBM" not in made.header


def test_dry_run_writes_nothing(fields, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    assert mosaic(*fields, "-o", tmp_path / "m.fits", "--dish-diameter", 25, "--dry-run") == 0
    assert "2 fields, 3 channels" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before


def test_bad_input_is_one_clear_line(fields, tmp_path, capsys):
    left, right = fields
    out, taken = tmp_path / "mosaic.fits", tmp_path / "taken.fits"
    taken.write_text("mine")
    centres = tmp_path / "centres.csv"
    centres.write_text("file,ra,dec\nleft.fits,40.1,-30\n")
    far = tmp_path / "far.csv"
    far.write_text("file,ra,dec\nleft.fits,40.1,-30\nright.fits,90,10\n")
    like = write_field(tmp_path / "elsewhere.fits", replace(LEFT, ra=60.0))

    def changed(name: str, **changes: object) -> Path:
        return write_field(tmp_path / f"{name}.fits", RIGHT, sources=(), **changes)

    cases = (
        (3, "frequencies differ by up to", left, changed("freq", CRVAL3=1.41e9)),
        (3, "frame LSRK", left, changed("frame", SPECSYS="LSRK")),
        (3, "(BUNIT)", left, changed("unit", BUNIT="K")),
        (3, "no celestial axes", left, changed("axes", CTYPE1="X", CTYPE2="Y")),
        (3, "do not fit", left, right, "--beam", "45arcsec"),
        (3, "none of its planes", left, right, "--beam-limit", "10arcsec"),
        (3, "no part of it is within the cut-off", left, right, "--centres", far),
        (3, "does not overlap the grid", left, right, "--like", like),
        (3, "not a readable", left, right, "--like", taken),
        (3, "no table of beam centres", left, right, "--centres", tmp_path / "none.csv"),
        (3, "not one plane", write_field(tmp_path / "zero.fits", replace(LEFT, noise=0.0), ())),
        (2, "no line for it", left, right, "--centres", centres),
        (2, "named twice", left, left),
        (2, "between 0 and 1", left, right, "--cutoff", 0),
        (2, "taken.fits exists", left, right, "-o", taken),
        (2, "would replace a field", left, right, "-o", left, "--overwrite"),
        (2, "both", left, right, "--beam", "60arcsec", "--common-beam"),
    )
    for code, message, *arguments in cases:
        assert (mosaic("-o", out, *PRIMARY, *arguments), message) == (code, message)
        complaint = capsys.readouterr().err
        assert complaint.count("\n") == 1
        assert message in complaint
        assert not out.exists()
    assert mosaic(left, "-o", out) == 2
    assert "--dish-diameter" in capsys.readouterr().err
    assert mosaic(left, "-o", out, "--fwhm", "1deg") == 2
    assert "1.1deg@1.4GHz" in capsys.readouterr().err
    assert taken.read_text() == "mine"


@pytest.mark.filterwarnings("ignore:Cube is a Stokes cube")
def test_real_cubes_are_read_by_other_programs(shared_data, tmp_path, capsys):
    spectral_cube = pytest.importorskip("spectral_cube")
    with zipfile.ZipFile(shared_data / "askap-emu-cubes.zip") as archive:
        archive.extractall(tmp_path)
        cubes = [tmp_path / name for name in sorted(archive.namelist())]
    out = tmp_path / "mosaic.fits"
    # these are corners of large images, far out in their primary beams: take wider ones
    options = ("--fwhm", "20deg@800MHz", "--beam-limit", "20arcsec")
    assert mosaic(*cubes, "-o", out, *options, "--dry-run") == 0
    assert "10 fields, 36 channels" in capsys.readouterr().out
    assert mosaic(*cubes[:2], "-o", out, *options) == 0
    cube = spectral_cube.SpectralCube.read(out)
    assert cube.shape[0] == 36
    major = cube.beams.major.to_value("arcsec")
    assert np.isfinite(major).all()
    assert 11 < major.min() < major.max() < 20
    known = np.isfinite(cube.unmasked_data[:].value).sum(axis=(1, 2))
    assert np.flatnonzero(known == 0).tolist() == [10, 18]
