"""The plan against what runs of the pipelines measured, and against the pipelines' own code."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from batch_imaging.errors import DataError, ParameterError, ResourceError
from batch_imaging.execution.executor import SerialExecutor
from batch_imaging.execution.memory import available_memory_bytes, shown_bytes
from batch_imaging.execution.plan import make_plan, plan_imaging
from batch_imaging.execution.progress import Progress
from batch_imaging.io.measurement_set import describe_measurement_set
from batch_imaging.parameters import load_parameters
from batch_imaging.pipelines.simulate import run_simulation
from batch_imaging.pipelines.units import group_windows, make_observation, plan_units

SEED_CASE = load_parameters(
    Path(__file__).parents[3] / "examples" / "batch_imaging.json", ["n_workers=2"]
)
GB = 10**9


def plan_of(**values):
    """The plan of a small case on a machine of 8 GB and 2 cores."""
    case = {"rmax": 300.0, "imaging": {"npixel": 128, "cellsize": 0.001}, **values}
    return make_plan(load_parameters(case), available_bytes=8 * GB, cores=2)


def stage(plan, name):
    (found,) = [stage for stage in plan.stages if stage.name == name]
    return found


@pytest.fixture(scope="module")
def seed_plan():
    return make_plan(SEED_CASE, available_bytes=8 * GB, cores=2)


def test_the_seed_case_has_the_size_of_the_original(seed_plan):
    assert seed_plan.stations == 236
    assert seed_plan.baselines == 236 * 235 // 2
    assert seed_plan.visibilities == 1_109_200
    assert seed_plan.samples == 2_218_400


def test_the_seed_case_is_as_measured(seed_plan):
    """Two workers on two cores: `du` of the buffers, peak memory, seconds of the stages."""
    assert seed_plan.measurement_set_bytes == pytest.approx(92.6e6, rel=0.2)
    assert seed_plan.image_bytes == pytest.approx(184.95e6, rel=0.01)
    assert seed_plan.worker_bytes == pytest.approx(441e6, rel=0.3)
    assert seed_plan.memory_bytes < 2 * 2**30
    seconds = {stage.name: stage.wall_s for stage in seed_plan.stages}
    assert 0.5 < sum(s for name, s in seconds.items() if name.startswith("ical")) / 12 < 2
    assert 0.5 < seed_plan.wall_s / 20 < 2
    assert seed_plan.warnings == ()


@pytest.mark.parametrize(
    ("settings", "worker_mib"),
    [
        (["nfreqwin=2"], 430),
        (["nfreqwin=32", "rmax=300"], 414),
        (["nfreqwin=2", "imaging.npixel=2048", "imaging.cellsize=0.00025"], 761),
        (["nfreqwin=4", "rmax=300", "imaging.npixel=4096", "imaging.cellsize=0.000125"], 1698),
        (["nfreqwin=4", "ntimes=40"], 540),
    ],
    ids=str,
)
def test_memory_of_a_worker_is_as_measured(settings, worker_mib):
    case = load_parameters(SEED_CASE.model_dump(), settings)
    plan = make_plan(case, available_bytes=64 * GB)
    assert plan.worker_bytes == pytest.approx(worker_mib * 2**20, rel=0.3)
    assert plan.worker_bytes < plan.memory_limit_bytes


def test_sets_on_disk_have_the_bytes_and_units_that_were_planned(tmp_path):
    case = {"rmax": 300.0, "nfreqwin": 5, "ntimes": 3, "imaging": {"npixel": 64}}
    parameters = load_parameters(case)
    plan = make_plan(parameters)
    progress = Progress(show_bar=False)
    result = run_simulation(parameters, tmp_path, SerialExecutor(), progress)
    on_disk = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())
    assert plan.measurement_set_bytes == pytest.approx(on_disk, rel=0.2)
    infos = [describe_measurement_set(path) for path in result.sets]
    assert plan.rows == infos[0].n_rows
    assert plan.max_baseline_m >= infos[0].max_uv_m
    units = plan_units(make_observation(infos, 2), group_windows(np.ones(len(infos)), 2))
    assert stage(plan, "ical: psf").units == len(units)


@pytest.mark.parametrize(
    "values",
    [
        {"nfreqwin": 8},
        {"nfreqwin": 40},  # more windows than a unit holds
        {"nfreqwin": 3, "ntimes": 400},  # windows larger than a unit
        {"nfreqwin": 1, "ntimes": 2},
        {"nfreqwin": 27, "ntimes": 11},
        {"nfreqwin": 9, "ical": {"algorithm": "hogbom"}},
    ],
    ids=str,
)
def test_units_are_cut_as_the_pipelines_cut_them(values, sized_observation):
    parameters = load_parameters({"rmax": 750.0, "imaging": {"npixel": 128}, **values})
    plan = make_plan(parameters, available_bytes=64 * GB)
    groups = 1 if values.get("ical") else min(2, plan.windows)
    windows = np.ones(parameters.nfreqwin)
    units = plan_units(sized_observation(plan, parameters), group_windows(windows, groups))
    assert stage(plan, "ical: major cycle").units == len(units)


@pytest.fixture
def sized_observation(tmp_path):
    """An observation of the plan's size, as a survey of its sets would describe it."""
    small = load_parameters({"rmax": 60.0, "nfreqwin": 1, "ntimes": 1, "imaging": {"npixel": 64}})
    (path,) = run_simulation(small, tmp_path, SerialExecutor(), Progress(show_bar=False)).sets
    described = describe_measurement_set(path)

    def make(plan, parameters):
        infos = [
            replace(
                described,
                n_rows=plan.rows,
                n_integrations=plan.integrations,
                freq_hz=np.array([freq_hz]),
                chan_width_hz=parameters.chan_width_hz[:1],
            )
            for freq_hz in parameters.freq_hz
        ]
        return make_observation(infos)

    return make


def test_memory_of_a_worker_is_flat_in_windows_and_grows_with_pixels():
    few, many = (plan_of(nfreqwin=n, ntimes=20).worker_bytes for n in (256, 4096))
    assert few == many
    small, large = (
        plan_of(imaging={"npixel": n, "cellsize": 2e-4}).worker_bytes for n in (1024, 2048)
    )
    assert (large - small) / (3 * 1024**2) == pytest.approx(90, rel=0.3)


def test_time_is_linear_in_windows_and_falls_with_cores():
    one, two = (plan_of(nfreqwin=n).wall_s for n in (100, 200))
    four = plan_of(nfreqwin=400).wall_s
    assert four - two == pytest.approx(2 * (two - one), rel=0.05)
    case = load_parameters({"n_workers": 8, "nfreqwin": 64})
    few, lots = (make_plan(case, available_bytes=64 * GB, cores=c).wall_s for c in (2, 8))
    assert lots < 0.6 * few


def test_an_image_that_does_not_fit_is_refused_with_the_numbers():
    case = {"rmax": 300.0, "imaging": {"npixel": 32768, "cellsize": 1e-5}}
    with pytest.raises(ResourceError) as refusal:
        make_plan(load_parameters(case), available_bytes=8 * GB)
    text = str(refusal.value)
    assert "imaging.npixel = 32768" in text
    assert "8 GB are free" in text
    fits = int(text.split("imaging.npixel ")[-1].split()[0])
    plan_of(imaging={"npixel": fits, "cellsize": 1e-5})
    with pytest.raises(ResourceError):
        plan_of(imaging={"npixel": fits + 2, "cellsize": 1e-5})


def test_where_no_image_fits_it_says_so():
    with pytest.raises(ResourceError, match="no image would fit, or use fewer workers"):
        make_plan(SEED_CASE, n_workers=100, available_bytes=8 * GB)


def test_a_cell_too_coarse_for_the_longest_baseline_is_warned_of():
    fine = plan_of(imaging={"npixel": 128, "cellsize": 1e-3})
    coarse = plan_of(imaging={"npixel": 128, "cellsize": 1.01 * fine.beam_rad / 2})
    assert fine.warnings == ()
    (warning,) = coarse.warnings
    assert f"{fine.max_baseline_m:,.0f} m" in warning
    assert f"{fine.beam_rad / 2:.3g} rad" in warning
    assert warning in str(coarse)


def test_a_field_whose_corners_near_the_horizon_is_warned_of():
    (warning,) = plan_of(imaging={"npixel": 1300, "cellsize": 1e-3}).warnings
    # n at the corner of a 1.3 rad field: √(1 − 2 · 0.65²)
    assert f"{np.rad2deg(np.arccos(np.sqrt(1 - 2 * 0.65**2))):.0f}°" in warning


def test_too_few_stations_or_no_file_are_refused():
    with pytest.raises(ParameterError, match="three are needed"):
        plan_of(rmax=1.0)
    with pytest.raises(DataError, match=r"stations\.csv"):
        plan_of(simulation={"array": "missing/stations.csv"})


def test_stations_come_from_a_file(tmp_path):
    layout = tmp_path / "four.csv"
    layout.write_text("0,0\n300,0\n0,400\n100,100\n")
    plan = plan_of(simulation={"array": str(layout)}, rmax=1000.0)
    assert (plan.stations, plan.baselines) == (4, 6)
    assert plan.max_baseline_m == pytest.approx(500, abs=0.1)


ONE_MERIDIAN = {"hour_angle_min": -10.0, "hour_angle_max": 10.0}


def test_the_horizon_is_that_of_the_array(tmp_path):
    """Stations at latitude 52.9° N see what SKA1-Low does not, and the other way round."""
    layout = tmp_path / "north.csv"
    layout.write_text("3826577,461022,5064892\n3826477,461022,5064892\n3826577,461122,5064892\n")
    north = {"array": str(layout), **ONE_MERIDIAN}
    assert plan_of(dec=80.0, simulation=north).warnings == ()
    with pytest.raises(ParameterError, match=r"^dec = -45: .* north at latitude 52\.9"):
        plan_of(dec=-45.0, simulation=north)


def test_times_below_the_horizon_are_warned_of():
    # At latitude −26.8°, dec 55° is up for hour angles within ±arccos(tan 26.8° tan 55°) = ±43.8°
    simulation = {"hour_angle_min": -60.0, "hour_angle_max": 60.0}
    (warning,) = plan_of(dec=55.0, ntimes=5, simulation=simulation).warnings
    assert "at 2 of 5 times" in warning
    assert plan_of(dec=55.0, ntimes=5, simulation=ONE_MERIDIAN).warnings == ()


def test_integrations_that_overlap_are_warned_of():
    # 20° of hour angle are 4787 s of time.
    for n_times, n_warnings in ((479, 0), (481, 1)):
        plan = plan_of(rmax=100.0, ntimes=n_times, simulation=ONE_MERIDIAN)
        assert len(plan.warnings) == n_warnings
    assert "9.97 s from one of the 481 times" in plan.warnings[0]


def test_the_sky_is_looked_at(tmp_path):
    sky = tmp_path / "sky.csv"
    sky.write_text("name,ra_deg,dec_deg,flux_jy\na,0,-30,5\nb,1,-30,4\nc,2,-30,0.1\n")
    plan = plan_of(simulation={"sky": str(sky)})
    assert plan.sources == 2
    assert "2 sources" in str(plan)
    assert json.loads(plan.to_json())["sources"] == 2
    with pytest.raises(DataError, match=r"sky\.csv: no source above"):
        plan_of(simulation={"sky": str(sky), "flux_limit": 6.0})
    with pytest.raises(DataError, match=r"absent\.csv: cannot be read"):
        plan_of(simulation={"sky": str(tmp_path / "absent.csv")})
    with pytest.raises(ParameterError, match="below the source counts"):
        plan_of(simulation={"flux_limit": 1e-9})
    (warning,) = plan_of(simulation={"flux_limit": 1e5}).warnings
    assert "no source" in warning


def test_more_sources_take_longer_to_simulate():
    few, many = (plan_of(simulation={"flux_limit": limit_jy}) for limit_jy in (3.0, 0.05))
    assert many.sources > 20 * few.sources
    assert stage(many, "simulation").wall_s > stage(few, "simulation").wall_s


def test_sets_that_are_there_are_planned_like_simulated_ones(tmp_path):
    case = {"rmax": 300.0, "nfreqwin": 3, "ntimes": 2, "imaging": {"npixel": 64}}
    parameters = load_parameters(case)
    sets = run_simulation(parameters, tmp_path, SerialExecutor(), Progress(show_bar=False)).sets
    infos = [describe_measurement_set(path) for path in sets]
    simulated = make_plan(parameters, available_bytes=4 * GB)
    given = plan_imaging(parameters, infos, available_bytes=4 * GB)
    assert given.warnings == ()
    share_bytes = (4 * GB - simulated.main_bytes) / 2
    assert given.memory_limit_bytes == pytest.approx(share_bytes, rel=1e-6)
    coarse = load_parameters(case, ["imaging.cellsize=0.01"])
    (warning,) = plan_imaging(coarse, infos).warnings
    assert f"{max(info.max_uv_m for info in infos):,.0f} m" in warning
    large = load_parameters(case, ["imaging.npixel=16384", "imaging.cellsize=1e-5"])
    with pytest.raises(ResourceError, match="2 workers need about"):
        plan_imaging(large, infos, available_bytes=8 * GB)


def test_weights_and_spectral_imaging_are_planned_only_if_asked_for():
    plain, other = plan_of(), plan_of(spectral={"enabled": False})
    assert "ical: weights" not in str(plain)
    assert "ical: weights" in str(plan_of(imaging={"npixel": 128, "weighting": "uniform"}))
    assert stage(plain, "spectral imaging").units == plain.windows
    assert "spectral imaging" not in str(other)
    per_cube = plain.windows * 4 * 128**2
    assert plain.image_bytes - other.image_bytes == pytest.approx(2 * per_cube, rel=0.05)


def test_the_table_is_aligned_and_the_json_complete(seed_plan):
    table = str(seed_plan).split("\n\n")[1].splitlines()
    assert {len(line) for line in table} == {44}
    for shown in ("236 stations", "1,109,200 visibilities", "8 GB free", "185 MB"):
        assert shown in str(seed_plan)
    document = json.loads(seed_plan.to_json())
    assert document["visibilities"] == 1_109_200
    assert document["disk_bytes"] == seed_plan.disk_bytes
    assert sum(s["wall_s"] for s in document["stages"]) == pytest.approx(document["wall_s"])


def test_workers_get_twice_their_need_but_no_more_than_there_is(seed_plan):
    assert seed_plan.memory_limit_bytes == max(2 * seed_plan.worker_bytes, GB)
    tight_bytes = seed_plan.memory_bytes + 10**8
    tight = make_plan(SEED_CASE, available_bytes=tight_bytes)
    assert tight.memory_limit_bytes < seed_plan.memory_limit_bytes
    assert tight.memory_limit_bytes >= 1.5 * tight.worker_bytes - 1


def test_workers_with_memory_of_their_own_get_twice_their_need_up_to_their_limit(seed_plan):
    need_bytes = seed_plan.worker_bytes
    roomy = make_plan(SEED_CASE, available_bytes=8 * GB, worker_limit_bytes=100 * GB)
    assert roomy.memory_limit_bytes == seed_plan.memory_limit_bytes
    tight = make_plan(SEED_CASE, available_bytes=8 * GB, worker_limit_bytes=need_bytes + 1)
    assert tight.memory_limit_bytes == need_bytes + 1
    # Many of them do not have to fit on one machine together.
    make_plan(SEED_CASE, n_workers=100, available_bytes=8 * GB, worker_limit_bytes=2 * GB)


def test_a_worker_or_a_script_that_is_too_small_is_refused(seed_plan):
    limit_bytes = seed_plan.worker_bytes - 1
    with pytest.raises(ResourceError, match=r"a worker needs about .*workerMemory") as refusal:
        make_plan(SEED_CASE, available_bytes=8 * GB, worker_limit_bytes=limit_bytes)
    fits = int(str(refusal.value).split("; imaging.npixel ")[1].split()[0])
    assert 32 <= fits < seed_plan.npixel
    with pytest.raises(ResourceError, match="the script needs about"):
        make_plan(SEED_CASE, available_bytes=seed_plan.main_bytes - 1, worker_limit_bytes=100 * GB)


def test_the_machine_has_memory():
    assert 10**8 < available_memory_bytes() < 10**14


@pytest.mark.parametrize(
    ("folder", "limit", "used", "cache"),
    [
        (".", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
    ids=["v2", "v1"],
)
def test_a_container_has_what_its_limit_leaves(tmp_path, folder, limit, used, cache):
    group = tmp_path / folder
    group.mkdir(exist_ok=True)
    (group / used).write_text("80000000\n")
    (group / "memory.stat").write_text(f"anon 30000000\n{cache} 50000000\n")
    (group / limit).write_text("100000000\n")
    assert available_memory_bytes(tmp_path) == 100_000_000 - (80_000_000 - 50_000_000)
    (group / limit).write_text("max\n" if folder == "." else "9223372036854771712\n")
    assert available_memory_bytes(tmp_path) > 10**8
    (group / limit).write_text("10000000\n")
    assert available_memory_bytes(tmp_path) == 0


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (999, "999 B"), (999_600, "1 MB"), (92.6e6, "92.6 MB"), (3.2e15, "3.2 PB")],
)
def test_bytes_are_shown_with_three_digits(size, shown):
    assert shown_bytes(size) == shown
