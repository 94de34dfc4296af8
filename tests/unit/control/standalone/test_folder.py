"""The folder of a stand-alone system: whose it is, what it remembers, who is at work in it."""

import os
import threading

import pytest

from batch_imaging.control.standalone.folder import Folder, Ports, Settings, default_folder
from batch_imaging.errors import ControlError


@pytest.fixture
def settings():
    return Settings(ports=Ports(etcd=1001, etcd_peer=1002, tango=1003), max_buffers="5Gi")


def test_the_folder_comes_from_the_option_the_variable_or_the_users_state(tmp_path, monkeypatch):
    monkeypatch.delenv("BATCH_IMAGING_FOLDER", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert default_folder() == tmp_path / "state" / "batch-imaging"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".local" / "state" / "batch-imaging"
    monkeypatch.setenv("BATCH_IMAGING_FOLDER", str(tmp_path / "a" / ".." / "b"))
    assert Folder.at().path == tmp_path / "b"
    assert Folder.at(tmp_path / "c").path == tmp_path / "c"


def test_a_new_folder_is_made_and_remembers_its_settings(tmp_path, settings):
    folder = Folder(tmp_path / "deep" / "inside")
    assert folder.settings() is None
    with folder.locked():
        folder.save(settings)
    assert folder.settings() == settings
    assert sorted(os.listdir(folder.path)) == ["logs", "standalone.json"]
    with folder.locked():
        pass


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ControlError, match="not empty and not a stand-alone system"):
        Folder(tmp_path).locked().__enter__()
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("name", ["file/below", "x" * 300])
def test_an_impossible_folder_is_refused_with_the_way_out(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ControlError, match=r"cannot be used \(.*\); choose another --folder"):
        Folder(tmp_path / name).locked().__enter__()


@pytest.mark.parametrize("text", ["{", '{"ports": {}}', '{"ports": null, "colour": "red"}'])
def test_broken_settings_are_named_and_kept(tmp_path, text):
    (tmp_path / "standalone.json").write_text(text)
    with pytest.raises(ControlError, match=r"standalone\.json: cannot be read"):
        Folder(tmp_path).locked().__enter__()
    assert (tmp_path / "standalone.json").read_text() == text


def test_one_at_a_time(tmp_path):
    folder = Folder(tmp_path / "system")
    order = []

    def second():
        with folder.locked():
            order.append("second")

    thread = threading.Thread(target=second)
    with folder.locked():
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_the_second_gives_up_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr("batch_imaging.control.standalone.folder.LOCK_TIMEOUT_S", 0.0)
    folder = Folder(tmp_path)
    with folder.locked(), pytest.raises(ControlError, match="another `up` or `down`"):
        folder.locked().__enter__()


def test_the_kernel_gives_different_ports():
    assert len(set(Ports.chosen_by_the_kernel().model_dump().values())) == 3
