"""Copies of whole products, from a folder that is listed and sent as in the pod."""

import io
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from batch_imaging.control.fetch import fetch, remote, transfer
from batch_imaging.control.fetch.transfer import SourceLost
from batch_imaging.errors import ControlError, DataError, ProductError, ResourceError


class FolderSource:
    """A folder of this machine behind the program that runs in the pod.

    `damage` changes what a call yields: it gets the number of the call, the command and the bytes.
    """

    def __init__(self, root, damage=lambda number, command, content: content):
        self.root = root
        self.damage = damage
        self.asked = []

    @contextmanager
    def ask(self, command, argument):
        self.asked.append((command, argument))
        done = subprocess.run(
            [sys.executable, "-c", Path(remote.__file__).read_text(), command, str(self.root)],
            input=json.dumps(argument).encode(),
            stdout=subprocess.PIPE,
            check=False,
        )
        yield io.BytesIO(self.damage(len(self.asked), command, done.stdout))

    @property
    def sent(self):
        """Paths of the files that each request to send was about."""
        return [[path for path, _ in files] for command, files in self.asked if command == "send"]


@pytest.fixture
def buffer(tmp_path):
    """A buffer as a run leaves it."""
    root = tmp_path / "buffer"
    for path, content in {
        "image.fits": b"image" * 1000,
        "logs/a b.log": b"words",
        "empty": b"",
        "set.ms/table.dat": b"table",
        "set.ms/ANTENNA/table.dat": b"antennas",
        "set.ms/ANTENNA/table.f0": bytes(3 * 2**20),
        "half.fits.partial": b"hal",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    (root / "link").symlink_to("/proc/version")
    return root


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(transfer, "RETRY_S", 0.0)


@pytest.fixture
def destination(tmp_path):
    return tmp_path / "products"


def copy(source, destination, *patterns):
    return fetch(source, destination, patterns, lambda *_: None)


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def complete(buffer):
    return {path: content for path, content in files(buffer).items() if "partial" not in path}


class TestWhole:
    def test_all_that_is_complete_comes(self, buffer, destination):
        fetched = copy(FolderSource(buffer), destination)
        assert files(destination) == complete(buffer)
        names = ["empty", "image.fits", "logs/a b.log", "set.ms"]
        assert fetched.products == [destination / name for name in names]
        assert fetched.n_copied == 4
        assert fetched.refused == {"link": "is a link or a special file"}

    def test_progress_reaches_the_end(self, buffer, destination):
        told = []
        fetched = fetch(FolderSource(buffer), destination, (), lambda *each: told.append(each))
        assert [each[0] for each in told] == sorted(each[0] for each in told)
        assert told[-1] == ("copying", fetched.copied_bytes, fetched.copied_bytes)

    def test_what_is_equal_is_not_copied_again(self, buffer, destination):
        copy(FolderSource(buffer), destination)
        (destination / "image.fits").write_bytes(b"other" * 1000)
        (destination / "set.ms/ANTENNA/table.f0").unlink()
        (destination / "notes.txt").write_text("mine")
        source = FolderSource(buffer)
        fetched = copy(source, destination)
        assert fetched.n_copied == 2
        table = ["set.ms/ANTENNA/table.dat", "set.ms/ANTENNA/table.f0", "set.ms/table.dat"]
        assert source.sent == [["image.fits", *table]]
        assert files(destination) == complete(buffer) | {"notes.txt": b"mine"}

    @pytest.mark.parametrize(
        ("patterns", "expected"),
        [
            (["*.fits"], ["image.fits"]),
            (["*.ms"], ["set.ms"]),
            (["logs"], ["logs/a b.log"]),
            (["*.log", "empty"], ["empty", "logs/a b.log"]),
        ],
    )
    def test_only_what_matches(self, buffer, destination, patterns, expected):
        fetched = copy(FolderSource(buffer), destination, *patterns)
        assert fetched.products == [destination / name for name in expected]

    def test_no_part_of_a_measurement_set(self, buffer, destination):
        with pytest.raises(DataError, match=r"matches \*\.f0; on top there are empty, half"):
            copy(FolderSource(buffer), destination, "*.f0")
        assert not destination.exists()

    def test_an_empty_buffer(self, tmp_path, destination):
        (tmp_path / "lost+found").mkdir()
        source = FolderSource(tmp_path / "nothing")
        source.root.mkdir()
        with pytest.raises(DataError, match="empty"):
            copy(source, destination)


class TestBrokenStreams:
    def test_only_what_is_missing_is_asked_for_again(self, buffer, destination):
        def cut(number, command, content):
            return content[: 5000 + 2**20] if number == 2 else content

        source = FolderSource(buffer, cut)
        copy(source, destination)
        assert files(destination) == complete(buffer)
        first, second = source.sent
        assert second == first[first.index("set.ms/ANTENNA/table.f0") :]

    def test_a_changed_byte_is_found(self, buffer, destination):
        def change(number, command, content):
            return b"X" + content[1:] if number == 2 else content

        source = FolderSource(buffer, change)
        copy(source, destination)
        assert files(destination) == complete(buffer)
        assert source.sent[1] == ["image.fits"]

    def test_a_list_that_is_cut_is_made_again(self, buffer, destination):
        copy(FolderSource(buffer, lambda n, _, all_: all_[:-9] if n < 3 else all_), destination)
        assert files(destination) == complete(buffer)

    def test_a_list_that_is_always_cut(self, buffer, destination):
        with pytest.raises(SourceLost, match="cut short"):
            copy(FolderSource(buffer, lambda n, _, all_: all_[:-9]), destination)

    def test_what_never_comes_leaves_nothing_behind(self, buffer, destination):
        source = FolderSource(buffer, lambda _, c, all_: all_[:6000] if c == "send" else all_)
        with pytest.raises(ProductError, match=r"3 tries, of set\.ms: .*cut short"):
            copy(source, destination)
        expected = complete(buffer)
        assert files(destination) == {
            path: expected[path] for path in expected if not path.startswith("set.ms")
        }

    def test_a_lost_source_and_ctrl_c_leave_nothing_behind(self, buffer, destination):
        for error in (ControlError("the pod has ended"), KeyboardInterrupt()):

            def end(number, command, content, error=error):
                if command == "send":
                    raise error
                return content

            with pytest.raises(type(error)):
                copy(FolderSource(buffer, end), destination)
            assert files(destination) == {}

    def test_leftovers_of_a_killed_copy_do_not_get_into_the_products(self, buffer, destination):
        (destination / "set.ms.partial").mkdir(parents=True)
        (destination / "set.ms.partial/stale").write_text("stale")
        copy(FolderSource(buffer), destination)
        assert files(destination) == complete(buffer)


class ListedSource:
    """A source that says it had one file of some path."""

    def __init__(self, path, size=0, product=None):
        self.file = {"path": path, "size": size, "sha256": "0", "product": product or path}

    @contextmanager
    def ask(self, command, argument):
        assert command == "list"
        lines = [{"bytes": 0, "names": []}, self.file, {"end": 1}]
        yield io.BytesIO("".join(f"{json.dumps(line)}\n" for line in lines).encode())


class TestRefused:
    @pytest.mark.parametrize("path", ["/usr/x", "../x", "a/../../x", "link/x"])
    def test_paths_that_lead_out(self, tmp_path, destination, path):
        destination.mkdir()
        (destination / "link").symlink_to(tmp_path)
        with pytest.raises(DataError, match="leads out of"):
            copy(ListedSource(path), destination)

    def test_products_that_lead_out(self, destination):
        with pytest.raises(DataError, match="leads out of"):
            copy(ListedSource("a/b", product="/usr"), destination)

    def test_more_than_there_is_room_for(self, destination):
        with pytest.raises(ResourceError, match="1024Ei are to be copied"):
            copy(ListedSource("a", 2**70), destination)

    def test_a_destination_that_is_a_file(self, buffer, destination):
        destination.write_text("mine")
        with pytest.raises(ProductError, match="choose another destination"):
            copy(FolderSource(buffer), destination)
