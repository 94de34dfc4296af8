"""Records that are whole or not there."""

import pytest

from batch_imaging.errors import ProductError
from batch_imaging.execution.journal import Journal, make_key, stamp_of


def test_what_is_appended_is_read(tmp_path):
    journal = Journal.read(tmp_path / "journal.jsonl")
    assert journal.records == {}
    journal.append("a", {"plane": 1})
    journal.append("b", {"plane": 2})
    journal.append("a", {"plane": 3})
    again = Journal.read(journal.path)
    assert again.records == journal.records
    assert again.records["a"]["plane"] == 3


def test_a_line_cut_at_any_byte_is_dropped(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("a", {"plane": 1})
    whole = path.read_bytes()
    journal.append("b", {"plane": 2})
    text = path.read_bytes()
    for length in range(len(whole), len(text)):
        path.write_bytes(text[:length])
        journal = Journal.read(path)
        assert list(journal.records) == ["a"]
        journal.mend()
        assert path.read_bytes() == whole


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"key": "a"}\nnonsense\n')
    with pytest.raises(ProductError, match="line 2: is no record"):
        Journal.read(path)


def test_keys_and_stamps_change_with_what_they_are_made_of(tmp_path):
    assert make_key(a=1, b=(2.0,)) == make_key(b=[2.0], a=1)
    assert make_key(a=1) != make_key(a=2)
    (tmp_path / "table.dat").write_text("x")
    before = stamp_of(tmp_path)
    (tmp_path / "table.lock").write_text("held")
    assert stamp_of(tmp_path) == before
    (tmp_path / "table.dat").write_text("xy")
    assert stamp_of(tmp_path) != before
