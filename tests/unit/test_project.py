"""The project's own files agree with each other and hold nothing of one machine."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ["requirements.lock", "requirements-dev.lock"]
TOOLING = [*LOCKS, "pyproject.toml", "Makefile", ".ci/run", "examples/batch_imaging.json"]

SCHEME = re.compile(r"\b[a-z][a-z0-9+.-]*://", re.IGNORECASE)
HOST = re.compile(r"\b[a-z0-9-]+\.(?:com|dev|io|local|net|org)\b", re.IGNORECASE)
INDEX_OPTION = re.compile(
    r"--(?:(?:extra-)?index-url|find-links|trusted-host)\b|\btool\.uv\b|\b(?:PIP|UV)_\w*INDEX"
)
IMAGE_PATH = r"(?:etc/dask|opt/batch-imaging|tmp(?!/))\b"
MACHINE_PATH = re.compile(
    rf"(?<![\w.$)}}~*-])/(?!{IMAGE_PATH})(?:data|etc|home|mnt|opt|root|srv|tmp|Users|work)\b"
)
ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://([\w.-]+)", re.IGNORECASE)
KNOWN_HOSTS = {
    *("127.0.0.1", "json-schema.org", "keepachangelog.com", "schema.skao.int", "semver.org")
}
TEXTS = sorted(
    path
    for pattern in (
        *(
            "*.cff",
            "*.lock",
            "*.md",
            "*.toml",
            ".editorconfig",
            ".gitignore",
            "LICENSE",
            "Makefile",
        ),
        *(".ci/*", "examples/*.json", "docs/**/*.md"),
        *("src/**/*.j2", "src/**/*.json", "src/**/*.py", "benchmarks/**/*.py", "tests/**/*.py"),
    )
    for path in ROOT.glob(pattern)
)


def pins(lock):
    """The name, the requirement and the number of hashes of each entry of a lock file."""
    entries = (ROOT / lock).read_text().replace("\\\n", " ").splitlines()
    for entry in entries:
        if entry and not entry.startswith((" ", "#")):
            requirement, *hashes = entry.split("--hash=")
            yield Requirement(requirement.strip()), len(hashes)


def pinned(lock):
    return {canonicalize_name(requirement.name): requirement for requirement, _ in pins(lock)}


def group(name):
    """The requirements of a dependency group, included groups too."""
    for item in PROJECT["dependency-groups"][name]:
        if isinstance(item, dict):
            yield from group(item["include-group"])
        else:
            yield item


def declared(lock):
    wanted = list(PROJECT["project"]["dependencies"])
    if lock == "requirements-dev.lock":
        wanted += PROJECT["project"]["optional-dependencies"]["dashboard"]
        wanted += group("dev")
    return [Requirement(text) for text in wanted]


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_pins_every_declared_dependency(lock):
    locked = pinned(lock)
    for wanted in declared(lock):
        (pin,) = locked[canonicalize_name(wanted.name)].specifier
        assert pin.operator == "=="
        assert wanted.specifier.contains(pin.version), f"{wanted} against {pin}"


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_entries_are_exact_and_hashed(lock):
    for requirement, hash_count in pins(lock):
        assert [pin.operator for pin in requirement.specifier] == ["=="], requirement
        assert requirement.url is None
        assert hash_count > 0, requirement


def test_locks_agree():
    tools = pinned("requirements-dev.lock")
    for name, requirement in pinned("requirements.lock").items():
        assert tools[name].specifier == requirement.specifier


def test_build_group_repeats_the_build_system():
    assert PROJECT["dependency-groups"]["build"] == PROJECT["build-system"]["requires"]


@pytest.mark.parametrize("name", TOOLING)
@pytest.mark.parametrize("pattern", [SCHEME, HOST, INDEX_OPTION, MACHINE_PATH])
def test_tooling_names_no_index_and_no_machine(name, pattern):
    text = (ROOT / name).read_text()
    found = [line for line in text.splitlines() if pattern.search(line)]
    assert not found


def test_no_text_names_an_index_a_host_or_a_machine():
    assert len({path.relative_to(ROOT).parts[0] for path in TEXTS} & {"src", "docs", "tests"}) == 3
    found = []
    for path in TEXTS:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            unknown = set(ADDRESS.findall(line)) - KNOWN_HOSTS
            if unknown or INDEX_OPTION.search(line) or MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line}")
    assert not found


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (ADDRESS, "see https:" + "//example.org/simple"),
        (INDEX_OPTION, "pip install --extra-" + "index-url x"),
        (INDEX_OPTION, "export UV_" + "DEFAULT_INDEX=x"),
        (MACHINE_PATH, 'open("' + "/" + 'home/me/a.ms")'),
    ],
)
def test_guards_find_what_they_look_for(pattern, line):
    assert pattern.search(line)


def test_citation_has_the_version_of_the_project():
    (version,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert version == PROJECT["project"]["version"]


def test_image_has_the_version_of_the_project():
    (version,) = re.findall(r"^ARG VERSION=(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert version == PROJECT["project"]["version"]


def test_example_is_the_public_form_of_the_parameters():
    example = json.loads((ROOT / "examples/batch_imaging.json").read_text())
    assert list(example)[:4] == ["n_workers", "freq_min", "freq_max", "nfreqwin"]
