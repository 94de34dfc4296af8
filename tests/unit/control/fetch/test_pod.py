"""What a pod's status says, and which image is taken."""

import pytest

from batch_imaging.control.fetch.kubectl import Kubectl
from batch_imaging.control.fetch.pod import FATAL, find_image, trouble
from batch_imaging.control.fetch.transfer import SourceLost
from batch_imaging.errors import ControlError, ParameterError


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (
            {"phase": "Pending", "containerStatuses": [
                {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}}}
            ]},
            ("ImagePullBackOff", "Back-off"),
        ),
        (
            {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                 "message": "0/1 nodes are available"}
            ]},
            ("Unschedulable", "0/1 nodes are available"),
        ),
        (
            {"phase": "Failed", "reason": "DeadlineExceeded", "message": "Pod was active too long",
             "containerStatuses": [{"state": {"terminated": {"exitCode": 137}}}]},
            ("DeadlineExceeded", "Pod was active too long"),
        ),
        ({"phase": "Pending"}, ("Pending", "")),
        ({}, ("Unknown", "")),
    ],
)  # fmt: skip
def test_trouble_is_the_most_particular_reason(status, expected):
    assert trouble({"status": status}) == expected


def test_what_mends_itself_is_not_fatal():
    assert not {"ContainerCreating", "PodInitializing", "Unschedulable", "Pending"} & FATAL


class Namespaces(Kubectl):
    """A cluster with workloads by namespace, of which all together may be forbidden."""

    def __init__(self, here, elsewhere):
        super().__init__("sdp")
        self.here = here
        self.elsewhere = elsewhere

    def get(self, *arguments):
        found = self.elsewhere if "--all-namespaces" in arguments else self.here
        if found is None:
            raise ControlError("forbidden")
        return {"items": found}


def pod(image, created):
    return {
        "metadata": {"creationTimestamp": created},
        "spec": {"containers": [{"image": image}]},
    }


def job(image, created):
    template = {"spec": {"containers": [{"image": image}]}}
    return {"metadata": {"creationTimestamp": created}, "spec": {"template": template}}


@pytest.mark.parametrize(
    ("here", "elsewhere", "image"),
    [
        ([pod("a:1", "2026-01-01"), job("a:2", "2026-01-02")], [], "a:2"),
        ([pod("a:1", "2026-01-03"), job("a:2", "2026-01-02")], None, "a:1"),
        ([], [pod("b:1", "2026-01-01")], "b:1"),
    ],
)
def test_image_of_the_newest_workload(here, elsewhere, image):
    assert find_image(Namespaces(here, elsewhere)) == image


@pytest.mark.parametrize("elsewhere", [[], None])
def test_no_image_is_found(elsewhere):
    with pytest.raises(ParameterError, match=r"namespace sdp .*--image"):
        find_image(Namespaces([], elsewhere))


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Return a function that makes a program kubectl of a shell script."""

    def make(script):
        path = tmp_path / "kubectl"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return make


class TestProgram:
    def test_arguments_and_input(self, program):
        program('printf "%s\\n" "$*"; cat')
        assert Kubectl("sdp").run("create", standard_input="pod") == "-n sdp create\npod"

    def test_failure_is_its_last_line(self, program):
        program('echo "warning" >&2; echo "Error from server (Forbidden): no" >&2; exit 1')
        with pytest.raises(ControlError, match=r"^kubectl get: \(Forbidden\): no$"):
            Kubectl("sdp").run("get")

    def test_there_is_none(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ControlError, match="not on the PATH; install it"):
            Kubectl("sdp").run("get")

    def test_one_that_hangs(self, program, monkeypatch):
        monkeypatch.setattr("batch_imaging.control.fetch.kubectl.DEADLINE_S", 0.2)
        program("exec sleep 60")
        with pytest.raises(ControlError, match="no answer within"):
            Kubectl("sdp").run("get")

    def test_stream(self, program):
        program("cat")
        with Kubectl("sdp").stream("exec", standard_input="ab\ncd") as stream:
            assert stream.readline() == b"ab\n"
            assert stream.read() == b"cd"

    def test_stream_that_stands_still(self, program, monkeypatch):
        monkeypatch.setattr("batch_imaging.control.fetch.kubectl.STALL_S", 0.2)
        program('echo "timed out" >&2; exec sleep 60')
        with (
            pytest.raises(SourceLost, match=r"nothing came for 0\.2 s \(timed out\)"),
            Kubectl("sdp").stream("exec", standard_input="") as stream,
        ):
            stream.read()
