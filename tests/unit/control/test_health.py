"""What probes are told."""

from http.client import HTTPConnection

from batch_imaging.control import health
from batch_imaging.control.health import Health


def status_of(port, path="/health"):
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def test_a_loop_that_does_not_come_round_is_not_healthy(monkeypatch):
    with Health(0) as served:
        assert status_of(served.port) == 200
        assert status_of(served.port, "/other") == 404
        monkeypatch.setattr(health, "SILENT_S", -1.0)
        assert status_of(served.port) == 503


def test_without_a_port_nothing_is_served():
    with Health(None) as silent:
        silent.beat()
        assert silent.port is None
