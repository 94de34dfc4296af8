"""Values of a chart: from the flat paths of Helm's `--set` to the tree that charts take.

    {"worker.replicas": 2, "buffers[0]": "img"}  →  {"worker": {"replicas": 2}, "buffers": ["img"]}

Only the outermost keys are paths; a backslash takes its meaning from the dot or bracket behind it.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from batch_imaging.errors import ControlError, SettingError

Tree = dict[str, Any]
STEP = re.compile(r"\[(\d{1,4})\]|(?:^|(?<!^)\.)((?:\\.|[^\\.\[\]])+)")


def nest(values: Mapping[str, Any]) -> Tree:
    """Return the tree of values whose keys may be paths; parts of one branch are merged.

    Raises
    ------
    ControlError: a path is none, two contradict each other, or a list has a gap.
    """
    tree: Tree = {}
    for path, value in values.items():
        steps = _steps(path)
        for step in reversed(steps[1:]):
            value = {step: value}
        tree = _merge(tree, {steps[0]: value}, path)
    made = _make_lists(tree, "")
    assert isinstance(made, dict)
    return made


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """Return two trees as one; in both, mappings are merged, else ``above`` wins."""
    tree = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(tree.get(key), Mapping)
        tree[key] = overlay(tree[key], value) if both else value
    return tree


def fingerprint(chart: str, values: Tree) -> str:
    """Return what differs when chart or values do, in the letters of a label."""
    text = json.dumps([chart, values], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_defaults(path: Path | None) -> dict[str, Tree]:
    """Return the values of an installation by chart, from a YAML file.

    Raises
    ------
    SettingError: the file cannot be read, or is not a mapping of charts to values.
    """
    if path is None:
        return {}
    try:
        defaults = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingError(f"{path}: cannot be read: {error}") from error
    if defaults is None:
        return {}
    if not isinstance(defaults, dict) or not all(
        isinstance(values, dict) for values in defaults.values()
    ):
        raise SettingError(f"{path}: must be a mapping of charts to mappings of values")
    return defaults


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    end = 0
    while found := STEP.match(path, end):
        index, name = found.groups()
        steps.append(int(index) if index else re.sub(r"\\(.)", r"\1", name))
        end = found.end()
    if end < len(path) or not steps or isinstance(steps[0], int):
        raise ControlError(f"value {path!r}: is not a path of names and indices, as in a.b[0]")
    return steps


def _merge(one: Any, other: Any, path: str) -> Any:
    if isinstance(one, list) and isinstance(other, dict):
        one = dict(enumerate(one))
    if not isinstance(one, dict) or not isinstance(other, dict):
        raise ControlError(f"value {path!r}: contradicts another of the values")
    merged = dict(one)
    for key, value in other.items():
        merged[key] = _merge(merged[key], value, path) if key in merged else value
    return merged


def _make_lists(node: Any, path: str) -> Any:
    """Return a tree in which mappings with numbers as keys have become lists."""
    if not isinstance(node, dict):
        return node
    made = {key: _make_lists(value, f"{path}.{key}") for key, value in node.items()}
    if not any(isinstance(key, int) for key in made):
        return made
    if set(made) != set(range(len(made))):
        raise ControlError(f"value {path.removeprefix('.')!r}: its indices are not 0, 1, 2 …")
    return [made[index] for index in range(len(made))]
