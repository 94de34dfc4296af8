"""The command line: what it prints where, and its exit codes."""

import io
import json
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from batch_imaging import __version__
from batch_imaging.cli import main
from batch_imaging.parameters import (
    load_parameters,
    parameter_hash,
    parameters_markdown,
    schema_text,
)

EXAMPLE = str(Path(__file__).resolve().parents[2] / "examples/batch_imaging.json")


@pytest.fixture(autouse=True)
def _process_state():
    """Put back what `main` sets for its process."""
    handler, root = signal.getsignal(signal.SIGTERM), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    ours = logging.getLogger("batch_imaging")
    our_level = ours.level
    root.handlers = []
    yield
    signal.signal(signal.SIGTERM, handler)
    root.handlers = handlers
    root.setLevel(level)
    ours.setLevel(our_level)


@pytest.fixture
def call(capsys):
    def run(*arguments):
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


class _Stdin(io.StringIO):
    """Standard input whose reading raises a signal."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def read(self, *_):
        signal.raise_signal(self.number)
        return "{}"


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_begins_with_examples(call, arguments):
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    assert out.index("Examples:") < out.index("Options:") < out.index("Commands:")
    assert "batch-imaging run params.json --output products\n" in out


@pytest.mark.parametrize("command", ["run", "plan", "validate", "schema", "explain"])
def test_every_command_has_an_example(call, command):
    code, out, _ = call(command, "--help")
    assert code == 0
    assert f"    batch-imaging {command} " in out


def test_version(call):
    assert call("--version") == (0, f"batch-imaging {__version__}\n", "")


def test_schema_and_reference_page(call):
    assert call("schema") == (0, schema_text(), "")
    assert call("schema", "--markdown") == (0, parameters_markdown(), "")


def test_explain(call):
    code, out, _ = call("explain", "imaging.cellsize")
    assert code == 0
    assert "  unit     rad\n" in out


def test_validate(call, monkeypatch):
    code, out, err = call("validate", EXAMPLE)
    assert (code, err) == (0, "")
    assert out == f"{EXAMPLE}: valid (hash {parameter_hash(load_parameters(Path(EXAMPLE)))})\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"n_workers": 4}'))
    assert call("validate", "-", "--set", "ntimes=3")[0] == 0


def test_validate_looks_at_what_parameters_name(call):
    code, out, err = call("validate", EXAMPLE, "--set", "simulation.sky=no/sky.csv")
    assert (code, out) == (3, "")
    assert err.startswith("error: no/sky.csv: cannot be read")
    code, out, err = call("validate", EXAMPLE, "--set", "imaging.cellsize=0.0013")
    assert (code, out.count("\n")) == (0, 1)
    assert err.startswith("warning: imaging.cellsize = 0.0013 rad is too coarse")


def test_each_mistake_is_a_line_on_stderr(call, tmp_path):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps({"rmax": -1, "imaging": {"npixl": 64}}))
    assert call("validate", str(path)) == (
        2,
        "",
        "error: rmax = -1: must be a number above 0 and at most 1e7 m\n"
        "error: imaging.npixl = 64: unknown; imaging has npixel, cellsize, weighting, robust, "
        "accuracy (did you mean 'imaging.npixel'?)\n",
    )


def test_run_starts_nothing_when_parameters_are_wrong(call, tmp_path):
    output = tmp_path / "products"
    code, out, err = call("run", EXAMPLE, "--output", str(output), "--workers", "0")
    assert (code, out) == (2, "")
    assert err == "error: n_workers = 0: must be an integer from 1 to 10000\n"
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate"], "No such command 'simulate'."),
        (["validate"], "Missing argument 'PARAMS.json'."),
        (["validate", "absent.json"], "absent.json: cannot be read: No such file or directory"),
        (
            ["run", EXAMPLE, "-o", "x", "--engine", "cloud"],
            "Invalid value for '--engine': 'cloud' is not one of 'auto', 'local', ",
        ),
    ],
)
def test_usage_errors_end_in_2(call, arguments, message):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_interrupt_ends_in_130(call, monkeypatch):
    monkeypatch.setattr(sys, "stdin", _Stdin(signal.SIGINT))
    assert call("validate", "-") == (130, "", "")


def test_termination_unwinds_and_ends_in_143(monkeypatch):
    monkeypatch.setattr(sys, "stdin", _Stdin(signal.SIGTERM))
    with pytest.raises(SystemExit) as caught:
        main(["validate", "-"])
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("verbose", [False, True])
def test_unexpected_error_is_a_bug(call, monkeypatch, verbose):
    monkeypatch.setattr(sys, "stdin", None)
    code, out, err = call("plan", "-", *["-v"][:verbose])
    assert (code, out) == (1, "")
    assert "error: AttributeError: 'NoneType' object has no attribute 'read'\n" in err
    assert "error: this is a bug" in err
    assert ("Traceback" in err) == verbose


def test_closed_pipe_is_silent():
    code = "from batch_imaging.cli import main; main(['schema'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from batch_imaging.cli import main; main(['--help']); "
        "print(*{'numpy', 'astropy', 'dask', 'batch_imaging.parameters'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.endswith("\n\n")
