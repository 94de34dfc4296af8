"""Commands that are the processes of the control system; people rarely call them themselves."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from batch_imaging.cli.options import LogForm, Verbose, log_level
from batch_imaging.logging_format import configure_logging

HealthPort = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="Serve GET /health there, for probes: 200 or 503."),
]


def workflow(
    pb_id: Annotated[str, typer.Argument(metavar="PB_ID", help="Id of the processing block.")],
    log_format: LogForm = "plain",
    verbose: Verbose = False,
) -> None:
    """Process a block of the configuration database: claim, wait, deploy, run, clean up.

    \b
    Where the database is stands in SDP_CONFIG_HOST, SDP_CONFIG_PORT and so on.
    Example:
      batch-imaging workflow pb-mvp01-20200523-00001
    """
    configure_logging(log_format, log_level(verbose))

    from batch_imaging.workflow.script import process

    process(pb_id)


def controller(
    max_workers: Annotated[
        int | None, typer.Option(help="Dask workers of all running blocks together.")
    ] = None,
    max_buffers: Annotated[
        str | None, typer.Option(help="Size of all buffers together, as in 500Gi.")
    ] = None,
    workflows: Annotated[
        str | None, typer.Option(help="File or URL of workflow definitions, besides our own.")
    ] = None,
    retention: Annotated[
        float, typer.Option(help="Seconds that the deployment of a finished script stays.")
    ] = 3600.0,
    health_port: HealthPort = None,
    log_format: LogForm = "plain",
    verbose: Verbose = False,
) -> None:
    """Start and release processing blocks, and clean up after them, until it is told to end.

    \b
    Example:
      batch-imaging controller --max-workers 16 --max-buffers 2Ti
    """
    configure_logging(log_format, log_level(verbose))

    from batch_imaging.control.config import Config
    from batch_imaging.control.controller import Capacity, run_controller
    from batch_imaging.control.health import Health

    with Config() as config, Health(health_port) as health:
        capacity = Capacity.of(max_workers, max_buffers)
        run_controller(config, capacity, workflows, retention, _Turn(health.beat))


def deployer(
    folder: Annotated[Path, typer.Option(help="Directory of buffers and logs.")],
    log_format: LogForm = "plain",
    verbose: Verbose = False,
) -> None:
    """Make deployments real as processes and directories of this machine.

    \b
    Example:
      batch-imaging deployer --folder control
    """
    configure_logging(log_format, log_level(verbose))

    from batch_imaging.control.config import Config
    from batch_imaging.control.deployer import run_deployer
    from batch_imaging.control.deployer.local import LocalDeployer

    with Config() as config:
        run_deployer(config, LocalDeployer(folder), beat=_Turn())


def helm_deployer(
    charts: Annotated[
        Path, typer.Option(envvar="BATCH_IMAGING_CHARTS", help="Folder of the charts.")
    ],
    namespace: Annotated[
        str, typer.Option(envvar="SDP_HELM_NAMESPACE", help="Namespace of the deployments.")
    ] = "sdp",
    defaults: Annotated[
        Path | None, typer.Option(help="YAML file of this installation's values by chart.")
    ] = None,
    helm: Annotated[str, typer.Option(envvar="SDP_HELM", help="The program helm.")] = "helm",
    helm_timeout: Annotated[
        float, typer.Option(envvar="SDP_HELM_TIMEOUT", min=1.0, help="Seconds for a run of it.")
    ] = 60.0,
    owner: Annotated[
        str | None,
        typer.Option(
            envvar="BATCH_IMAGING_OWNER",
            help="Whose releases it makes and removes; by default named as the namespace.",
        ),
    ] = None,
    health_port: HealthPort = None,
    log_format: LogForm = "plain",
    verbose: Verbose = False,
) -> None:
    """Make deployments real as Helm releases of one namespace of a Kubernetes cluster.

    \b
    The cluster is the one that it runs in, or that KUBECONFIG names.
    Example:
      batch-imaging helm-deployer --namespace sdp --charts charts
    """
    configure_logging(log_format, log_level(verbose))

    from batch_imaging.control.config import Config
    from batch_imaging.control.deployer import run_deployer
    from batch_imaging.control.deployer.helm import Api, Cluster, Helm, HelmDeployer, read_defaults
    from batch_imaging.control.health import Health
    from batch_imaging.control.leader import HELM_DEPLOYER

    with Config() as config, Health(health_port) as health:
        deployer = HelmDeployer(
            Cluster(namespace, Api()),
            Helm(helm, namespace, helm_timeout),
            charts,
            read_defaults(defaults),
            config,
            owner or namespace,
        )
        run_deployer(config, deployer, HELM_DEPLOYER, _Turn(health.beat))


def drain(
    deadline: Annotated[
        float, typer.Option(min=1.0, help="Seconds in which all must be gone.")
    ] = 120.0,
    log_format: LogForm = "plain",
    verbose: Verbose = False,
) -> None:
    """Cancel what has not ended and remove all deployments but buffers, to take the system down.

    \b
    Example:
      batch-imaging drain --deadline 60
    """
    configure_logging(log_format, log_level(verbose))

    from batch_imaging.control.deployer.drain import drain as drain_system
    from batch_imaging.control.standalone.connection import find_config

    with find_config() as config:
        for deploy_id in drain_system(config, deadline):
            typer.echo(deploy_id)


class _Turn:
    """Called whenever a service's loop comes round, ends it there if a signal has said so.

    An exception that a signal raises anywhere may leave a lock held, for instance in grpc, and then
    the process does not come to its end. A second signal has its usual effect.
    """

    def __init__(self, beat: Callable[[], None] = lambda: None) -> None:
        self._beat = beat
        self._heard = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)

    def __call__(self) -> None:
        self._beat()
        if self._heard:
            raise SystemExit(128 + self._heard)

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._heard = number
        signal.signal(number, signal.SIG_DFL)
