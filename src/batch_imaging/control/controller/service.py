"""The controller as a process: look, decide, do, again."""

import logging
import os
import time
from collections.abc import Callable
from typing import NoReturn

from batch_imaging.control.config import Config, View
from batch_imaging.control.controller.actions import apply
from batch_imaging.control.controller.definitions import Definitions, DefinitionsReader
from batch_imaging.control.controller.resources import Capacity
from batch_imaging.control.controller.rules import decide
from batch_imaging.control.leader import Leader
from batch_imaging.errors import ConfigUnavailable, ControlError, SettingError

LOG = logging.getLogger(__name__)

NAME = "processing-controller"
RETRY_S = 0.5
TICK_S = 1.0
"""How often it looks when nothing has changed: for retention, definitions and the lead."""


class Controller:
    """Does what the rules say as long as it leads.

    Parameters
    ----------
    retention_s: how long the deployment of a script stays after the end of its block.
    """

    def __init__(
        self, config: Config, leader: Leader, capacity: Capacity, retention_s: float
    ) -> None:
        self._config = config
        self._leader = leader
        self._capacity = capacity
        self._retention_s = retention_s
        self._since_s: dict[str, float] = {}
        self._written_revision = 0

    def step(self, view: View, definitions: Definitions) -> None:
        """Do what is to be done, unless the view does not show yet what was done last.

        Raises
        ------
        ConfigUnavailable: the database does not answer.
        """
        if not self._leader.leads(view):
            self._written_revision = 0
            return
        if view.revision < self._written_revision:
            return
        ages = _Ages(self._since_s)
        actions = decide(
            view,
            definitions,
            self._capacity,
            lambda pb_id: ages.age_s(f"{pb_id} ended") >= self._retention_s,
            lambda pb_id: ages.age_s(f"{pb_id} starts"),
        )
        self._since_s = ages.still
        for action in actions:
            try:
                revision = apply(self._config, action, self._leader)
            except ConfigUnavailable:
                raise
            except ControlError as error:
                LOG.warning("%s: not done: %s", action, error)
            else:
                self._written_revision = max(revision, self._written_revision)
                if revision:
                    LOG.info("%s", action)


class _Ages:
    """For how long what is seen now has been seen; who is not asked for is forgotten."""

    def __init__(self, since_s: dict[str, float]) -> None:
        self._since_s = since_s
        self._now_s = time.monotonic()
        self.still: dict[str, float] = {}

    def age_s(self, what: str) -> float:
        self.still[what] = self._since_s.get(what, self._now_s)
        return self._now_s - self.still[what]


def run_controller(
    config: Config,
    capacity: Capacity,
    workflows: str | None,
    retention_s: float,
    beat: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Control processing until the process is told to end.

    Parameters
    ----------
    workflows: file or URL of definitions, read again all SDP_WORKFLOWS_REFRESH seconds (300);
        unset, SDP_WORKFLOWS_URL.
    retention_s: how long the deployment of a script stays after the end of its block.
    beat: is called whenever the loop comes round.
    """
    source = workflows or os.environ.get("SDP_WORKFLOWS_URL")
    refresh = os.environ.get("SDP_WORKFLOWS_REFRESH", "300")
    if not refresh.isdecimal():
        raise SettingError(f"SDP_WORKFLOWS_REFRESH = {refresh}: must be a whole number of seconds")
    with (
        DefinitionsReader(source, float(refresh)) as reader,
        Leader(config, NAME) as leader,
        config.follow() as follower,
    ):
        controller = Controller(config, leader, capacity, retention_s)
        is_away = False
        while True:
            beat()
            try:
                follower.wait(TICK_S)
                controller.step(follower.view, reader.definitions)
            except ControlError as error:
                if not is_away:
                    LOG.warning("%s; trying again until it does", error)
                is_away = True
                time.sleep(RETRY_S)
            else:
                if is_away:
                    LOG.warning("The configuration database answers again")
                is_away = False
