"""Arguments of both interfaces, right and wrong."""

import json
from copy import deepcopy

import pytest

from batch_imaging.control.devices.validation import (
    MAX_ENTRIES,
    AssignResources,
    Configure,
    InvalidArgument,
    Scan,
    read_request,
    transaction_id,
)

EARLIER = {
    "id": "sbi-test-20200523-00000",
    "max_length": 21600.0,
    "scan_types": [{"id": "science", "channels": [{"count": 8, "freq_min": 0.9e8}]}],
    "processing_blocks": [
        {
            "id": "pb-test-20200523-00000",
            "workflow": {"type": "realtime", "id": "test_realtime", "version": "0.2.0"},
            "parameters": {},
        },
        {
            "id": "pb-test-20200523-00001",
            "workflow": {"type": "batch", "id": "batch_imaging", "version": "0.1.0"},
            "parameters": {"nfreqwin": 4},
            "dependencies": [{"pb_id": "pb-test-20200523-00000", "type": ["none"]}],
        },
    ],
}
LATER = {
    "interface": "https://schema.skao.int/ska-sdp-assignres/0.3",
    "eb_id": "sbi-test-20200523-00000",
    "max_length": 21600.0,
    "scan_types": [{"scan_type_id": "science", "channels": [{"count": 8, "freq_min": 0.9e8}]}],
    "processing_blocks": [
        {
            "pb_id": "pb-test-20200523-00000",
            "workflow": {"kind": "realtime", "name": "test_realtime", "version": "0.2.0"},
            "parameters": {},
        },
        {
            "pb_id": "pb-test-20200523-00001",
            "workflow": {"kind": "batch", "name": "batch_imaging", "version": "0.1.0"},
            "parameters": {"nfreqwin": 4},
            "dependencies": [{"pb_id": "pb-test-20200523-00000", "kind": ["none"]}],
        },
    ],
}


def entries(document):
    request = read_request(AssignResources, json.dumps(document))
    blocks = [block.to_object() for block in request.entries()]
    return request.scheduling_block("01").to_object(), blocks


def mistakes(kind, document):
    """The lines of the refusal of an argument."""
    text = document if isinstance(document, str) else json.dumps(document)
    with pytest.raises(InvalidArgument) as refusal:
        read_request(kind, text)
    first, *lines = str(refusal.value).split("\n  ")
    assert first == "Configuration validation failed:"
    return lines


def changed(path, value):
    """EARLIER with one member changed; `...` removes it."""
    document = deepcopy(EARLIER)
    *parents, name = path
    place = document
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[name]
    else:
        place[name] = value
    return document


def test_both_interfaces_make_the_same_entries():
    block, processing_blocks = entries(EARLIER)
    assert entries(LATER) == (block, processing_blocks)
    assert block == {
        "id": "sbi-test-20200523-00000",
        "subarray_id": "01",
        "max_length": 21600.0,
        "scan_types": EARLIER["scan_types"],
        "pb_realtime": ["pb-test-20200523-00000"],
        "pb_batch": ["pb-test-20200523-00001"],
        "pb_receive_addresses": None,
        "current_scan_type": None,
        "scan_id": None,
        "status": "ACTIVE",
    }
    common = {"sbi_id": "sbi-test-20200523-00000", "dependencies": []}
    assert processing_blocks == [common | each for each in EARLIER["processing_blocks"]]


def test_interface_may_be_named():
    assert entries(EARLIER | {"interface": LATER["interface"][:-1] + "2"}) == entries(EARLIER)


def test_other_members_are_allowed_where_the_original_allows_them():
    entries(EARLIER | {"context": {}, "transaction_id": "txn-1"})


P0, P1 = ("processing_blocks", 0), ("processing_blocks", 1)


@pytest.mark.parametrize(
    ("path", "value", "mistake"),
    [
        (["id"], ..., "id: missing"),
        (
            ["id"],
            "a/b",
            "id = \"a/b\": must be one or more characters, none of them '/' or a space",
        ),
        (["max_length"], "long", 'max_length = "long": must be a number'),
        (["max_length"], True, "max_length = true: must be a number"),
        (["max_length"], -1, "max_length = -1: must be greater than or equal to 0"),
        (["scan_types"], [], "scan_types = []: must be a list that is not empty"),
        (["scan_types"], {}, "scan_types = {}: must be a list"),
        (["scan_types", 0], 3, "scan_types[0] = 3: must be an object"),
        (["scan_types", 0, "id"], ..., "scan_types[0].id: missing"),
        (["processing_blocks"], ..., "processing_blocks: missing"),
        (
            [*P0, "id"],
            "pb_1",
            "processing_blocks[0].id = \"pb_1\": must be 1 to 64 of A-Z, a-z, 0-9 and '-'",
        ),
        ([*P0, "x"], 1, "processing_blocks[0].x = 1: unknown member; leave it out"),
        ([*P0, "parameters"], ..., "processing_blocks[0].parameters: missing"),
        ([*P0, "workflow"], "w", 'processing_blocks[0].workflow = "w": must be an object'),
        (
            [*P0, "workflow", "type"],
            "interactive",
            "processing_blocks[0].workflow.type = \"interactive\": must be 'realtime' or 'batch'",
        ),
        (
            [*P0, "workflow", "version"],
            1,
            "processing_blocks[0].workflow.version = 1: must be a string",
        ),
        (
            [*P1, "dependencies", 0, "type"],
            [],
            "processing_blocks[1].dependencies[0].type = []: must be a list that is not empty",
        ),
        (
            [*P1, "parameters", "nfreqwin"],
            0,
            "processing_blocks[1].parameters.nfreqwin = 0: must be an integer from 1 to 65536",
        ),
        (
            [*P1, "id"],
            "pb-test-20200523-00000",
            'processing_blocks[1].id = "pb-test-20200523-00000": is there already; '
            "each must be different",
        ),
        (
            [*P1, "dependencies", 0, "pb_id"],
            "pb-test-20200523-00001",
            "processing_blocks: dependencies go in a circle: "
            "pb-test-20200523-00001 → pb-test-20200523-00001",
        ),
    ],
)
def test_mistake_is_named(path, value, mistake):
    assert mistake in mistakes(AssignResources, changed(path, value))


def test_names_of_the_other_interface_are_refused():
    found = mistakes(AssignResources, EARLIER | {"interface": LATER["interface"]})
    assert "eb_id: missing" in found
    assert "processing_blocks[1].workflow.kind: missing" in found
    assert "id: missing" in mistakes(
        AssignResources, {name: LATER[name] for name in LATER if name != "interface"}
    )


def test_all_mistakes_are_named_at_once():
    document = changed(["id"], 5) | {"max_length": None, "scan_types": []}
    assert len(mistakes(AssignResources, document)) == 3


def test_unknown_parameter_is_named_with_a_suggestion():
    (mistake,) = mistakes(AssignResources, changed([*P1, "parameters"], {"nfreqwins": 4}))
    assert mistake.startswith("processing_blocks[1].parameters.nfreqwins = 4: unknown")
    assert "did you mean 'nfreqwin'?" in mistake


def test_buffer_names_are_checked():
    document = changed([*P1, "parameters"], {"buffer_vis": "Not_a_name"})
    assert any("buffer_vis" in mistake for mistake in mistakes(AssignResources, document))


def test_circle_of_two():
    document = deepcopy(EARLIER)
    first, second = document["processing_blocks"]
    first["workflow"]["type"] = "batch"
    first["dependencies"] = [{"pb_id": second["id"], "type": ["none"]}]
    (mistake,) = mistakes(AssignResources, document)
    assert mistake.startswith("processing_blocks: dependencies go in a circle: ")


def test_dependencies_of_a_realtime_block_are_dropped():
    document = changed([*P0, "dependencies"], [{"pb_id": "pb-elsewhere", "type": ["none"]}])
    request = read_request(AssignResources, json.dumps(document))
    assert request.entries()[0].dependencies == []
    assert request.dropped_dependencies() == ["pb-test-20200523-00000"]
    assert request.targets_elsewhere() == {}


def test_more_blocks_than_fit_are_refused():
    document = deepcopy(EARLIER)
    first = document["processing_blocks"][0]
    document["processing_blocks"] = [first | {"id": f"pb-{n}"} for n in range(MAX_ENTRIES)]
    entries(document)
    document["processing_blocks"].append(first | {"id": "pb-one-more"})
    (mistake,) = mistakes(AssignResources, document)
    assert f"{MAX_ENTRIES + 1} blocks" in mistake


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("", "it is not JSON at line 1, column 1: Expecting value"),
        ("[]", "it = []: must be a JSON object, {…}"),
        ('{"id": 1, "id": 2}', "it cannot be read as JSON: id is given 2 times in one object"),
        ('{"max_length": NaN}', "it cannot be read as JSON: NaN is not a number in JSON"),
    ],
)
def test_text_that_is_no_object(text, mistake):
    assert mistakes(AssignResources, text) == [mistake]


@pytest.mark.parametrize(
    "interface",
    [
        "https://schema.skao.int/ska-sdp-assignres/0.4",
        "https://schema.skao.int/ska-sdp-scan/0.2",
        0.3,
    ],
)
def test_unknown_interface_is_refused_by_name(interface):
    (mistake,) = mistakes(AssignResources, EARLIER | {"interface": interface})
    assert mistake.startswith(f"interface = {json.dumps(interface)}: must be https://")


def test_configure():
    request = read_request(Configure, '{"scan_type": "b", "new_scan_types": [{"id": "b", "x": 1}]}')
    assert request.extend([{"id": "a"}]) == [{"id": "a"}, {"id": "b", "x": 1}]
    later = {
        "interface": "https://schema.skao.int/ska-sdp-configure/0.3",
        "scan_type": "b",
        "new_scan_types": [{"scan_type_id": "b", "x": 1}],
    }
    assert read_request(Configure, json.dumps(later)).new_scan_types == request.new_scan_types


def test_configure_names_what_does_not_fit_the_scheduling_block():
    text = '{"scan_type": "c", "new_scan_types": [{"id": "a"}]}'
    with pytest.raises(InvalidArgument) as refusal:
        read_request(Configure, text).extend([{"id": "a"}])
    assert str(refusal.value).split("\n  ")[1:] == [
        'new_scan_types[0].id = "a": is there already; each must be different',
        'scan_type = "c": must be one of a, a',
    ]
    assert mistakes(Configure, '{"new_scan_types": []}') == [
        "scan_type: missing",
        "new_scan_types = []: must be a list that is not empty",
    ]


def test_scan():
    assert read_request(Scan, '{"id": 7}').id == 7
    later = {"interface": "https://schema.skao.int/ska-sdp-scan/0.3", "scan_id": 7}
    assert read_request(Scan, json.dumps(later)).id == 7
    assert mistakes(Scan, '{"id": "7"}') == ['id = "7": must be an integer']
    assert mistakes(Scan, "{}") == ["id: missing"]


def test_transaction_id_is_the_given_one_or_new():
    assert transaction_id('{"transaction_id": "txn-x-1"}') == "txn-x-1"
    made = [transaction_id(text) for text in ("", "{}", "[", "[1]", '{"transaction_id": 5}')]
    assert len(set(made)) == 5
    assert all(each.startswith("txn-local-") for each in made)
