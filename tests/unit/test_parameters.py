"""What users may ask for, and what they are told when they ask wrongly."""

import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from batch_imaging.errors import ParameterError
from batch_imaging.parameters import (
    SCHEMA_VERSION,
    Parameters,
    StoppingRule,
    catalogue,
    explain,
    json_schema,
    load_parameters,
    parameter_hash,
    parameters_markdown,
    schema_text,
)

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/batch_imaging.json"

TOP_LEVEL = (
    "the top level has n_workers, freq_min, freq_max, nfreqwin, ntimes, rmax, ra, dec, "
    "buffer_vis, buffer_img, buffer_vis_size, buffer_img_size, buffer_class, retain, simulation, "
    "imaging, ical, spectral, input, image, engine"
)
DNS_LABEL = "a DNS label (1 to 63 of a-z, 0-9 and '-', no '-' at either end) or null"


def refusal(source, settings=()):
    with pytest.raises(ParameterError) as caught:
        load_parameters(source, settings)
    return str(caught.value)


# --- what is accepted ---


def test_example_has_the_values_it_states():
    parameters = load_parameters(EXAMPLE)
    stated = json.loads(EXAMPLE.read_text())
    assert parameters.model_dump(include=set(stated)) == stated
    assert parameters.model_dump(exclude_unset=True) == stated


def test_everything_is_optional():
    parameters = load_parameters("{}")
    assert parameters == Parameters()
    assert (parameters.n_workers, parameters.nfreqwin, parameters.ntimes) == (2, 8, 5)
    assert (parameters.freq_min, parameters.freq_max) == (0.9e8, 1.1e8)
    assert (parameters.rmax, parameters.ra, parameters.dec) == (750.0, 0.0, -30.0)
    assert (parameters.imaging.npixel, parameters.imaging.cellsize) == (1024, 0.0005)
    assert parameters.ical.scales == (0, 3, 10)


def test_integers_serve_as_numbers():
    parameters = load_parameters('{"freq_min": 90000000, "rmax": 300}')
    assert isinstance(parameters.rmax, float)
    assert parameters == load_parameters({"freq_min": 9e7, "rmax": 300.0})


def test_file_with_byte_order_mark(tmp_path):
    path = tmp_path / "parameters.json"
    path.write_text('{"ntimes": 3}', encoding="utf-8-sig")
    assert load_parameters(path).ntimes == 3


def test_settings_win_and_make_groups():
    source = {"imaging": {"npixel": 256, "robust": 1.0}}
    parameters = load_parameters(
        source, ["imaging.npixel=512", "ical.preset=original", "ical.scales=[0]", "ntimes=1"]
    )
    assert (parameters.imaging.npixel, parameters.imaging.robust) == (512, 1.0)
    assert (parameters.ical.preset, parameters.ical.scales) == ("original", (0,))
    assert source == {"imaging": {"npixel": 256, "robust": 1.0}}


def test_parameters_cannot_be_changed():
    with pytest.raises(ValidationError):
        Parameters().ntimes = 7  # type: ignore[misc]


# --- what follows from them ---


def test_windows_are_spaced_as_the_original_has_them():
    parameters = load_parameters({"nfreqwin": 5})
    np.testing.assert_allclose(parameters.freq_hz, [90e6, 95e6, 100e6, 105e6, 110e6])
    np.testing.assert_allclose(parameters.chan_width_hz, [5e6] * 5)


@pytest.mark.parametrize(
    ("freq_max", "centre_hz", "width_hz"), [(1.1e8, 1e8, 0.2e8), (0.9e8, 0.9e8, 0.9e6)]
)
def test_one_window_is_the_middle_of_the_band(freq_max, centre_hz, width_hz):
    parameters = load_parameters({"nfreqwin": 1, "freq_max": freq_max})
    np.testing.assert_allclose(parameters.freq_hz, [centre_hz])
    np.testing.assert_allclose(parameters.chan_width_hz, [width_hz])


def test_hour_angles_span_plus_minus_30_degrees():
    np.testing.assert_allclose(
        Parameters().hour_angles_rad, [-math.pi / 6, -math.pi / 12, 0, math.pi / 12, math.pi / 6]
    )
    one = load_parameters({"ntimes": 1, "simulation": {"hour_angle_min": -10}})
    np.testing.assert_allclose(one.hour_angles_rad, [math.radians(10)])


def test_phase_centre_and_cell():
    parameters = load_parameters({"ra": 90, "dec": -45})
    centre = parameters.phase_centre
    assert (centre.ra_rad, centre.dec_rad) == pytest.approx((math.pi / 2, -math.pi / 4))
    assert parameters.cell_rad == 0.0005


def test_buffers_are_named_after_the_processing_block():
    pb_id = "pb-mvp01-20200523-00001"
    named = load_parameters({"buffer_img": "mine"}).with_buffers(pb_id)
    assert (named.buffer_vis, named.buffer_img) == (f"buff-{pb_id}-vis", "mine")
    others = [Parameters().with_buffers(each) for each in ("PB-1", "pb-1", "pb-" + 61 * "9")]
    assert len({each.buffer_vis for each in others}) == 3
    assert max(len(each.buffer_vis) for each in others) == 63
    with pytest.raises(ParameterError, match='buffer_vis = "A_B": must be a DNS label'):
        load_parameters({"buffer_vis": "A_B"})


def test_stopping_rule_presets():
    automatic = StoppingRule(None, None, None, None, None, convergence=0.5)
    original = StoppingRule(5, 1000, 0.25, 0.1, 0.1, convergence=0.0)
    assert Parameters().ical.stopping == automatic
    assert load_parameters({"ical": {"preset": "original"}}).ical.stopping == original
    assert (automatic.max_nmajor, original.max_nmajor) == (12, 5)


def test_explicit_values_win_over_the_preset():
    ical = {"preset": "original", "nmajor": 9, "threshold": 0, "convergence": 0.5}
    rule = load_parameters({"ical": ical}).ical.stopping
    assert rule == StoppingRule(9, 1000, 0.25, 0.0, 0.1, convergence=0.5)


def test_hash_knows_values_not_spelling():
    reference = parameter_hash(Parameters())
    assert len(reference) == 16
    assert parameter_hash(load_parameters('{"rmax": 750, "ical": {"nmoment": 2}}')) == reference
    assert parameter_hash(load_parameters({"rmax": 750.5})) != reference


def test_hash_leaves_out_who_works_and_where_products_go():
    names = {"buffer_vis": "a", "buffer_img": "b", "buffer_class": "fast.nvme", "retain": False}
    sizes = {"buffer_vis_size": "1.5T", "buffer_img_size": "500Gi"}
    elsewhere = load_parameters({"n_workers": 7} | names | sizes)
    assert parameter_hash(elsewhere) == parameter_hash(Parameters())


# --- what is refused, in which words ---


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({"nfreqwin": 0}, "nfreqwin = 0: must be an integer from 1 to 65536"),
        ({"nfreqwin": 8.0}, "nfreqwin = 8.0: must be an integer from 1 to 65536"),
        ({"ntimes": 0}, "ntimes = 0: must be an integer from 1 to 100000"),
        ({"ntimes": True}, "ntimes = true: must be an integer from 1 to 100000"),
        ({"ntimes": "5"}, 'ntimes = "5": must be an integer from 1 to 100000'),
        ({"rmax": -750.0}, "rmax = -750.0: must be a number above 0 and at most 1e7 m"),
        ({"rmax": 0}, "rmax = 0: must be a number above 0 and at most 1e7 m"),
        ({"rmax": None}, "rmax = null: must be a number above 0 and at most 1e7 m"),
        ({"rmax": 10**400}, f"rmax = 1{'0' * 58}…: must be a number above 0 and at most 1e7 m"),
        ({"ra": math.nan}, "ra = NaN: must be a number from -360 to 360 deg"),
        ({"ra": -math.inf}, "ra = -Infinity: must be a number from -360 to 360 deg"),
        ({"ra": True}, "ra = true: must be a number from -360 to 360 deg"),
        ({"dec": -91}, "dec = -91: must be a number from -90 to 90 deg"),
        ({"freq_min": 90}, "freq_min = 90: must be a number from 1e6 to 1e12 Hz"),
        ({"freq_min": "0.9e8"}, 'freq_min = "0.9e8": must be a number from 1e6 to 1e12 Hz'),
        (
            {"freq_min": 1.2e8},
            "freq_min = 120000000.0: must be below freq_max = 110000000.0 Hz "
            "(equal only with nfreqwin = 1)",
        ),
        (
            {"freq_max": 0.9e8},
            "freq_min = 90000000.0: must be below freq_max = 90000000.0 Hz "
            "(equal only with nfreqwin = 1)",
        ),
        (
            {"dec": 70},
            "dec = 70.0: must be below 63.18 deg: SKA1-Low at latitude -26.8247 deg has the phase "
            "centre under its horizon at all hour angles from -30 to 30 deg",
        ),
        (
            {"simulation": {"hour_angle_min": 30}},
            "simulation.hour_angle_min = 30.0: must be below hour_angle_max = 30.0 deg "
            "(equal only with ntimes = 1)",
        ),
        (
            {"imaging": {"cellsize": 0.01}},
            "imaging.cellsize = 0.01: must be below 0.001381 rad, where 1024 pixels span the whole "
            "hemisphere",
        ),
        ({"buffer_vis": "Buff_1"}, f'buffer_vis = "Buff_1": must be {DNS_LABEL}'),
        ({"buffer_vis": "-b"}, f'buffer_vis = "-b": must be {DNS_LABEL}'),
        ({"buffer_img": ""}, f'buffer_img = "": must be {DNS_LABEL}'),
        ({"buffer_img": "b" * 64}, f'buffer_img = "{"b" * 58}…: must be {DNS_LABEL}'),
        ({"buffer_img": "b\n"}, f'buffer_img = "b\\n": must be {DNS_LABEL}'),
        (
            {"buffer_vis_size": "5 GB"},
            'buffer_vis_size = "5 GB": must be a size as in 500Gi, 1.5T or 1048576 or null',
        ),
        ({"retain": "no"}, 'retain = "no": must be true or false'),
        ({"nfreqwn": 3}, f"nfreqwn = 3: unknown; {TOP_LEVEL} (did you mean 'nfreqwin'?)"),
        ({"npixel": 64}, f"npixel = 64: unknown; {TOP_LEVEL} (did you mean 'imaging.npixel'?)"),
        ({"qqq": [1]}, f"qqq = [1]: unknown; {TOP_LEVEL}"),
        (
            {"ical.gain": 0.1},
            f"\"ical.gain\" = 0.1: unknown; {TOP_LEVEL} (did you mean 'ical.gain'?)",
        ),
        (
            {"imaging": {"cell_size": 0.001}},
            "imaging.cell_size = 0.001: unknown; imaging has npixel, cellsize, weighting, robust, "
            "accuracy (did you mean 'imaging.cellsize'?)",
        ),
        (
            {"spectral": None},
            "spectral = null: must be an object {…} of enabled",
        ),
        (
            {"imaging": {"npixel": 1023}},
            "imaging.npixel = 1023: must be an even integer from 32 to 65536",
        ),
        (
            {"imaging": {"weighting": "unifrm"}},
            "imaging.weighting = \"unifrm\": must be 'natural', 'uniform' or 'robust' "
            "(did you mean 'uniform'?)",
        ),
        (
            {"simulation": {"array": "ska-low"}},
            "simulation.array = \"ska-low\": must be 'ska1-low' or the path of a file, with a '.' "
            "or '/' in it (did you mean 'ska1-low'?)",
        ),
        (
            {"simulation": {"date": "2020-02-30"}},
            'simulation.date = "2020-02-30": must be a date as YYYY-MM-DD',
        ),
        (
            {"simulation": {"primary_beam": 1}},
            "simulation.primary_beam = 1: must be true or false",
        ),
        (
            {"image": {"fit": -1}, "input": {"buffer": "buff-a"}},
            "image.fit = -1: must be an integer from 0 to 20 or null",
        ),
        (
            {"image": {}},
            "input.buffer = null: must be the buffer with the sets that `image` is about",
        ),
        (
            {"input": {"buffer": "buff-a", "spw": "0"}},
            'input.spw = "0": must be left out without `image`',
        ),
        (
            {"image": {"clean": False, "mask_sigma": 5.0}, "input": {"buffer": "buff-a"}},
            "image.mask_sigma = 5.0: must be left out: no cleaning",
        ),
        (
            {"ical": {"nmajor": 0}},
            "ical.nmajor = 0: must be 'auto' or an integer from 1 to 1000",
        ),
        (
            {"ical": {"first_selfcal": 0}},
            "ical.first_selfcal = 0: must be an integer from 1 to 1000",
        ),
        (
            {"ical": {"first_selfcal": 13}},
            "ical.nmajor = 12: must be at least 13, the major cycle in which T of "
            "ical.calibration_context is first solved for with ical.first_selfcal = 13",
        ),
        (
            {"ical": {"preset": "original", "first_selfcal": 3, "calibration_context": "TB"}},
            "ical.nmajor = 5: must be at least 6, the major cycle in which B of "
            "ical.calibration_context is first solved for with ical.first_selfcal = 3",
        ),
        (
            {"imaging": {"accuracy": 1e-8}},
            "imaging.accuracy = 1e-08: must be a number from 1e-7 to 0.01",
        ),
        (
            {"ical": {"gain": "autoo"}},
            "ical.gain = \"autoo\": must be 'auto' or a number above 0 and at most 1 "
            "(did you mean 'auto'?)",
        ),
        (
            {"ical": {"scales": [0, -3]}},
            "ical.scales = [0, -3]: must be a list of integers, 1 to 16 values, each from 0 to "
            "1000 pixel",
        ),
        (
            {"ical": {"calibration_context": "GT"}},
            'ical.calibration_context = "GT": must be some of the letters T, G, B in this order, '
            "or '' for none",
        ),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_mistake_is_one_clear_line(document, line):
    assert refusal(document) == line
    assert refusal(json.dumps(document)) == line


def test_all_mistakes_are_named_at_once():
    document = {"rmax": -1, "ntimes": 0, "freq_min": 2e8, "imaging": {"npixel": 31}, "rmx": 1}
    paths = [line.partition(" = ")[0] for line in refusal(document).split("\n")]
    assert paths == ["ntimes", "rmax", "imaging.npixel", "rmx", "freq_min"]


def test_wrong_values_are_not_blamed_twice():
    assert refusal({"freq_min": math.inf, "freq_max": 1e6}).count("\n") == 0
    assert refusal({"imaging": 3, "dec": 80}).split("\n")[0].startswith("imaging = 3")


def test_conflict_is_refused_by_the_model_too():
    with pytest.raises(ValidationError, match="freq_min = 200000000"):
        Parameters(freq_min=2e8)


@pytest.mark.parametrize(
    ("hour_angles_deg", "dec_deg"), [((-30.0, 30.0), 63.17), ((60.0, 90.0), 44.66)]
)
def test_dec_limit_is_the_horizon(hour_angles_deg, dec_deg):
    # At the limit, sin φ sin δ + cos φ cos δ cos H changes sign.
    simulation = dict(zip(("hour_angle_min", "hour_angle_max"), hour_angles_deg, strict=True))
    load_parameters({"dec": dec_deg, "simulation": simulation})
    assert "under its horizon" in refusal({"dec": dec_deg + 0.03, "simulation": simulation})
    latitude, best = math.radians(-26.8247), math.radians(min(map(abs, hour_angles_deg)))
    best = 0.0 if hour_angles_deg[0] < 0 < hour_angles_deg[1] else best
    altitudes = [
        math.sin(latitude) * math.sin(dec) + math.cos(latitude) * math.cos(dec) * math.cos(best)
        for dec in (math.radians(dec_deg), math.radians(dec_deg + 0.03))
    ]
    assert altitudes[0] > 0 > altitudes[1]


def test_the_last_cycle_may_be_the_first_to_solve():
    for ical in (
        {"first_selfcal": 12},
        {"nmajor": 4, "calibration_context": "TGB"},
        {"nmajor": 1, "calibration_context": "", "first_selfcal": 9},
    ):
        load_parameters({"ical": ical})


def test_horizon_of_other_arrays_is_for_the_plan_to_judge():
    assert load_parameters({"dec": 80, "simulation": {"array": "lofar.csv"}}).dec == 80


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"ntimes": 5,\n "rmax" 300}',
            "parameters: not valid JSON at line 2, column 9: Expecting ':' delimiter",
        ),
        ("", "parameters: not valid JSON at line 1, column 1: Expecting value"),
        ("[1, 2]", "parameters = [1, 2]: must be a JSON object, {…}"),
        ('{"rmax": 1, "rmax": 2}', "rmax = 1 and 2: given 2 times; keep one"),
        (
            '{"imaging": {"npixel": 64, "npixel": 64}}',
            "imaging.npixel = 64 and 64: given 2 times; keep one",
        ),
        (
            '{"spectral": {}, "spectral": {"enabled": false}}',
            'spectral = {} and {"enabled": false}: given 2 times; keep one',
        ),
        ('{"ra": 1e999}', "ra = Infinity: must be a number from -360 to 360 deg"),
    ],
)
def test_text_that_is_no_parameter_document(text, message):
    assert refusal(text) == message


def test_unreadable_text_is_refused(tmp_path):
    assert "cannot be read" in refusal("[" * 100_000)
    assert "cannot be read" in refusal('{"ra": ' + "1" * 5000 + "}")
    path = tmp_path / "latin.json"
    path.write_bytes(b'{"simulation": {"sky": "\xe9.csv"}}')
    assert refusal(path) == f"{path}: is not UTF-8 text, so not JSON"


def test_missing_file_is_named(tmp_path):
    path = tmp_path / "absent.json"
    assert refusal(path) == f"{path}: cannot be read: No such file or directory"


def test_wrong_settings_are_refused():
    assert refusal({}, ["rmax"]) == "--set rmax: must be PATH=VALUE, as in imaging.npixel=512"
    assert refusal({}, ["ra=NaN"]) == "ra = NaN: must be a number from -360 to 360 deg"
    assert refusal({"rmax": 3}, ["rmax.x=1"]).startswith('rmax = {"x": 1}: must be a number')


# --- properties ---

VALID = st.fixed_dictionaries(
    {},
    optional={
        "n_workers": st.integers(1, 64),
        "freq_min": st.floats(5e7, 1e8) | st.integers(10**7, 10**8),
        "freq_max": st.floats(1.1e8, 3.5e8),
        "nfreqwin": st.integers(1, 100),
        "rmax": st.floats(1, 1e5),
        "dec": st.floats(-90, 60),
        "buffer_vis": st.none() | st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z"),
        "simulation": st.fixed_dictionaries(
            {},
            optional={
                "array": st.sampled_from(["ska1-low", "stations.csv"]),
                "date": st.dates().map(str),
                "seed": st.integers(0, 2**32 - 1),
                "noise": st.floats(0, 1e3),
            },
        ),
        "imaging": st.fixed_dictionaries(
            {},
            optional={
                "npixel": st.integers(16, 512).map(lambda half: 2 * half),
                "cellsize": st.floats(1e-8, 0.001),
                "accuracy": st.floats(1e-7, 1e-2),
            },
        ),
        "ical": st.fixed_dictionaries(
            {},
            optional={
                "nmajor": st.just("auto") | st.integers(4, 100),
                "threshold": st.just("auto") | st.floats(0, 10),
                "scales": st.lists(st.integers(0, 100), min_size=1, max_size=16),
                "calibration_context": st.sampled_from(["", "T", "TG", "TGB", "B"]),
            },
        ),
    },
)
VALIDATOR = jsonschema.Draft202012Validator(json_schema())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@given(VALID)
def test_valid_parameters_survive_json(document):
    VALIDATOR.validate(document)
    parameters = load_parameters(document)
    assert load_parameters(json.dumps(document)) == parameters
    again = load_parameters(parameters.model_dump_json())
    assert again == parameters
    assert parameter_hash(again) == parameter_hash(parameters)


@given(group=st.sampled_from(["", "simulation", "imaging", "ical", "spectral"]), name=st.text())
def test_unknown_keys_are_refused_and_named(group, name):
    if f"{group}.{name}".lstrip(".") in catalogue():
        return
    line = refusal({group: {name: 1}} if group else {name: 1})
    assert "\n" not in line
    assert line.startswith(f"{group}." if group else "")
    assert (name if name.isidentifier() else json.dumps(name)) in line
    assert " = 1: unknown; " in line


@given(st.sampled_from(sorted(catalogue())), JSON)
def test_any_value_is_taken_or_refused_in_our_words(path, value):
    *group, name = path.split(".")
    try:
        load_parameters({group[0]: {name: value}} if group else {name: value})
    except ParameterError as error:
        for line in str(error).split("\n"):
            assert " = " in line
            assert ": must be " in line or ": unknown; " in line
            assert "Input" not in line


# --- schema and documentation ---


def test_schema_is_committed():
    assert (ROOT / "src/batch_imaging/parameters.schema.json").read_text() == schema_text()


def test_documentation_is_committed():
    assert (ROOT / "docs/parameters.md").read_text() == parameters_markdown()


def test_schema_says_what_it_is():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"].endswith(SCHEMA_VERSION)
    assert schema["title"] == "batch_imaging"
    jsonschema.validate(json.loads(EXAMPLE.read_text()), schema)


def test_every_parameter_has_a_meaning_and_limits():
    for entry in catalogue().values():
        assert entry.description.endswith("."), entry.path
        assert entry.limits or entry.kind == "boolean", entry.path


def test_explain_parameter():
    assert explain("imaging.cellsize").splitlines() == [
        "imaging.cellsize: Side of a pixel.",
        "  type     number",
        "  unit     rad",
        "  default  0.0005",
        "  range    above 0 and at most 0.05",
    ]


def test_explain_group_lists_its_members():
    assert [line.split()[0] for line in explain("imaging").splitlines()] == [
        "imaging:",
        "npixel",
        "cellsize",
        "weighting",
        "robust",
        "accuracy",
    ]


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("imaging.cellsise", "imaging.cellsize"),
        ("cellsize", "imaging.cellsize"),
        ("imagng.robust", "imaging.robust"),
        ("Rmax", "rmax"),
    ],
)
def test_explain_suggests_the_nearest(path, meant):
    with pytest.raises(ParameterError) as caught:
        explain(path)
    assert str(caught.value) == f"{path}: no such parameter (did you mean '{meant}'?)"
