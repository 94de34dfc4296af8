"""Values: flat paths and trees mean the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_imaging.control.deployer.helm.values import fingerprint, nest, overlay, read_defaults
from batch_imaging.errors import ControlError, SettingError

TREE = {
    "worker": {"replicas": 2, "resources": {"limits": {"memory": "4Gi"}}},
    "buffers": ["buff-a-vis", "buff-a-img"],
    "env": {"NAME": "a, b={c}\\ \"d\"", "EMPTY": ""},
}  # fmt: skip


def test_flat_and_nested_are_the_same():
    flat = {
        "worker.replicas": 2,
        "worker.resources.limits.memory": "4Gi",
        "buffers[0]": "buff-a-vis",
        "buffers[1]": "buff-a-img",
        "env.NAME": "a, b={c}\\ \"d\"",
        "env.EMPTY": "",
    }  # fmt: skip
    mixed = {"worker": {"replicas": 2}, "buffers": ["buff-a-vis"], "env": TREE["env"]}
    mixed |= {name: flat[name] for name in ("worker.resources.limits.memory", "buffers[1]")}
    assert nest(TREE) == nest(flat) == nest(mixed) == TREE
    assert fingerprint("a", nest(mixed)) == fingerprint("a", TREE) != fingerprint("b", TREE)


@pytest.mark.parametrize(
    ("path", "tree"),
    [
        (r"nodeSelector.kubernetes\.io/arch", {"nodeSelector": {"kubernetes.io/arch": 1}}),
        (r"a\[0\]", {"a[0]": 1}),
        ("a[0].b[0][0]", {"a": [{"b": [[1]]}]}),
        ("a-b/c d", {"a-b/c d": 1}),
    ],
)
def test_paths(path, tree):
    assert nest({path: 1}) == tree


@pytest.mark.parametrize(
    "path", ["", ".a", "a.", "a..b", "[0]", "a[x]", "a[0", "a[-1]", "a[99999]"]
)
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ControlError, match="is not a path of names and indices"):
        nest({path: 1})


def test_contradictions_and_gaps_are_refused():
    with pytest.raises(ControlError, match=r"value 'a\.b': contradicts"):
        nest({"a": 1, "a.b": 2})
    with pytest.raises(ControlError, match=r"value 'a\.b': its indices are not 0, 1, 2"):
        nest({"a.b[0]": 1, "a.b[2]": 2})


def test_an_entry_goes_before_the_defaults():
    defaults = {"a": {"b": 1, "c": 2}, "d": [1, 2]}
    assert overlay(defaults, {"a": {"b": 3}, "d": []}) == {"a": {"b": 3, "c": 2}, "d": []}


@given(st.dictionaries(st.from_regex(r"[a-z]{1,3}", fullmatch=True), st.integers()))
def test_plain_names_stay_as_they_are(values):
    assert nest(values) == values


def test_defaults_of_an_installation(tmp_path):
    path = tmp_path / "defaults.yaml"
    assert read_defaults(None) == {}
    path.write_text("buffer: {class: fast}")
    assert read_defaults(path) == {"buffer": {"class": "fast"}}
    for wrong in ("[]", "buffer: 1", "{", "a: b: c"):
        path.write_text(wrong)
        with pytest.raises(SettingError, match=r"defaults\.yaml"):
            read_defaults(path)
