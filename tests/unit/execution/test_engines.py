"""Which engine runs, what its jobs say, and how it refuses; real ones are in tests/engines."""

import json
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import get_args

import pytest

from batch_imaging.cli import options
from batch_imaging.errors import EngineError, ParameterError, VersionMismatch
from batch_imaging.execution import engines
from batch_imaging.execution.engines import chosen_engine, open_executor, own_memory_bytes
from batch_imaging.execution.engines.batch_jobs import lifetime_s
from batch_imaging.execution.engines.settings import dask_settings
from batch_imaging.execution.engines.versions import PACKAGES, require_same_versions
from batch_imaging.execution.plan import make_plan
from batch_imaging.execution.submission import job_script
from batch_imaging.parameters import Engine, load_parameters

GIB = 2**30


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    inside = "SLURM_JOB_ID", "_CONDOR_JOB_AD", "KUBERNETES_SERVICE_HOST"
    for name in (*engines.ADDRESS_VARIABLES, *inside):
        monkeypatch.delenv(name, raising=False)


def test_one_list_of_names():
    of_parameters = Engine.model_fields["name"].annotation
    assert get_args(engines.EngineName) == get_args(of_parameters) == get_args(options.EngineName)


def test_auto_is_the_scheduler_of_the_environment_or_this_machine(monkeypatch):
    assert chosen_engine(Engine()) == "local"
    monkeypatch.setenv("RASCIL_DASK_SCHEDULER", "tcp://127.0.0.1:8786")
    assert chosen_engine(Engine()) == "address"
    assert chosen_engine(Engine(name="local")) == "local"
    monkeypatch.setenv("_CONDOR_JOB_AD", "ad")
    assert chosen_engine(Engine(name="htcondor")) == "local"


def test_memory_is_counted_where_the_workers_are():
    assert own_memory_bytes(Engine()) is None
    assert own_memory_bytes(Engine(name="slurm", memory="3Gi")) == 3 * GIB
    assert make_plan(
        load_parameters({"n_workers": 1000, "engine": {"name": "slurm"}}), available_bytes=4 * GIB
    )


def test_workers_retire_before_the_walltime():
    for walltime_s in (10, 60, 3600, 86_400):
        life_s, stagger_s = lifetime_s(walltime_s)
        assert walltime_s / 3 < life_s < life_s + stagger_s < walltime_s


def test_units_longer_than_the_walltime_are_warned_of():
    large = {"n_workers": 1, "ntimes": 500, "rmax": 3000.0, "imaging": {"npixel": 4096}}
    large |= {"imaging": {"npixel": 4096, "cellsize": 1e-4}}
    engine = {"name": "slurm", "walltime": "00:01:00"}
    (warning,) = [
        text
        for text in make_plan(
            load_parameters(large | {"engine": engine}), available_bytes=1000 * GIB
        ).warnings
        if "walltime" in text
    ]
    assert "ask for a longer one" in warning


def test_settings_of_the_environment_win(monkeypatch):
    assert dask_settings()["distributed.comm.retry.count"] == 1
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__RETRY__COUNT", "7")
    assert dask_settings()["distributed.comm.retry.count"] == 7


class NoOperator(BaseHTTPRequestHandler):
    """A Kubernetes that has never heard of Dask."""

    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_of_a_request):
        pass


def test_a_cluster_without_the_operator_is_told_from_one_that_is_away(tmp_path, monkeypatch):
    pytest.importorskip("dask_kubernetes")
    wanted = Engine(name="kubernetes", image="a:1")
    kubeconfig = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    with HTTPServer(("127.0.0.1", 0), NoOperator) as server:
        cluster = {"server": f"http://127.0.0.1:{server.server_port}"}
        kubeconfig.write_text(
            json.dumps(
                {
                    "clusters": [{"name": "a", "cluster": cluster}],
                    "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
                    "users": [{"name": "a", "user": {}}],
                    "current-context": "a",
                }
            )
        )
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            with (
                pytest.raises(EngineError, match=r"CRD daskclusters\.kubernetes\.dask\.org"),
                open_executor(wanted, 1, GIB),
            ):
                pass
        finally:
            server.shutdown()
            thread.join()
    kubeconfig.unlink()
    with (
        pytest.raises(EngineError, match="no cluster by KUBECONFIG"),
        open_executor(wanted, 1, GIB),
    ):
        pass


class FakeClient:
    def __init__(self, **of_worker):
        one = {"host": {"python": "3.11.7.final.0"}, "packages": dict.fromkeys(PACKAGES, "1")}
        other = {"host": one["host"], "packages": one["packages"] | of_worker}
        scheduler = {"host": one["host"], "packages": {"dask": "1", "distributed": "1"}}
        self.versions = {
            "client": one,
            "scheduler": scheduler,
            "workers": {"tcp://127.0.0.1:1": other},
        }

    def get_versions(self, packages):
        return self.versions


def test_other_versions_are_refused_with_a_table():
    require_same_versions(FakeClient())
    with pytest.raises(VersionMismatch) as caught:
        require_same_versions(FakeClient(numpy="2", batch_imaging=None))
    lines = [line.split() for line in str(caught.value).splitlines()[1:]]
    assert lines == [
        ["where", "what", "there", "here"],
        ["tcp://127.0.0.1:1", "batch_imaging", "missing", "1"],
        ["tcp://127.0.0.1:1", "numpy", "2", "1"],
    ]


@pytest.mark.parametrize(
    ("wanted", "error", "said"),
    [
        (Engine(name="slurm"), EngineError, "there is no sbatch here"),
        (Engine(name="htcondor"), EngineError, "there is no condor_submit here"),
        (Engine(name="ssh"), ParameterError, "engine.hosts"),
        (Engine(name="kubernetes"), ParameterError, "engine.image"),
        (Engine(name="address"), ParameterError, "DASK_SCHEDULER_ADDRESS or RASCIL"),
    ],
)
def test_what_is_missing_is_named(wanted, error, said, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(error, match=said), open_executor(wanted, 1, GIB):
        pass


def test_a_job_asks_for_what_the_plan_needs():
    parameters = load_parameters({"n_workers": 4})
    plan = replace(
        make_plan(parameters, available_bytes=100 * GIB),
        **{"main_bytes": GIB, "memory_bytes": 6 * GIB, "memory_limit_bytes": 2 * GIB},
    )
    folder, arguments = Path("out"), ["run", "a b.json"]
    wanted = Engine(name="slurm", queue="long", cores=2, directives=("--constraint=avx2",))
    lines = job_script(wanted, plan, arguments, folder).splitlines()
    for line in ("--ntasks=5", "--cpus-per-task=2", "--mem-per-cpu=1024M", "--partition=long"):
        assert f"#SBATCH {line}" in lines
    assert "#SBATCH --constraint=avx2" in lines
    assert lines[-1].endswith("-m batch_imaging run 'a b.json'")
    wanted = Engine(name="htcondor", directives=('requirements = Arch == "X86_64"',))
    lines = job_script(wanted, plan, arguments, folder).splitlines()
    for line in ("request_cpus = 4", "request_memory = 7680", 'requirements = Arch == "X86_64"'):
        assert line in lines
    asked = job_script(wanted.model_copy(update={"memory": "3Gi"}), plan, arguments, folder)
    assert f"request_memory = {4 * 3072 + 1024}\n" in asked
    assert "arguments = \"'-m' 'batch_imaging' 'run' 'a b.json'\"" in lines
