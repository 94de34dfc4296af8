import pytest

from batch_imaging.control.config.encoding import to_key, to_object, to_path, to_value
from batch_imaging.errors import MalformedRecord


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/pb/a", "2/pb/a"),
        ("/pb/a/state", "3/pb/a/state"),
        ("/__test/pb/x", "3/__test/pb/x"),
        ("/a/b/c/d/e/f/g/h/i/j", "10/a/b/c/d/e/f/g/h/i/j"),
    ],
)
def test_a_key_is_the_path_after_the_number_of_its_slashes(path, key):
    assert to_key(path) == key
    assert to_path(key) == path


@pytest.mark.parametrize("key", ["", "2", "/pb/a", "3/pb/a", "x/pb", "2/pb/", "receipt/1"])
def test_other_keys_have_no_path(key):
    assert to_path(key) is None


def test_a_value_is_sorted_indented_and_not_escaped():
    entry = {"b": [1, 0.9e8], "a": {"é": None}}
    value = to_value(entry)
    assert value.decode() == (
        '{\n  "a": {\n    "é": null\n  },\n  "b": [\n    1,\n    90000000.0\n  ]\n}'
    )
    assert to_object("/a", value) == entry


@pytest.mark.parametrize(
    "value",
    [b"", b"{", b"\xff", b"[]", b'"' + "é".encode() * 40 + b'"', b"[" * 100_000],
    ids=["empty", "cut", "no text", "list", "long string", "deep"],
)
def test_what_is_not_an_object_is_malformed(value):
    with pytest.raises(MalformedRecord, match="/pb/a: is not"):
        to_object("/pb/a", value)
