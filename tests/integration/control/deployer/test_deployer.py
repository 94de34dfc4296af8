"""The deployer as a process on a real etcd; it is killed between the steps."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from distributed import Client

from batch_imaging.control.config.entities import (
    Deployment,
    ProcessingBlock,
    ProcessingBlockState,
    SchedulingBlock,
    SchedulingStatus,
    Status,
)
from batch_imaging.control.deployer.local import LocalDeployer
from batch_imaging.control.deployer.local.processes import find_processes

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
SBI_ID = "sbi-test-20200523-00000"
PB_ID = "pb-test-20200523-00000"
WORKFLOW, ENGINE = f"proc-{PB_ID}-workflow", f"proc-{PB_ID}-dask"


class DeployerProcess:
    """A deployer that can be killed and started again, with what its test asks of it."""

    def __init__(self, config, folder: Path, environment: dict[str, str]) -> None:
        self.config = config
        self.folder = folder
        self._environment = environment
        self._process: subprocess.Popen | None = None

    def start(self):
        command = [sys.executable, "-m", "batch_imaging", "deployer", "--folder", str(self.folder)]
        with (self.folder / "deployer.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def end(self, number):
        if self._process:
            self._process.send_signal(number)
            self._process.wait(DEADLINE_S)
            self._process = None

    def kill(self):
        self.end(signal.SIGKILL)

    def restart(self):
        self.kill()
        self.start()

    @property
    def log(self) -> str:
        return (self.folder / "deployer.log").read_text()

    def create(self, deploy_id, chart, **values):
        args = {"chart": chart, "values": values}
        for txn in self.config.txn():
            txn.create_deployment(Deployment(id=deploy_id, type="helm", args=args))

    def delete(self, deploy_id):
        for txn in self.config.txn():
            txn.delete_deployment(deploy_id)

    def wait_for(self, deploy_id, status):
        """Return the state of a deployment when it has this status."""
        deadline = time.monotonic() + DEADLINE_S
        state = None
        for txn in self.config.txn():
            state = txn.get_deployment_state(deploy_id)
            if state is None or state.status != status:
                assert time.monotonic() < deadline, f"{deploy_id}: {state}\n{self.log}"
                txn.loop(wait=True, timeout=1.0)
        return state

    def processes(self, deploy_id) -> set[psutil.Process]:
        return find_processes(self.folder).get(deploy_id, set())

    def wait_until_gone(self, path: Path):
        """Wait until a directory, removed when all processes have ended, is gone."""
        deadline = time.monotonic() + DEADLINE_S
        while path.exists():
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)


@pytest.fixture
def deployer(config, config_prefix, etcd, tmp_path):
    deployer = DeployerProcess(config, tmp_path, etcd.environment(config_prefix))
    deployer.start()
    yield deployer
    deployer.kill()
    local = LocalDeployer(tmp_path)
    local.remove_all()
    local.close()
    assert not find_processes(tmp_path)


def create_block(config, workflow_id: str) -> None:
    block = ProcessingBlock.model_validate(
        {
            "id": PB_ID,
            "sbi_id": SBI_ID,
            "workflow": {"type": "realtime", "id": workflow_id, "version": "0.1.0"},
        }
    )
    for txn in config.txn():
        txn.create_scheduling_block(SchedulingBlock(id=SBI_ID))
        txn.create_processing_block(block)
        txn.create_processing_block_state(PB_ID, ProcessingBlockState(status=Status.STARTING))


def test_a_buffer_follows_its_entry(deployer):
    path = deployer.folder / "buffers/buff-a-vis"
    deployer.create("buff-a-vis", "buffer", size="1Mi")
    assert deployer.wait_for("buff-a-vis", "RUNNING").path == str(path)
    (path / "data").write_text("data")
    deployer.restart()
    deployer.create("buff-a-img", "buffer")  # the new one is at work as soon as this is there
    deployer.wait_for("buff-a-img", "RUNNING")
    assert (path / "data").read_text() == "data"
    deployer.delete("buff-a-vis")
    deployer.wait_until_gone(path)


def test_what_cannot_be_installed_fails_alone(deployer, config):
    for txn in config.txn():
        txn.raw.create("/deploy/malformed", {"type": 3})
        txn.raw.create("/deploy/alias", {"id": "other", "type": "helm", "args": {}})
        txn.raw.create("/deploy/foreign", {"id": "foreign", "type": "argo", "args": {}})
    deployer.create("proc-a-notebook", "jupyter")
    deployer.create("buff-b", "buffer", size="1Mi")
    deployer.wait_for("buff-b", "RUNNING")
    assert "chart 'jupyter' is unknown" in deployer.wait_for("proc-a-notebook", "FAILED").reason
    assert "its id is other" in deployer.wait_for("alias", "FAILED").reason
    for txn in config.txn():
        assert txn.get_deployment_state("foreign") is None
        assert txn.get_deployment_state("malformed") is None
    args = {"chart": "buffer", "values": {"size": "1Mi"}}
    for txn in config.txn():  # it is tried again when the entry changes
        txn.raw.update(
            "/deploy/proc-a-notebook", {"id": "proc-a-notebook", "type": "helm", "args": args}
        )
    deployer.wait_for("proc-a-notebook", "RUNNING")


def test_a_script_runs_through_crashes_of_the_deployer(deployer, config):
    create_block(config, "test_realtime")
    deployer.create(WORKFLOW, "workflow", pb_id=PB_ID)
    state = deployer.wait_for(WORKFLOW, "RUNNING")
    assert state.pods == {"workflow": "RUNNING"}
    for txn in config.txn():
        block_state = txn.get_processing_block_state(PB_ID)
        owner = txn.get_processing_block_owner(PB_ID)
        if block_state.status != Status.WAITING or owner is None:
            txn.loop(wait=True, timeout=DEADLINE_S)
        else:
            released = block_state.model_copy(update={"resources_available": True})
            txn.update_processing_block_state(PB_ID, released)
    before = deployer.processes(WORKFLOW)
    assert owner.pid in {each.pid for each in before}

    deployer.end(signal.SIGTERM)
    deployer.start()
    deployer.create("buff-c", "buffer")
    deployer.wait_for("buff-c", "RUNNING")
    assert deployer.processes(WORKFLOW) == before

    deployer.kill()  # the script ends while there is no deployer
    for txn in config.txn():
        scheduling = txn.get_scheduling_block(SBI_ID)
        finished = scheduling.model_copy(update={"status": SchedulingStatus.FINISHED})
        txn.update_scheduling_block(finished)
    psutil.wait_procs(before, timeout=DEADLINE_S)
    deployer.start()
    state = deployer.wait_for(WORKFLOW, "FINISHED")
    assert "Claimed processing block" in Path(state.log).read_text()
    deployer.delete(WORKFLOW)
    deployer.wait_until_gone(deployer.folder / "deployments" / WORKFLOW)
    assert Path(state.log).exists()


def test_a_script_that_fails_is_not_started_again(deployer, config):
    create_block(config, "no_such_workflow")
    deployer.create(WORKFLOW, "workflow", pb_id=PB_ID)
    state = deployer.wait_for(WORKFLOW, "FAILED")
    assert state.pods == {"workflow": "FAILED"}
    assert f"see {state.log}: error: " in state.reason
    said = Path(state.log).read_text()
    deployer.restart()
    deployer.create("buff-d", "buffer")
    deployer.wait_for("buff-d", "RUNNING")
    assert deployer.wait_for(WORKFLOW, "FAILED") == state
    assert Path(state.log).read_text() == said


def test_a_killed_script_has_failed(deployer, config):
    create_block(config, "test_realtime")
    deployer.create(WORKFLOW, "workflow", pb_id=PB_ID)
    deployer.wait_for(WORKFLOW, "RUNNING")
    for process in deployer.processes(WORKFLOW):
        process.kill()
    reason = deployer.wait_for(WORKFLOW, "FAILED").reason
    assert reason.startswith(("exit code 137", "killed before"))


def test_a_dask_engine_lives_and_dies_with_its_entry(deployer):
    deployer.create(
        ENGINE, "dask-ee", **{"worker.replicas": 2, "worker.resources.limits.memory": "512Mi"}
    )
    state = deployer.wait_for(ENGINE, "RUNNING")
    before = deployer.processes(ENGINE)
    deployer.restart()
    deployer.create("buff-e", "buffer")
    deployer.wait_for("buff-e", "RUNNING")
    assert before <= deployer.processes(ENGINE)
    with Client(state.scheduler, timeout=DEADLINE_S) as client:
        client.wait_for_workers(2, timeout=DEADLINE_S)
        assert client.submit(pow, 2, 10).result(DEADLINE_S) == 1024
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        assert {each["memory_limit"] for each in workers} == {512 * 2**20}
        assert {each["nthreads"] for each in workers} == {1}
        environment = client.submit(os.getenv, "MALLOC_TRIM_THRESHOLD_").result(DEADLINE_S)
        assert environment == str(128 * 2**20)
    connections = [
        each.laddr
        for process in deployer.processes(ENGINE)
        for each in process.net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    ]
    assert {address.ip for address in connections} == {"127.0.0.1"}
    assert not {8786, 8787} & {address.port for address in connections}

    deployer.kill()  # the entry goes while there is no deployer
    deployer.delete(ENGINE)
    deployer.start()
    deployer.wait_until_gone(deployer.folder / "deployments" / ENGINE)
    assert not deployer.processes(ENGINE)


def test_an_engine_without_its_scheduler_has_failed(deployer):
    deployer.create(ENGINE, "dask-ee", **{"worker.replicas": 1})
    deployer.wait_for(ENGINE, "RUNNING")
    scheduler = next(
        each
        for each in deployer.processes(ENGINE)
        if each.name() != "sh" and "distributed.cli.dask_scheduler" in each.cmdline()
    )
    scheduler.kill()
    state = deployer.wait_for(ENGINE, "FAILED")
    assert "scheduler: exit code 137, see " in state.reason
    assert state.pods["scheduler"] == "FAILED"
    deployer.delete(ENGINE)
    deployer.wait_until_gone(deployer.folder / "deployments" / ENGINE)
    assert not deployer.processes(ENGINE)


def test_an_absence_of_the_database_ends_nothing(etcd_server, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with etcd_server.config() as config:
        deployer = DeployerProcess(config, folder, etcd_server.environment())
        deployer.start()
        try:
            deployer.create("buff-f", "buffer")
            deployer.wait_for("buff-f", "RUNNING")
            etcd_server.kill()
            etcd_server.start()
            deployer.create("buff-g", "buffer")
            deployer.wait_for("buff-g", "RUNNING")
        finally:
            deployer.end(signal.SIGTERM)
