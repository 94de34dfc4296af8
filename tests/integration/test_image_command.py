"""`batch-imaging image`: cubes of simulated truth, what may be wrong, killed and gone on with."""

import json
import logging
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import xarray
from astropy.io import fits
from astropy.wcs import WCS
from casacore.tables import table
from line_observation import (
    CENTRE,
    FLAGGED,
    FLUX_JY,
    FREQ_HZ,
    LINE,
    N_CHAN,
    N_STATIONS,
    N_TIMES,
    NOISE_JY,
    SOURCE_LM,
    TIMES_S,
    simulate,
)

from batch_imaging.cli import main
from batch_imaging.execution import journal as journal_module
from batch_imaging.io.fits_image import FitsCubeWriter
from batch_imaging.io.zarr_cube import open_zarr_cube
from batch_imaging.model.spectral_axis import (
    doppler_factor,
    freq_from_velocity,
    velocity_from_freq,
)
from batch_imaging.pipelines import plane_imaging
from batch_imaging.pipelines.cubes.opening import quiet

pytestmark = pytest.mark.integration

NPIXEL = 96


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("observed") / "a.ms")


@pytest.fixture
def run(capsys):
    """Run the command in this process; return its exit code and what it says on both streams."""
    handler, root = signal.getsignal(signal.SIGTERM), logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments):
        code = main(["image", *map(str, arguments), "--npixel", str(NPIXEL)])
        return code, *capsys.readouterr()

    yield run
    signal.signal(signal.SIGTERM, handler)
    root.handlers = handlers
    root.setLevel(level)


def source_pixel(header):
    cell = np.deg2rad(header["CDELT2"])
    l, m = SOURCE_LM
    return round(NPIXEL / 2 + m / cell), round(NPIXEL / 2 - l / cell)


def spectrum(path, stokes=0):
    with fits.open(path) as hdus:
        row, column = source_pixel(hdus[0].header)
        planes = hdus[0].data.reshape(-1, hdus[0].header["NAXIS3"], NPIXEL, NPIXEL)
        near = planes[stokes, :, row - 2 : row + 3, column - 2 : column + 3]
        return near.max(axis=(1, 2))


def outcomes(path):
    return list(fits.getdata(path, "CHANNELS")["OUTCOME"])


def test_a_line_cube(observed, tmp_path, run):
    code, out, err = run(observed, "--output", tmp_path, "--rest-freq", "150.02MHz")
    assert code == 0, err
    cube = tmp_path / "image.fits"
    assert out.split() == [
        str(tmp_path / name)
        for name in ("image.fits", "residual.fits", "model.fits", "report.html")
    ]
    assert "12 planes: 11 OK, 1 FLAGGED" in err
    assert "all samples are flagged" in err
    good = np.arange(N_CHAN) != FLAGGED
    assert outcomes(cube) == ["OK" if k else "FLAGGED" for k in good]
    assert spectrum(cube)[good] == pytest.approx((FLUX_JY + LINE)[good], rel=0.06)
    assert np.isnan(fits.getdata(cube)[0, FLAGGED]).all()
    residual = fits.getdata(tmp_path / "residual.fits")[0, good]
    n_samples = N_TIMES * N_STATIONS * (N_STATIONS - 1)  # two hands
    assert np.median(residual.std(axis=(1, 2))) == pytest.approx(
        NOISE_JY / np.sqrt(n_samples), rel=0.3
    )
    assert not list(tmp_path.glob("*.partial"))


def test_headers_as_others_read_them(observed, tmp_path, run):
    run(observed, "--output", tmp_path, "--rest-freq", "150.02MHz", "--no-clean")
    header = fits.getheader(tmp_path / "image.fits")
    assert header["RESTFRQ"] == 150.02e6
    assert header["SPECSYS"] == "TOPOCENT"
    with quiet():
        assert WCS(header).spectral.wcs_pix2world([N_CHAN - 1], 0)[0] == pytest.approx(FREQ_HZ[-1:])
    with fits.open(tmp_path / "image.fits") as hdus:
        beams = hdus["BEAMS"].columns
        assert [beams[name].unit for name in ("BMAJ", "BPA")] == ["arcsec", "deg"]
    with quiet():
        from spectral_cube import SpectralCube

        cube = SpectralCube.read(tmp_path / "image.fits", use_dask=False)
    assert cube.shape == (N_CHAN, NPIXEL, NPIXEL)
    assert cube.spectral_axis.to_value("Hz") == pytest.approx(FREQ_HZ)
    assert len(cube.beams) == N_CHAN


def test_planes_along_time(tmp_path, run):
    varying = np.linspace(1, 2, N_TIMES)[:, np.newaxis] + np.zeros(N_CHAN)
    path = simulate(tmp_path / "a.ms", flux_jy=varying)
    code, _, err = run(
        path, "-o", tmp_path, "--axis", "time", "--time-step", "integration", "--weighting",
        "robust", "--channels", "0~8",
    )  # fmt: skip
    assert code == 0, err
    assert spectrum(tmp_path / "image.fits") == pytest.approx(varying[:, 0], rel=0.06)
    header = fits.getheader(tmp_path / "image.fits")
    assert header["CTYPE3"] == "TIME"
    assert header["CDELT3"] == pytest.approx(1800)
    assert header["MJDREF"] * 86_400 + header["CRVAL3"] == pytest.approx(TIMES_S[0], abs=0.01)
    assert header["CRVAL5"] == pytest.approx(FREQ_HZ[:9].mean())


def test_one_image_of_all(observed, tmp_path, run):
    code, _, err = run(observed, "-o", tmp_path, "--axis", "none")
    assert code == 0, err
    assert fits.getdata(tmp_path / "image.fits").shape == (1, 1, NPIXEL, NPIXEL)
    good = np.arange(N_CHAN) != FLAGGED
    assert spectrum(tmp_path / "image.fits")[0] == pytest.approx(
        (FLUX_JY + LINE)[good].mean(), rel=0.06
    )
    anew = ("--axis", "none", "--overwrite", "--memory", "100MB")
    assert run(observed, "-o", tmp_path, *anew)[0] == 6
    assert (tmp_path / "image.fits").exists()


def test_full_polarisation_and_averages(tmp_path, run):
    path = simulate(tmp_path / "a.ms", flux_jy=np.ones(N_CHAN), polarised=(0.3, -0.2, 0.1))
    code, _, err = run(path, "-o", tmp_path, "--stokes", "IQUV", "--average", 6)
    assert code == 0, err
    pixels = fits.getdata(tmp_path / "image.fits")
    assert pixels.shape == (4, 2, NPIXEL, NPIXEL)
    row, column = source_pixel(fits.getheader(tmp_path / "image.fits"))
    near = pixels[:, :, row - 2 : row + 3, column - 2 : column + 3].reshape(4, 2, -1)
    at = near[0].argmax(axis=1)
    found = near[:, [0, 1], at].T
    assert found == pytest.approx(np.array([[1, 0.3, -0.2, 0.1]] * 2), abs=0.04)
    assert fits.getheader(tmp_path / "image.fits")["NAXIS4"] == 4


def test_a_line_at_rest_in_another_frame(tmp_path, run):
    """A narrow line that stands still in LSRK moves in TOPO, and comes out where it belongs."""
    rest_hz, speed_m_s, sigma_m_s = 150.03e6, 4_000.0, 12_000.0
    freq_hz = 150e6 + 5e3 * np.arange(-10, 22)
    probe = simulate(tmp_path / "probe.ms")
    with table(str(probe / "ANTENNA"), ack=False) as antennas:
        itrf_m = antennas.getcol("POSITION").mean(axis=0)
    to_lsrk = doppler_factor("TOPO", "LSRK", TIMES_S, CENTRE, itrf_m)
    velocity = velocity_from_freq(np.outer(to_lsrk, freq_hz), rest_hz)
    line_jy = np.exp(-0.5 * ((velocity - speed_m_s) / sigma_m_s) ** 2)
    path = simulate(tmp_path / "a.ms", flux_jy=3 * line_jy, freq_hz=freq_hz)
    code, _, err = run(
        path, "-o", tmp_path, "--frame", "LSRK", "--rest-freq", "150.03MHz",
        "--velocities=-40,8,12", "--no-clean",
    )  # fmt: skip
    assert code == 0, err
    axis_m_s = 1e3 * (-40 + 8 * np.arange(12))
    found = np.nan_to_num(spectrum(tmp_path / "image.fits"))
    assert np.average(axis_m_s, weights=np.maximum(found, 0) ** 2) == pytest.approx(
        speed_m_s, abs=800
    )
    header = fits.getheader(tmp_path / "image.fits")
    assert (header["CTYPE3"], header["SPECSYS"], header["CUNIT3"]) == ("VRAD", "LSRK", "m/s")
    assert header["CRVAL3"] == pytest.approx(-40e3, abs=1)
    assert header["CDELT3"] == pytest.approx(8e3, abs=1)
    assert freq_from_velocity(-40e3, rest_hz) == pytest.approx(
        fits.getdata(tmp_path / "image.fits", "CHANNELS")["FREQ"][0]
    )


def test_two_windows_with_a_gap(tmp_path, run):
    low = simulate(tmp_path / "low.ms", flux_jy=np.ones(4), freq_hz=FREQ_HZ[:4])
    high = simulate(tmp_path / "high.ms", flux_jy=np.full(4, 2.0), freq_hz=FREQ_HZ[8:])
    code, _, err = run(high, low, "-o", tmp_path, "--no-clean", "--average", 2)
    assert code == 0, err
    assert spectrum(tmp_path / "image.fits") == pytest.approx([1, 1, 2, 2], rel=0.06)
    channels = fits.getdata(tmp_path / "image.fits", "CHANNELS")
    assert channels["FREQ"] == pytest.approx(FREQ_HZ[[0, 2, 8, 10]] + 2.5e3)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--column", "LINE"), 3, "no column LINE of visibilities; there is DATA"),
        (("--field", "M31"), 3, "no data for --field M31"),
        (("--spw", "7"), 3, "no data for --spw 7"),
        (("--mask", "none.fits"), 3, "none.fits: cannot be read as FITS"),
        (("--mask", "none.fits", "--no-clean"), 2, "--mask and --mask-sigma are of cleaning"),
        (("--channels", "40~50"), 3, "hold none of the 12 channels"),
        (("--channels", str(FLAGGED)), 2, "is no spectral range"),
        (("--channels", f"{FLAGGED}~{FLAGGED}"), 3, "all samples are flagged"),
        (("--stokes", "IQV"), 2, "without gaps"),
        (("--stokes", "RR"), 3, "no Stokes RR can be made"),
        (("--velocities", "0,1,4"), 2, "in which frame"),
        (("--cellsize", "x"), 2, "--cellsize x: give it as in 2arcsec"),
        (("--cellsize", "1.2.3arcsec"), 2, "--cellsize 1.2.3arcsec: give it as in 2arcsec"),
        (("--rest-freq", "0MHz"), 2, "--rest-freq 0MHz: must be above 0"),
        (("--memory", "100MB"), 6, "a worker takes about"),
        (("--times", "2000-01-01~2000-01-02"), 3, "no data for --times"),
    ],
)
def test_what_cannot_be_imaged_is_said_in_one_line(observed, tmp_path, run, options, code, said):
    got, _, err = run(observed, "--output", tmp_path / "cubes", *options)
    assert said in err
    assert got == code
    assert err.count("error: ") == 1


def test_zero_uvw_and_windows_that_do_not_match(tmp_path, run, observed):
    path = Path(shutil.copytree(observed, tmp_path / "zero.ms"))
    with table(str(path), readonly=False, ack=False) as main_table:
        main_table.putcol("UVW", 0 * main_table.getcol("UVW"))
    code, _, err = run(path, "-o", tmp_path)
    assert (code, "all UVW are zero" in err) == (3, True)
    shifted = simulate(tmp_path / "b.ms", flux_jy=np.ones(4), freq_hz=FREQ_HZ[:4] + 2e3)
    code, _, err = run(observed, shifted, "-o", tmp_path)
    assert (code, "do not match them" in err) == (3, True)


def test_a_dry_run_writes_nothing(observed, tmp_path, run):
    code, out, _ = run(observed, "-o", tmp_path / "cubes", "--dry-run")
    assert code == 0
    assert "12 planes of field" in out
    assert "0 planes done, 12 to do" in out
    assert not (tmp_path / "cubes").exists()


def bad_psf(plane_index, factor):
    """Return a psf method that is wrong for one plane: components come out too bright."""
    right = plane_imaging._PlaneData.psf

    def psf(self):
        return right(self) * np.float32(factor if self._plane.index == plane_index else 1)

    return psf


def test_a_plane_that_diverges_is_blank_and_the_run_goes_on(observed, tmp_path, run, monkeypatch):
    monkeypatch.setattr(plane_imaging._PlaneData, "psf", bad_psf(4, 0.2))
    code, _, err = run(observed, "-o", tmp_path, "--niter", 200)
    assert code == 0, err
    assert "10 OK, 1 FLAGGED, 1 DIVERGED" in err
    assert "also when cleaned gently" in err
    assert np.isnan(fits.getdata(tmp_path / "image.fits")[0, 4]).all()
    code, _, err = run(observed, "-o", tmp_path, "--niter", 201, "--max-failed-planes", 0)
    assert code == 5
    assert "--max-failed-planes is 0" in err
    monkeypatch.undo()
    code, _, err = run(observed, "-o", tmp_path, "--niter", 200)  # failures alone are done again
    assert (code, "11 OK, 1 FLAGGED" in err) == (0, True)
    assert np.isfinite(fits.getdata(tmp_path / "image.fits")[0, 4]).all()


def test_zarr_holds_what_fits_does(observed, tmp_path, run, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
    options = (
        observed,
        "--stokes",
        "IQ",
        "--no-clean",
        "--channels",
        "7~9",
        "--spw",
        "150.028 MHz",
    )
    assert run(*options, "-o", tmp_path / "fits")[0] == 0
    zarr_options = (*options, "-o", tmp_path / "zarr", "--format", "zarr")
    code, out, err = run(*zarr_options)
    assert code == 0, err
    cube = tmp_path / "zarr" / "image.zarr"
    assert out.split()[0] == str(cube)
    with fits.open(tmp_path / "fits" / "image.fits") as hdus, xarray.open_zarr(cube) as stored:
        sky = stored["SKY"].transpose("time", "polarization", "frequency", "m", "l")
        assert np.array_equal(sky[0], hdus[0].data, equal_nan=True)
        for name in ("OUTCOME", "RMS", "WIDTH", "PEAK"):
            assert np.array_equal(
                stored[name], hdus["CHANNELS"].data[name], equal_nan=name != "OUTCOME"
            )
        assert stored["SKY"].encoding["shards"] == (1, 1, 1, NPIXEL, NPIXEL)
        beams = np.rad2deg(stored["BEAM_FIT_PARAMS_SKY"].sel(beam_params_label="major"))
        assert np.isnan(beams[0, 2]).all()
        assert 3600 * beams.to_numpy()[0, :2, 0] == pytest.approx(hdus["BEAMS"].data["BMAJ"][:2])
        header = hdus[0].header
    pixels, its_header, _ = open_zarr_cube(cube, "Q")
    assert pixels.shape == (3, NPIXEL, NPIXEL)
    for name in ("CTYPE1", "CRVAL2", "CRPIX1", "CRVAL3", "RESTFRQ", "SPECSYS", "BUNIT"):
        assert its_header[name] == header[name]
    shard = cube / "SKY" / "c" / "0" / "1" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-9])  # that plane alone is made again
    made = []
    make = plane_imaging._make_plane
    monkeypatch.setattr(
        plane_imaging,
        "_make_plane",
        lambda plane, setup: (made.append(plane.index), make(plane, setup))[1],
    )
    assert run(*zarr_options)[0] == 0
    assert made == [1]
    assert sorted(path.name for path in (tmp_path / "zarr").glob("*.*")) == [
        "image.zarr", "journal.jsonl", "report.html",
    ]  # fmt: skip


def test_components_stay_within_masks(observed, tmp_path, run):
    options = ("--channels", "4~5", "--niter", 100)
    code, _, err = run(observed, "-o", tmp_path / "auto", "--mask-sigma", 8, *options)
    assert code == 0, err
    automatic, model = (fits.getdata(tmp_path / "auto" / f"{n}.fits")[0] for n in ("mask", "model"))
    row, column = source_pixel(fits.getheader(tmp_path / "auto" / "mask.fits"))
    assert (automatic[:, row, column] == 1).all()
    assert automatic.mean() < 0.2
    assert not model[automatic == 0].any()
    assert model.sum(axis=(1, 2)) == pytest.approx((FLUX_JY + LINE)[4:6], rel=0.1)
    given = tmp_path / "given.fits"
    shutil.copy(tmp_path / "auto" / "mask.fits", given)
    with fits.open(given, mode="update") as hdus:
        hdus[0].data[...] = 0
        hdus[0].data[0, 1, row - 2 : row + 3, column - 2 : column + 3] = 1
    code, _, err = run(observed, "-o", tmp_path / "given", "--mask", given, *options)
    assert code == 0, err
    model = fits.getdata(tmp_path / "given" / "model.fits")[0]
    assert not model[0].any()
    assert model[1].any()
    assert not model[1][fits.getdata(given)[0, 1] == 0].any()
    code, _, err = run(
        observed, "-o", tmp_path / "other", "--mask", given, "--cellsize", "100arcsec"
    )
    assert (code, "regrid the mask" in err) == (3, True)
    code, _, err = run(observed, "-o", tmp_path / "other", "--mask", given)
    assert (code, "2 planes, and 12 are made" in err) == (3, True)


def test_the_density_of_one_plane_or_of_all(observed, tmp_path, run):
    def image(name, *options):
        code, _, err = run(
            observed, "-o", tmp_path / name, "--no-clean", "--weighting", "uniform", *options
        )
        assert code == 0, err
        return fits.getdata(tmp_path / name / "image.fits")

    one, its_own = ("--channels", "2~2"), image("one", "--channels", "2~2")
    assert np.array_equal(its_own, image("same", *one, "--weight-density", "all"))
    of_all = image("all", "--channels", "2~4", "--weight-density", "all")
    assert not np.array_equal(its_own[0, 0], of_all[0, 0])
    assert not list((tmp_path / "all").glob("*.npy"))


class Killed(BaseException):
    """Stands for a signal that nothing catches."""


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.fits"))}


@pytest.mark.long
def test_killed_at_every_line_of_the_journal_the_bytes_are_the_same(
    observed, tmp_path, run, monkeypatch
):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
    options = ("--channels", "1~4", "--niter", 50)
    monkeypatch.chdir(tmp_path)
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert run(observed, "-o", whole, *options)[0] == 0
    n_lines = len((whole / "journal.jsonl").read_text().splitlines())
    right = bytes_of(whole)
    begun = json.loads((whole / "journal.jsonl").read_text().splitlines()[0])
    assert begun["date"]
    append = journal_module.Journal.append
    for line in range(n_lines):
        for after in (False, True):
            shutil.rmtree(part, ignore_errors=True)
            left = [line]

            def append_and_die(self, key, record, left=left, after=after):
                if key.startswith("begun"):
                    record = {"date": begun["date"]}
                if after:
                    append(self, key, record)
                if left[0] == 0:
                    if not after:
                        with self.path.open("a") as stream:
                            stream.write('{"key": "cut sho')
                    raise Killed
                left[0] -= 1
                if not after:
                    append(self, key, record)

            monkeypatch.setattr(journal_module.Journal, "append", append_and_die)
            with pytest.raises(Killed):
                run(observed, "-o", part, *options)
            left[0] = 1000
            code, _, err = run(observed, "-o", part, *options)
            assert code == 0, err
            assert bytes_of(part) == right
            assert sorted(p.name for p in part.iterdir()) == sorted(p.name for p in whole.iterdir())


@pytest.mark.parametrize("cube", [0, 1, 2])
def test_killed_while_cubes_are_completed(observed, tmp_path, run, monkeypatch, cube):
    extremes, calls = FitsCubeWriter._extremes, []

    def dying(self):
        calls.append(self.path)
        if len(calls) == cube + 1:
            raise Killed
        return extremes(self)

    options = ("-o", tmp_path / "part", "--channels", "1~4", "--niter", 50)
    monkeypatch.setattr(FitsCubeWriter, "_extremes", dying)
    with pytest.raises(Killed):
        run(observed, *options)
    monkeypatch.setattr(plane_imaging, "_make_plane", None)  # none is made again
    code, _, err = run(observed, *options)
    assert code == 0, err
    assert "4 OK" in err
    assert sorted(path.suffix for path in (tmp_path / "part").glob("*.*")) == [
        ".fits", ".fits", ".fits", ".html", ".jsonl",
    ]  # fmt: skip


def test_only_what_depends_on_a_change_is_done_again(observed, tmp_path, run, monkeypatch):
    made = []
    make = plane_imaging._make_plane

    def counting(plane, setup):
        made.append(plane.index)
        return make(plane, setup)

    monkeypatch.setattr(plane_imaging, "_make_plane", counting)
    run(observed, "-o", tmp_path, "--no-clean", "--channels", "2~5")
    assert made == [0, 1, 2, 3]
    run(observed, "-o", tmp_path, "--no-clean", "--channels", "2~5")
    assert len(made) == 4
    run(observed, "-o", tmp_path, "--no-clean", "--channels", "0~5")
    assert made[4:] == [0, 1]
    run(observed, "-o", tmp_path, "--no-clean", "--channels", "0~5", "--rest-freq", "150MHz")
    assert len(made) == 6  # the header alone is another
    assert fits.getheader(tmp_path / "image.fits")["RESTFRQ"] == 150e6
    assert spectrum(tmp_path / "image.fits") == pytest.approx((FLUX_JY + LINE)[:6], rel=0.06)
    run(observed, "-o", tmp_path, "--no-clean", "--channels", "0~5", "--weighting", "uniform")
    assert len(made) == 12
