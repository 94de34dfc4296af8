"""Reading entries as entities, the same from a transaction and from a view in memory."""

from abc import ABC, abstractmethod
from typing import Any

from batch_imaging.control.config.encoding import to_object
from batch_imaging.control.config.entities import (
    AnyEntity,
    Deployment,
    DeploymentState,
    Owner,
    ProcessingBlock,
    ProcessingBlockState,
    SchedulingBlock,
    Subarray,
    WorkflowDefinition,
    WorkflowName,
    parse,
)


def pb_path(pb_id: str) -> str:
    return f"/pb/{pb_id}"


def pb_state_path(pb_id: str) -> str:
    return f"/pb/{pb_id}/state"


def pb_owner_path(pb_id: str) -> str:
    return f"/pb/{pb_id}/owner"


def sb_path(sbi_id: str) -> str:
    return f"/sb/{sbi_id}"


def subarray_path(subarray_id: str) -> str:
    return f"/subarray/{subarray_id}"


def deploy_path(deploy_id: str) -> str:
    return f"/deploy/{deploy_id}"


def deploy_state_path(deploy_id: str) -> str:
    return f"/deploy/{deploy_id}/state"


def workflow_path(name: WorkflowName) -> str:
    return f"/workflow/{name}"


class Reader(ABC):
    """Typed access. `get_…` returns None for what is absent, `list_…` the ids.

    What a malformed entry does is the subclass's choice.
    """

    @abstractmethod
    def _value(self, path: str) -> bytes | None:
        """Return the value of an entry."""

    @abstractmethod
    def _children(self, path: str) -> list[str]:
        """Return the names right under a path that ends in '/', sorted."""

    def _entry(self, path: str) -> dict[str, Any] | None:
        value = self._value(path)
        return None if value is None else to_object(path, value)

    def _entity(self, kind: type[AnyEntity], path: str) -> AnyEntity | None:
        entry = self._entry(path)
        return None if entry is None else parse(kind, path, entry)

    def list_processing_blocks(self) -> list[str]:
        return self._children("/pb/")

    def get_processing_block(self, pb_id: str) -> ProcessingBlock | None:
        return self._entity(ProcessingBlock, pb_path(pb_id))

    def get_processing_block_state(self, pb_id: str) -> ProcessingBlockState | None:
        return self._entity(ProcessingBlockState, pb_state_path(pb_id))

    def get_processing_block_owner(self, pb_id: str) -> Owner | None:
        return self._entity(Owner, pb_owner_path(pb_id))

    def list_scheduling_blocks(self) -> list[str]:
        return self._children("/sb/")

    def get_scheduling_block(self, sbi_id: str) -> SchedulingBlock | None:
        return self._entity(SchedulingBlock, sb_path(sbi_id))

    def list_subarrays(self) -> list[str]:
        return self._children("/subarray/")

    def get_subarray(self, subarray_id: str) -> Subarray | None:
        return self._entity(Subarray, subarray_path(subarray_id))

    def list_deployments(self) -> list[str]:
        return self._children("/deploy/")

    def get_deployment(self, deploy_id: str) -> Deployment | None:
        return self._entity(Deployment, deploy_path(deploy_id))

    def get_deployment_state(self, deploy_id: str) -> DeploymentState | None:
        return self._entity(DeploymentState, deploy_state_path(deploy_id))

    def list_workflows(self) -> list[str]:
        return self._children("/workflow/")

    def get_workflow(self, name: WorkflowName) -> WorkflowDefinition | None:
        return self._entity(WorkflowDefinition, workflow_path(name))
