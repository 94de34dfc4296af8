"""What `--version -v` lists, and what it says about what is not there."""

import os
import subprocess
import sys
from importlib.metadata import requires, version

import pytest

from batch_imaging import __version__
from batch_imaging.cli import main
from batch_imaging.cli.inventory import installed_parts


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder that alone is on PATH, and a function that puts a shell script there."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(name, script):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


def test_program_comes_first_and_libraries_have_their_versions(programs):
    listed = dict(installed_parts())
    assert next(iter(listed.items())) == ("batch-imaging", __version__)
    for name in ("astropy-iers-data", "distributed", "numpy", "python-casacore"):
        assert listed[name] == version(name)


def test_every_library_that_the_project_asks_for_is_listed(programs):
    listed = dict(installed_parts())
    assert all(any(text.startswith(name) for name in listed) for text in requires("batch-imaging"))


def test_commit_is_that_of_the_environment(monkeypatch, programs):
    monkeypatch.setenv("BATCH_IMAGING_REVISION", "35d4aa1")
    assert dict(installed_parts())["commit"] == "35d4aa1"
    monkeypatch.setenv("BATCH_IMAGING_REVISION", "")
    assert dict(installed_parts())["commit"] == "unknown"


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        ("etcd", "etcd Version: 3.5.1\nGo Version: go1.16.3", "3.5.1"),
        ("helm", "v3.19.0+g3d8990f", "3.19.0+g3d8990f"),
        ("helm", "v4.0.0-rc.1", "4.0.0-rc.1"),
        ("kubectl", 'Client Version: version.Info{Major:"1", GitVersion:"v1.20.2"}', "1.20.2"),
        ("kubectl", "Client Version: v1.34.1\nKustomize Version: v5.7.1", "1.34.1"),
    ],
)
def test_programs_tell_their_versions(programs, name, answer, expected):
    programs(name, f"echo '{answer}'")
    assert dict(installed_parts())[name] == expected


def test_programs_that_are_not_there_are_missing(programs):
    listed = dict(installed_parts())
    assert [listed[name] for name in ("etcd", "helm", "kubectl")] == ["missing"] * 3


def test_programs_that_fail_are_unknown_with_the_reason(programs):
    helm = programs("helm", "exit 3")
    etcd = programs("etcd", "echo none")
    listed = dict(installed_parts())
    assert listed["helm"].startswith("unknown: ")
    assert str(helm) in listed["helm"]
    assert "exit status 3" in listed["helm"]
    assert listed["etcd"] == f"unknown: {etcd} does not tell"


def test_program_that_hangs_is_given_up(programs, monkeypatch):
    programs("etcd", "exec /bin/sleep 60")
    monkeypatch.setattr("batch_imaging.cli.inventory.PROGRAM_DEADLINE_S", 0.2)
    assert "timed out" in dict(installed_parts())["etcd"]


def test_nothing_heavy_is_imported(tmp_path):
    code = (
        "import sys; from batch_imaging.cli import main; main(['--version', '-v']);"
        "print(sorted({'numpy', 'astropy', 'dask', 'tango', 'kubernetes'} & set(sys.modules)))"
    )
    environment = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    first, *_, last = done.stdout.splitlines()
    assert first.split() == ["batch-imaging", __version__]
    assert last == "[]"


def test_verbose_alone_is_refused(capsys):
    assert main(["-v", "validate"]) == 2
    assert "-v comes after the command" in capsys.readouterr().err
