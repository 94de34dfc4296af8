"""What the configuration database's clients do while etcd, its connection or its clients die."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import grpc
import pytest
import trustme
from etcd3 import etcdrpc as rpc

from batch_imaging.control.config import Config
from batch_imaging.errors import ConfigUnavailable, ControlError

LONG_S = 30.0


def create(config: Config, path: str, entry: dict) -> None:
    for txn in config.txn():
        txn.raw.create(path, entry)


def increment(config: Config, path: str = "/n") -> None:
    for txn in config.txn(max_retries=10_000):
        txn.raw.update(path, {"n": txn.raw.get(path)["n"] + 1})


def number(config: Config, path: str = "/n") -> int:
    for txn in config.txn():
        entry = txn.raw.get(path)
    return entry["n"]


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {LONG_S} s"
        time.sleep(0.02)


class Writer(threading.Thread):
    """Increments /n of its own client until it is told to end."""

    def __init__(self, config: Config) -> None:
        super().__init__(daemon=True)
        self.config = config
        self.done = 0
        self._stop_it = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stop_it.is_set():
            increment(self.config)
            self.done += 1
            time.sleep(0.005)

    def end(self) -> int:
        """Return how often it has incremented."""
        self._stop_it.set()
        self.join(LONG_S)
        assert not self.is_alive()
        return self.done


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_no_event_and_no_write_is_lost_when_etcd_restarts(etcd_server, end):
    with etcd_server.config() as config, etcd_server.config() as other:
        create(config, "/n", {"n": 0})
        watch = config.backend.watch(2)
        writers = [Writer(config), Writer(other)]
        for _ in range(2):
            before = [writer.done for writer in writers]
            wait_for(
                lambda: all(w.done > n + 20 for w, n in zip(writers, before, strict=True)),  # noqa: B023
                "writing",
            )
            getattr(etcd_server, end)()
            time.sleep(0.3)
            etcd_server.start()
        total = sum(writer.end() for writer in writers)
        assert number(config) == total
        seen = []
        while not seen or seen[-1] < total:
            changes = watch.next(LONG_S)
            seen.append(json.loads(changes.records["1/n"].value)["n"])
        assert seen == list(range(total + 1))


@contextmanager
def breaking_proxy(port: int):
    """Yield the port of a proxy that cuts a connection before its 12th answer is passed on."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def pump(source: socket.socket, sink: socket.socket, answers: int | None) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if answers is not None:
                    answers -= 1
                    if answers == 0:
                        break
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                for arguments in ((client, server, None), (server, client, 12)):
                    thread = threading.Thread(target=pump, args=arguments, daemon=True)
                    thread.start()
                    threads.append(thread)
                opened.extend((client, server))

    opened: list[socket.socket] = []
    accepting = threading.Thread(target=serve, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join(LONG_S)
        for thread in threads:
            thread.join(LONG_S)
        for each in opened:
            each.close()


def test_a_commit_whose_answer_is_lost_counts_once(etcd, config, config_prefix):
    create(config, "/n", {"n": 0})
    with breaking_proxy(etcd.port) as port:
        cut = Config("etcd3", config_prefix, host=etcd.host, port=port)
        others = Writer(config)
        for entry in range(12):
            create(cut, f"/entry/{entry}", {})  # a second try of its own would collide
            increment(cut)
        written = others.end()
        cut.close()
    assert number(config) == written + 12


def test_a_follower_reads_again_when_its_events_are_compacted(etcd_server):
    with etcd_server.config() as config, etcd_server.config() as other, config.follow() as follower:
        create(other, "/gone", {})
        create(other, "/n", {"n": 0})
        while "/n" not in follower.view:
            assert follower.wait(LONG_S)
        etcd_server.stop()
        wait_for(lambda: not listens(etcd_server.port), "etcd's end")
        etcd_server.start()
        # what follows is gone before a watch from here on is opened
        watch_from = follower.view.revision + 1
        for _ in range(5):
            increment(other)
        for txn in other.txn():
            txn.raw.delete("/gone")
        compact(etcd_server, other.backend.read("1/n")[1])
        watch = config.backend.watch(watch_from)
        with pytest.raises(ControlError, match="forgotten"):
            watch.next(LONG_S)
        follower._watch.close()
        follower._watch = config.backend.watch(watch_from)
        while "/gone" in follower.view:
            assert follower.wait(LONG_S)
        assert json.loads(follower.view.value("/n")) == {"n": 5}
        increment(other)
        assert follower.wait(LONG_S)
        assert follower.changed == {"/n"}


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def compact(server, revision: int) -> None:
    with grpc.insecure_channel(server.endpoint) as channel:
        rpc.KVStub(channel).Compact(rpc.CompactionRequest(revision=revision))


def test_the_owner_of_a_killed_process_vanishes(etcd, config, config_prefix):
    script = """if True:
        import sys, time
        from batch_imaging.control.config import Config
        config = Config()
        lease = config.lease(2)
        for txn in config.txn():
            txn.raw.create("/pb/p/owner", config.owner.to_object(), lease)
        print("claimed", flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", script]
    with (
        config.follow() as follower,
        subprocess.Popen(
            command, env=etcd.environment(config_prefix), stdout=subprocess.PIPE
        ) as owner,
    ):
        try:
            assert owner.stdout.readline() == b"claimed\n"
            time.sleep(3)  # longer than the lease: it is refreshed
            for txn in config.txn():
                assert txn.get_processing_block_owner("p").pid == owner.pid
        finally:
            os.kill(owner.pid, signal.SIGKILL)
        deadline = time.monotonic() + LONG_S
        while "/pb/p/owner" in follower.view or not follower.view.revision:
            assert follower.wait(deadline - time.monotonic())


def test_a_lease_outlives_a_restart_and_is_lost_when_etcd_says_so(etcd_server):
    with etcd_server.config() as config:
        lease = config.lease(1)
        for txn in config.txn():
            txn.raw.create("/a", {}, lease)
        etcd_server.kill()
        time.sleep(2)  # longer than the lease
        etcd_server.start()
        time.sleep(1)
        assert not lease.lost.is_set()
        for txn in config.txn():
            assert txn.raw.get("/a") == {}
        with grpc.insecure_channel(etcd_server.endpoint) as channel:
            rpc.LeaseStub(channel).LeaseRevoke(rpc.LeaseRevokeRequest(ID=lease.id))
        assert lease.lost.wait(LONG_S)
        lease.revoke()


def test_away_for_longer_than_the_deadline_is_an_error_that_names_the_place(etcd_server):
    with etcd_server.config(deadline_s=0.3) as config:
        create(config, "/n", {"n": 0})
        etcd_server.kill()
        with pytest.raises(ConfigUnavailable, match=rf"{etcd_server.endpoint}.*SDP_CONFIG_HOST"):
            increment(config)
        with pytest.raises(ConfigUnavailable):
            etcd_server.config(deadline_s=0.3)
        etcd_server.start()
        with etcd_server.config():
            increment(config)
        assert number(config) == 1


def test_nothing_goes_on_after_close(etcd, config_prefix):
    before = set(threading.enumerate())
    config = etcd.config(config_prefix)
    config.client_lease  # noqa: B018
    config.lease()
    follower = config.follow()
    config.close()
    assert not follower.wait(0)
    wait_for(lambda: set(threading.enumerate()) <= before, "the end of all threads")


def test_a_key_that_is_not_text_is_skipped(etcd, config):
    with config.follow() as follower, grpc.insecure_channel(etcd.endpoint) as channel:
        rpc.KVStub(channel).Put(rpc.PutRequest(key=b"2/pb/\xff", value=b"{}"))
        create(config, "/a", {})
        while "/a" not in follower.view:
            assert follower.wait(LONG_S)
        with config.follow() as another:
            assert "/a" in another.view


@pytest.fixture
def secure_server(etcd, tmp_path):
    """A server with a certificate for 127.0.0.1, and the file of its authority."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    files = {name: tmp_path / f"{name}.pem" for name in ("authority", "key", "chain")}
    authority.cert_pem.write_to_path(files["authority"])
    certificate.private_key_pem.write_to_path(files["key"])
    certificate.cert_chain_pems[0].write_to_path(files["chain"])
    server = type(etcd)(tmp_path / "etcd")
    url = f"https://127.0.0.1:{server.port}"
    server.options = (
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--cert-file={files['chain']}",
        f"--key-file={files['key']}",
    )
    server.start()
    yield server, files["authority"]
    server.kill()


def test_tls_trusts_the_given_authority_alone(secure_server, tmp_path):
    server, authority = secure_server
    with server.config(protocol="https", cert=str(authority)) as config:
        create(config, "/a", {})
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)
    with pytest.raises(ConfigUnavailable, match=r"127\.0\.0\.1"):
        server.config(protocol="https", cert=str(stranger), deadline_s=0.5)
    with pytest.raises(ControlError, match=r"SDP_CONFIG_CERT = nowhere\.pem"):
        server.config(protocol="https", cert="nowhere.pem")


def test_a_password_is_asked_for_and_a_forgotten_token_is_renewed(etcd_server):
    with grpc.insecure_channel(etcd_server.endpoint) as channel:
        auth = rpc.AuthStub(channel)
        auth.UserAdd(rpc.AuthUserAddRequest(name="root", password="secret"))
        auth.RoleAdd(rpc.AuthRoleAddRequest(name="root"))
        auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="root", role="root"))
        auth.AuthEnable(rpc.AuthEnableRequest())
    with pytest.raises(ControlError, match=r"refuses: .*user name is empty"):
        etcd_server.config()
    with pytest.raises(ControlError, match=r"refuses: .*authentication failed"):
        etcd_server.config(username="root", password="guess")
    with etcd_server.config(username="root", password="secret") as config:
        create(config, "/n", {"n": 0})
        with config.follow() as follower:
            etcd_server.kill()
            etcd_server.start()
            increment(config)
            assert follower.wait(LONG_S)
            assert json.loads(follower.view.value("/n")) == {"n": 1}
