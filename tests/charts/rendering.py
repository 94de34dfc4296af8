"""Charts as Helm renders them."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

CHARTS = Path(__file__).resolve().parents[2] / "charts"
GOLDEN = Path(__file__).parent / "golden"
TIMEOUT_S = 60.0

DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LABELS = {
    *(f"app.kubernetes.io/{name}" for name in ("name", "instance", "version", "component")),
    *("app.kubernetes.io/part-of", "app.kubernetes.io/managed-by", "helm.sh/chart"),
}
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "fsGroup": 1000,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

ValuePath = tuple[str, ...]
Values = Mapping[str, Any]

needs_helm = pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not on PATH")


def helm(*arguments: str, values: Values | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm with values in JSON, however it ends."""
    given = ["--values", "-"] if values is not None else []
    return subprocess.run(
        ["helm", *arguments, *given],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def render(chart: Path, release: str, values: Values) -> str:
    done = helm("template", release, str(chart), values=values)
    assert done.returncode == 0, done.stderr
    return done.stdout


def golden(name: str, rendered: str) -> str:
    """Return the rendering that was looked at; GOLDEN=write takes this one for it."""
    file = GOLDEN / f"{name}.yaml"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(rendered)
    return file.read_text()


def objects(rendered: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(rendered) if document]


def refusal(chart: Path, values: Values) -> str:
    """Return what Helm says of values that it does not take."""
    done = helm("template", "refused", str(chart), values=values)
    assert done.returncode != 0, f"{values} were taken"
    return done.stderr


def chart_values(chart: Path) -> dict[str, Any]:
    values = yaml.safe_load((chart / "values.yaml").read_text())
    assert isinstance(values, dict)
    return values


def leaf_paths(values: Values, above: ValuePath = ()) -> Iterator[ValuePath]:
    """Yield the paths of all values that are no mappings, or empty ones."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaf_paths(value, (*above, name))
        else:
            yield (*above, name)


def with_value(values: Values, path: ValuePath, value: Any) -> dict[str, Any]:
    """Return the values with one of them changed."""
    name, *rest = path
    return {**values, name: with_value(values.get(name, {}), tuple(rest), value) if rest else value}


def pod_templates(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield metadata and spec of each pod, those that controllers make and those of tests."""
    for document in documents:
        if document["kind"] == "Pod":
            yield document
        elif "template" in document.get("spec", {}):
            yield document["spec"]["template"]
