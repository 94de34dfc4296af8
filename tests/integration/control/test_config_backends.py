"""The configuration database behaves the same in etcd and in memory."""

import json
import logging
import threading
import time

import pytest

from batch_imaging.control.config import Config, MemoryBackend
from batch_imaging.control.config.entities import (
    Deployment,
    DeploymentState,
    DeploymentStatus,
    Owner,
    ProcessingBlock,
    ProcessingBlockState,
    SchedulingBlock,
    Status,
    Subarray,
    WorkflowDefinition,
    WorkflowName,
)
from batch_imaging.errors import (
    ConfigCollision,
    ConfigVanished,
    ControlError,
    MalformedRecord,
    OwnershipLost,
)

NAME = WorkflowName(type="batch", id="batch_imaging", version="0.1.0")
LONG_S = 20.0


@pytest.fixture(params=["memory", "etcd"])
def connect(request, config_prefix):
    """A function that returns another client of the same database."""
    opened = []
    if request.param == "memory":
        store = MemoryBackend()

        def make(**settings):
            return Config(store, config_prefix, **settings)
    else:
        etcd = request.getfixturevalue("etcd")

        def make(**settings):
            return etcd.config(config_prefix, **settings)

    def connect(**settings) -> Config:
        opened.append(make(**settings))
        return opened[-1]

    yield connect
    for config in opened:
        config.close()


@pytest.fixture
def config(connect) -> Config:
    return connect()


def block(number: int = 0, **members) -> ProcessingBlock:
    pb_id = f"pb-test-20200523-{number:05d}"
    return ProcessingBlock(id=pb_id, sbi_id=None, workflow=NAME, **members)


def put(config: Config, path: str, value: bytes) -> None:
    """Write bytes as another program might."""
    from batch_imaging.control.config.backend import Put
    from batch_imaging.control.config.encoding import to_key

    assert config.backend.commit([], {to_key(config._prefix + path): Put(value)})


def create(config: Config, path: str, entry: dict) -> None:
    for txn in config.txn():
        txn.raw.create(path, entry)


def get(config: Config, path: str) -> dict | None:
    for txn in config.txn():
        entry = txn.raw.get(path)
    return entry


def increment(config: Config, path: str, max_retries: int = 10_000) -> None:
    for txn in config.txn(max_retries):
        txn.raw.update(path, {"n": txn.raw.get(path)["n"] + 1})


def in_threads(*functions) -> None:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


# encoding and entities


def test_a_key_counts_its_slashes_and_a_value_is_sorted_json(config, config_prefix):
    create(config, "/pb/a/state", {"b": "é", "a": [1, 0.9e8]})
    record, _ = config.backend.read(f"4{config_prefix}/pb/a/state")
    assert record.value.decode() == (
        '{\n  "a": [\n    1,\n    90000000.0\n  ],\n  "b": "é"\n}'  # no newline at the end
    )


def test_every_kind_of_entry_comes_back_as_it_was_written(config):
    entries = {
        "processing_block": block(parameters={"nfreqwin": 8}, dependencies=[{"pb_id": "pb-x"}]),
        "scheduling_block": SchedulingBlock(id="sbi-x", pb_batch=["pb-x"], max_length=600.0),
        "subarray": Subarray(state="ON", sbi_id="sbi-x"),
        "deployment": Deployment(id="proc-x", type="helm", args={"chart": "dask-ee"}),
    }
    for txn in config.txn():
        txn.create_processing_block(entries["processing_block"])
        txn.create_scheduling_block(entries["scheduling_block"])
        txn.create_subarray("01", entries["subarray"])
        txn.create_deployment(entries["deployment"])
        txn.set_deployment_state("proc-x", DeploymentState(status=DeploymentStatus.RUNNING))
        txn.set_workflow(NAME, WorkflowDefinition(image="image:1"))
    view = config.follow().view
    for txn in config.txn():
        for reader in (txn, view):
            pb_id = block().id
            assert reader.get_processing_block(pb_id) == entries["processing_block"]
            assert reader.get_scheduling_block("sbi-x") == entries["scheduling_block"]
            assert reader.get_subarray("01") == entries["subarray"]
            assert reader.get_deployment("proc-x") == entries["deployment"]
            assert reader.get_deployment_state("proc-x").status == "RUNNING"
            assert reader.get_workflow(NAME).image == "image:1"
            assert reader.list_processing_blocks() == [pb_id]
            assert reader.list_deployments() == ["proc-x"]
            assert reader.get_deployment("proc-y") is None


def test_members_of_others_survive_a_rewrite(config):
    create(config, "/sb/s", {"id": "s", "beams": ["b"], "status": "ACTIVE"})
    create(config, "/pb/p/state", {"status": "RUNNING", "last_updated": "today"})
    for txn in config.txn():
        sb = txn.get_scheduling_block("s")
        txn.update_scheduling_block(sb.model_copy(update={"scan_id": 7}))
        state = txn.get_processing_block_state("p")
        txn.update_processing_block_state("p", state.model_copy(update={"status": Status.FINISHED}))
    assert get(config, "/sb/s")["beams"] == ["b"]
    assert get(config, "/sb/s")["scan_id"] == 7
    assert get(config, "/pb/p/state") == {"status": "FINISHED", "last_updated": "today"}


def test_the_later_dialect_is_read_and_the_first_is_written(config):
    script = {"kind": "batch", "name": "batch_imaging", "version": "0.1.0"}
    new = {"pb_id": "p", "eb_id": "e", "script": script, "parameters": {}}
    create(config, "/pb/p", new | {"dependencies": [{"pb_id": "q", "kind": ["none"]}]})
    for txn in config.txn():
        read = txn.get_processing_block("p")
        txn.create_processing_block(read.model_copy(update={"id": "p2"}))
    assert get(config, "/pb/p2") == {
        "id": "p2",
        "sbi_id": "e",
        "workflow": {"type": "batch", "id": "batch_imaging", "version": "0.1.0"},
        "parameters": {},
        "dependencies": [{"pb_id": "q", "type": ["none"]}],
    }


MALFORMED = {
    "/pb/p": b"not JSON",
    "/pb/q": b'{"id": "q_q", "sbi_id": null, "workflow": {}}',
    "/pb/q/state": b'{"status": "TIRED"}',
    "/pb/q/owner": b"{}",
    "/sb/s": b'["' + "é".encode() * 40 + b'"]',
    "/subarray/01": b'{"state": 1}',
    "/deploy/d": b"[" * 100_000,
    "/deploy/d/state": b"\xff",
    "/workflow/batch:w:1": b'{"repository": "nowhere"}',
}


def read_all(reader) -> list:
    """Read every entry of MALFORMED."""
    return [
        reader.get_processing_block("p"),
        reader.get_processing_block("q"),
        reader.get_processing_block_state("q"),
        reader.get_processing_block_owner("q"),
        reader.get_scheduling_block("s"),
        reader.get_subarray("01"),
        reader.get_deployment("d"),
        reader.get_deployment_state("d"),
        reader.get_workflow(WorkflowName(type="batch", id="w", version="1")),
    ]


def test_malformed_entries_are_logged_once_and_stop_nothing(config, caplog):
    for path, value in MALFORMED.items():
        put(config, path, value)
    put(config, "/pb/", b"a key without a name")
    with caplog.at_level(logging.WARNING), config.follow() as follower:
        for _ in range(2):
            assert read_all(follower.view) == [None] * len(MALFORMED)
        assert len(caplog.messages) == len(MALFORMED)
        assert all(any(path in line for line in caplog.messages) for path in MALFORMED)
        assert follower.view.list_processing_blocks() == ["p", "q"]
    for txn in config.txn():
        assert txn.list_processing_blocks() == ["p", "q"]
        with pytest.raises(MalformedRecord, match="/subarray/01: is not a Subarray") as raised:
            txn.get_subarray("01")
        assert raised.value.path == "/subarray/01"


# transactions


def test_what_is_there_cannot_be_created_and_what_is_not_cannot_be_changed(config):
    create(config, "/a/b", {})
    for txn in config.txn():
        with pytest.raises(ConfigCollision, match="/a/b"):
            txn.raw.create("/a/b", {})
        with pytest.raises(ConfigVanished, match="/a/c"):
            txn.raw.update("/a/c", {})
        with pytest.raises(ConfigVanished, match="/a/c"):
            txn.raw.delete("/a/c", recurse=True)
        for path in ("a", "/a/"):
            with pytest.raises(ValueError, match="starts with '/'"):
                txn.raw.get(path)


def test_own_writes_are_seen_before_they_are_committed(config):
    create(config, "/a/old", {})
    for txn in config.txn():
        txn.raw.create("/a/new", {"n": 1})
        txn.raw.update("/a/new", {"n": 2})
        txn.raw.delete("/a/old")
        assert txn.raw.get("/a/new") == {"n": 2}
        assert txn.raw.list_keys("/a/") == ["/a/new"]
        assert get(config, "/a/new") is None
    assert get(config, "/a/new") == {"n": 2}
    assert get(config, "/a/old") is None


def test_a_transaction_reads_one_moment(config, connect):
    create(config, "/a/b", {"n": 1})
    create(config, "/a/c", {"n": 1})
    other = connect()
    for txn in config.txn():
        assert txn.raw.get("/a/b") == {"n": 1}
        increment(other, "/a/c")
        create(other, "/a/d", {})
        assert txn.raw.get("/a/c") == {"n": 1}
        assert txn.raw.list_keys("/a/") == ["/a/b", "/a/c"]


@pytest.mark.parametrize("disturb", ["change", "delete", "phantom"])
def test_a_body_runs_again_if_what_it_has_read_or_listed_is_different(config, connect, disturb):
    create(config, "/a/b", {"n": 1})
    other, attempts = connect(), 0
    for txn in config.txn():
        attempts += 1
        seen = txn.raw.list_keys("/a/")
        if disturb == "change":
            txn.raw.get("/a/b")
        txn.raw.create("/result", {"seen": seen}) if not get(other, "/result") else None
        if attempts == 1 and disturb == "change":
            increment(other, "/a/b")
        elif attempts == 1:
            for another in other.txn():
                if disturb == "delete":
                    another.raw.delete("/a/b")
                else:
                    another.raw.create("/a/c", {})
    assert attempts == 2
    expected = {"change": ["/a/b"], "delete": [], "phantom": ["/a/b", "/a/c"]}
    assert get(config, "/result") == {"seen": expected[disturb]}


def test_it_gives_up_when_it_loses_every_race(config, connect):
    create(config, "/a/b", {"n": 0})
    other = connect()
    with pytest.raises(ControlError, match="did not succeed after 3 retries"):  # noqa: PT012
        for txn in config.txn(max_retries=3):
            n = txn.raw.get("/a/b")["n"]
            increment(other, "/a/b")
            txn.raw.update("/a/b", {"n": n + 100})
    assert get(config, "/a/b") == {"n": 4}


def test_no_increment_of_two_clients_is_lost(config, connect):
    create(config, "/a/b", {"n": 0})

    def count(client: Config) -> None:
        for _ in range(100):
            increment(client, "/a/b")

    in_threads(lambda: count(config), lambda: count(connect()))
    assert get(config, "/a/b") == {"n": 200}


def test_a_deletion_takes_what_is_below_and_not_what_is_beside(config):
    for path in ("/deploy/x", "/deploy/x/state", "/deploy/x/a/b/c", "/deploy/xy"):
        create(config, path, {})
    for txn in config.txn():
        txn.delete_deployment("x")
    with config.follow() as follower:
        assert list(follower.view._records) == ["/deploy/xy"]


# waiting


def loop_until_stop(config: Config, other: Config, read, change, wakes: bool) -> int:
    """Return how often a waiting body runs until it has seen /stop, with a change in between."""
    create(config, "/a/b", {"n": 0})
    runs = 0

    def wait_for_run(number: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while runs < number and time.monotonic() < deadline:
            time.sleep(0.01)

    def disturb() -> None:
        wait_for_run(1, LONG_S)
        change(other)
        wait_for_run(2, LONG_S if wakes else 0.3)
        create(other, "/stop", {})

    thread = threading.Thread(target=disturb)
    thread.start()
    for txn in config.txn():
        read(txn)
        runs += 1
        if txn.raw.get("/stop") is None:
            txn.loop(wait=True)
    thread.join(60)
    return runs


@pytest.mark.parametrize(
    ("read", "change", "runs"),
    [
        ("get", "rewrite", 3),
        ("list", "rewrite", 2),  # /stop alone wakes it
        ("list", "add", 3),
        ("list", "remove", 3),
    ],
)
def test_a_body_that_waits_wakes_for_what_it_has_read(config, connect, read, change, runs):
    reads = {
        "get": lambda txn: txn.raw.get("/a/b"),
        "list": lambda txn: txn.raw.list_keys("/a/"),
    }

    def remove(client: Config) -> None:
        for txn in client.txn():
            txn.raw.delete("/a/b")

    changes = {
        "rewrite": lambda client: increment(client, "/a/b"),
        "add": lambda client: create(client, "/a/c", {}),
        "remove": remove,
    }
    seen = loop_until_stop(config, connect(), reads[read], changes[change], wakes=runs == 3)
    assert seen == runs


def test_a_body_that_waits_runs_again_after_its_time(config):
    runs = 0
    for txn in config.txn():
        runs += 1
        txn.raw.get("/a/b")
        if runs < 3:
            txn.loop(wait=True, timeout=0.05)
    assert runs == 3


# ownership


def test_of_twenty_claims_one_wins(config, connect):
    for txn in config.txn():
        txn.create_processing_block(block())
    winners, losers = [], []

    def claim(number: int) -> None:
        client = connect(owner=Owner(command=["script"], hostname="here", pid=number))
        try:
            for txn in client.txn():
                txn.take_processing_block(block().id, client.client_lease)
            winners.append(number)
        except ConfigCollision:
            losers.append(number)

    in_threads(*(lambda n=number: claim(n) for number in range(20)))
    assert (len(winners), len(losers)) == (1, 19)
    for txn in config.txn():
        assert txn.get_processing_block_owner(block().id).pid == winners[0]
        with pytest.raises(OwnershipLost, match=f"process {winners[0]} on here"):
            txn.check_processing_block_owner(block().id)


def test_ownership_ends_with_the_client(config, connect):
    for txn in config.txn():
        txn.create_processing_block(block())
    owner = connect()
    for txn in owner.txn():
        txn.take_processing_block(block().id, owner.client_lease)
    with config.follow() as follower:
        assert follower.view.get_processing_block_owner(block().id) == owner.owner
        owner.close()
        assert follower.wait(LONG_S)
        assert follower.view.get_processing_block_owner(block().id) is None
        assert follower.view.get_processing_block(block().id) is not None


def test_nothing_can_be_written_under_a_lease_that_is_gone(config):
    lease = config.lease()
    lease.revoke()
    lease.revoke()
    with pytest.raises(ControlError, match="lease"):  # noqa: PT012
        for txn in config.txn():
            txn.raw.create("/a", {}, lease)
    create(config, "/a", {})


# following


def test_a_follower_sees_everything_in_order(config, connect):
    writer = connect()
    create(writer, "/a/b", {"n": 0})
    with config.follow() as follower:
        assert json.loads(follower.view.value("/a/b")) == {"n": 0}
        assert not follower.wait(0)
        seen = []
        thread = threading.Thread(target=lambda: [increment(writer, "/a/b") for _ in range(50)])
        thread.start()
        while not seen or seen[-1] < 50:
            assert follower.wait(LONG_S)
            assert follower.changed == {"/a/b"}
            seen.append(json.loads(follower.view.value("/a/b"))["n"])
        thread.join()
        assert seen == sorted(seen)
        for txn in writer.txn():
            txn.raw.delete("/a/b")
        assert follower.wait(LONG_S)
        assert "/a/b" not in follower.view


def test_closing_a_follower_ends_its_wait(config):
    follower = config.follow()
    ended = threading.Event()
    thread = threading.Thread(target=lambda: (follower.wait(LONG_S), ended.set()))
    thread.start()
    follower.close()
    thread.join(LONG_S)
    assert ended.is_set()


def test_hundreds_of_finished_blocks_are_in_nobodys_way(config):
    for number in range(500):
        done = block(number)
        for txn in config.txn():
            txn.create_processing_block(done)
            txn.create_processing_block_state(done.id, ProcessingBlockState(status=Status.FINISHED))
    with config.follow() as follower:
        assert len(follower.view.list_processing_blocks()) == 500
    for txn in config.txn():
        pb_id = txn.new_processing_block_id("test")
        txn.create_processing_block(block().model_copy(update={"id": pb_id}))
        state = txn.get_processing_block_state(done.id)
        txn.update_processing_block_state(done.id, state.model_copy(update={"reason": "because"}))
    for txn in config.txn():
        txn.delete_processing_block(block(7).id)
    for txn in config.txn():
        assert txn.list_processing_blocks()[-1] > block(498).id
