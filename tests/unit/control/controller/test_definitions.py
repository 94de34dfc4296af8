"""Workflow definitions from a file or URL."""

import json
import socket
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from batch_imaging.control.controller.definitions import DefinitionsReader, read_definitions
from batch_imaging.control.controller.resources import Capacity
from batch_imaging.errors import ParameterError

CONTENT = {
    "about": ["a test"],
    "version": {"date-time": "2020-07-24T12:00:00Z"},
    "repositories": [{"name": "here", "path": "registry.example/sdp"}],
    "workflows": [
        {
            "type": "batch",
            "id": "delivery",
            "repository": "here",
            "image": "workflow-delivery",
            "versions": ["0.1.0", "0.1.1"],
        },
    ],
}
IMAGES = {
    "batch:delivery:0.1.0": "registry.example/sdp/workflow-delivery:0.1.0",
    "batch:delivery:0.1.1": "registry.example/sdp/workflow-delivery:0.1.1",
}


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "workflows.json"
    path.write_text(json.dumps(CONTENT))
    return path


@pytest.fixture
def url(file):
    """A URL of the file."""
    handler = partial(QuietHandler, directory=str(file.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{file.name}"
        server.shutdown()
        thread.join()


def test_images_of_a_file(file):
    assert read_definitions(str(file)) == IMAGES


def test_images_of_a_url(url):
    assert read_definitions(url) == IMAGES


@pytest.mark.parametrize("change", [{"type": "stream"}, {"repository": "elsewhere"}])
def test_entries_of_unknown_type_or_repository_are_left_out(file, caplog, change):
    workflows = [CONTENT["workflows"][0] | change | {"id": "x"}, *CONTENT["workflows"]]
    file.write_text(json.dumps(CONTENT | {"workflows": workflows}))
    assert read_definitions(str(file)) == IMAGES
    assert "x is left out" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        json.dumps(CONTENT | {"extra": 1}),
        json.dumps(CONTENT | {"workflows": []}),
        json.dumps({key: CONTENT[key] for key in ("version", "workflows")}),
    ],
)
def test_what_is_wrong_is_logged_and_the_last_is_kept(file, caplog, content):
    with DefinitionsReader(str(file), refresh_s=0.02) as reader:
        file.write_text(content)
        _wait_until(lambda: "no new workflow definitions" in caplog.text)
        assert reader.definitions.images == IMAGES


def test_a_file_that_appears_later_is_read(file):
    text = file.read_text()
    file.unlink()
    with DefinitionsReader(str(file), refresh_s=0.02) as reader:
        assert not reader.definitions.are_read
        file.write_text(text)
        _wait_until(lambda: reader.definitions.images == IMAGES)
        assert reader.definitions.are_read


def test_neither_an_http_error_nor_a_refused_connection_ends_it(url, caplog):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        sources = [f"{url}.absent", f"http://127.0.0.1:{closed.getsockname()[1]}/"]
        for source in sources:
            with DefinitionsReader(source, refresh_s=300) as reader:
                assert not reader.definitions.are_read
            assert f"{source}: no new workflow definitions" in caplog.text


def test_without_a_source_there_is_nothing_to_wait_for():
    with DefinitionsReader(None, refresh_s=300) as reader:
        assert reader.definitions.are_read


@pytest.mark.parametrize(("workers", "buffers"), [(-1, None), (None, "5GB")])
def test_a_wrong_capacity_is_refused(workers, buffers):
    with pytest.raises(ParameterError, match="max_"):
        Capacity.of(workers, buffers)


def _wait_until(is_so, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
