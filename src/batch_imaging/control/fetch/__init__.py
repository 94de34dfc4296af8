"""Products out of a persistent volume claim: by a short-lived pod, with checksums."""

from batch_imaging.control.fetch.kubectl import Kubectl
from batch_imaging.control.fetch.pod import FetchPod
from batch_imaging.control.fetch.transfer import Fetched, fetch

__all__ = ["FetchPod", "Fetched", "Kubectl", "fetch"]
