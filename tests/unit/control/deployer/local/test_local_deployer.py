"""The deployer of one machine by itself: buffers, refusals, its folder."""

import pytest

from batch_imaging.control.config.entities import Deployment
from batch_imaging.control.deployer.local import LocalDeployer
from batch_imaging.control.deployer.local.charts import Buffer
from batch_imaging.errors import ControlError, ResourceError


def deployment(deploy_id, chart, **values):
    return Deployment(id=deploy_id, type="helm", args={"chart": chart, "values": values})


@pytest.fixture
def deployer(tmp_path):
    deployer = LocalDeployer(tmp_path)
    yield deployer
    deployer.close()


def test_a_buffer_is_a_directory(deployer, tmp_path):
    deployer.install(deployment("buff-a-vis", "buffer"))
    state = deployer.state(deployment("buff-a-vis", "buffer"))
    assert state.to_object() == {"status": "RUNNING", "path": str(tmp_path / "buffers/buff-a-vis")}
    deployer.remove("buff-a-vis")
    assert not (tmp_path / "buffers/buff-a-vis").exists()


def test_files_of_an_existing_buffer_stay(deployer, tmp_path):
    data = tmp_path / "buffers/buff-a-vis/data"
    data.parent.mkdir(parents=True)
    data.write_bytes(b"data")
    deployer.install(deployment("buff-a-vis", "buffer", size="1Ki"))
    assert data.read_bytes() == b"data"
    assert deployer.state(deployment("buff-a-vis", "buffer")).status == "RUNNING"


def test_a_buffer_larger_than_the_disk_is_refused(deployer):
    with pytest.raises(ResourceError, match=r"8Ei are wanted and .* free in .*; make room"):
        deployer.install(deployment("buff-a-vis", "buffer", size="8Ei"))


def test_a_buffer_that_outgrows_its_size_has_failed_until_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr("batch_imaging.control.deployer.local.charts.MEASURE_S", 0.0)
    buffer = Buffer(tmp_path, "buff-a-vis")
    buffer.install({"size": "1Ki"})
    (buffer.path / "data").write_bytes(bytes(2048))
    assert buffer.state().status == "FAILED"
    assert "holds 2Ki, more than its size of 1Ki" in buffer.state().reason
    (buffer.path / "data").unlink()
    assert buffer.state().status == "RUNNING"
    buffer.path.rmdir()
    assert "somebody has removed" in buffer.state().reason


@pytest.mark.parametrize(
    ("chart", "values", "message"),
    [
        ("dask", {}, "chart 'dask' is unknown here; there are buffer, dask-ee, workflow"),
        ("buffer", {"size": "much"}, "much: is not a size"),
        ("workflow", {}, "do not say which pb_id"),
        ("dask-ee", {"worker.replicas": 0}, "worker.replicas = 0: must be 1 or more"),
        ("dask-ee", {"worker.replicas": "two"}, "two"),
    ],
)
def test_values_that_cannot_be_used_are_refused(deployer, tmp_path, chart, values, message):
    with pytest.raises((ControlError, ValueError), match=message):
        deployer.install(deployment("proc-pb-a-1-2-x", chart, **values))
    assert not (tmp_path / "deployments").exists()


def test_one_deployer_a_folder(deployer, tmp_path):
    with pytest.raises(ControlError, match="another deployer works in this folder"):
        LocalDeployer(tmp_path)


def test_buffers_of_earlier_are_left_alone(deployer, tmp_path, caplog):
    (tmp_path / "buffers/buff-old-img").mkdir(parents=True)
    with caplog.at_level("INFO"):
        assert deployer.recover() == set()
    assert "buff-old-img" in caplog.text
    assert (tmp_path / "buffers/buff-old-img").is_dir()


def test_what_was_not_started_entirely_is_cleared_away(deployer, tmp_path):
    (tmp_path / "deployments/proc-pb-a-1-2-dask").mkdir(parents=True)
    assert deployer.recover() == set()
    assert not any((tmp_path / "deployments").iterdir())
