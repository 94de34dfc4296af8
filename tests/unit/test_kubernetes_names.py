"""Names of releases and of what is in them; the charts make the same."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_imaging.kubernetes_names import engine_name, kubernetes_name, release_name


@pytest.mark.parametrize(
    ("text", "limit", "name"),
    [
        ("proc-pb-a-20200523-00000-dask", 53, "proc-pb-a-20200523-00000-dask"),
        ("proc-PB-a", 53, "proc-pb-a-1a57c119"),
        ("a" * 60, 53, "a" * 44 + "-11ee3912"),
        ("a/b.c", 63, "a-b-c-c0620514"),
        ("-", 63, "3973e022"),
    ],
)
def test_a_name_keeps_what_it_can(text, limit, name):
    assert kubernetes_name(text, limit) == name


@given(st.text(min_size=1, max_size=120))
def test_every_text_becomes_a_name_that_stays_itself(text):
    name = release_name(text)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?", name)
    assert release_name(name) == name


def test_different_ids_have_different_names():
    assert len({release_name(each) for each in ("Proc-a", "proc-A", "PROC-A", "proc-a")}) == 4


def test_an_engine_is_named_after_its_release():
    assert engine_name("proc-pb-a-dask") == "proc-pb-a-dask"
    assert engine_name("engine") == "engine-dask"
    assert len(engine_name("e" * 53)) == 53
