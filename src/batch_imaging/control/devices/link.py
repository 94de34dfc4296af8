"""A subarray's link to the configuration database: followed by a thread, written by commands."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from batch_imaging.control.config import Config, View
from batch_imaging.control.config.encoding import to_key
from batch_imaging.control.config.entities import Subarray
from batch_imaging.control.config.reader import subarray_path
from batch_imaging.control.devices.commands import Log, record_command
from batch_imaging.control.devices.observation import Observation, observe
from batch_imaging.errors import ConfigUnavailable, ControlError

LOG = logging.getLogger(__name__)

CHECK_S = 1.0
"""How often the database is asked whether it is there, when nothing changes."""
RETRY_S = 0.5
NOT_YET = "it has not answered yet"
SHOWN_DEADLINE_S = 1.0
ANSWER_DEADLINE_S = 1.5


class Link:
    """What the database says of one subarray, and the way to change it.

    Parameters
    ----------
    publish: called by the thread of `run` after the observation, or the problem, has changed.

    Attributes
    ----------
    observation: None until the database was reached, or if the entry cannot be read.
    problem: why the database cannot be used now; None if it can.
    """

    def __init__(self, subarray_id: str, publish: Callable[[], None]) -> None:
        self.observation: Observation | None = None
        self.problem: str | None = NOT_YET
        self._subarray_id = subarray_id
        self._publish = publish
        self._config: Config | None = None
        self._revision = 0
        self._shown = threading.Condition()
        self._closing = threading.Event()
        self._asker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="asker")

    def run(self) -> None:
        """Follow the database until `close`, through all its absences."""
        while not self._closing.is_set():
            try:
                self._follow()
            except Exception as error:  # whatever is in the database, the device lives on
                if not isinstance(error, ControlError):
                    LOG.exception("subarray %s", self._subarray_id)
                self._show_problem(error)
            self._closing.wait(RETRY_S)

    def close(self) -> None:
        """Make `run` return, within CHECK_S."""
        self._closing.set()
        self._asker.shutdown(wait=False)

    def record(self, name: str, argument: str, transaction_id: str, log: Log) -> None:
        """Write what a command changes; return when the observation has it.

        Raises
        ------
        ControlError: the command is refused, or the database does not answer.
        """
        config = self._config
        if config is None or not self._answers(config):
            raise ConfigUnavailable(
                f"Command {name} was not carried out: the configuration database cannot be reached "
                f"({self.problem or 'it does not answer'}); try again when healthState is OK"
            )
        for txn in config.txn():
            record_command(txn, self._subarray_id, name, argument, transaction_id, log)
        with self._shown:
            if not self._shown.wait_for(lambda: self._revision >= txn.revision, SHOWN_DEADLINE_S):
                log.warning("%s is recorded; the attributes will show it later", name)

    def _answers(self, config: Config) -> bool:
        """Whether the database answers well before Tango's clients give up, which is after 3 s."""
        answer = self._asker.submit(config.backend.read, to_key(self._path))
        try:
            answer.result(ANSWER_DEADLINE_S)
        except (TimeoutError, ConfigUnavailable):
            return False
        return True

    @property
    def _path(self) -> str:
        return subarray_path(self._subarray_id)

    def _follow(self) -> None:
        with Config() as config, config.follow() as follower:
            self._create_entry(config)
            self._config = config
            while not self._closing.is_set():
                self._show(follower.view)
                if not follower.wait(CHECK_S):
                    self._create_entry(config)

    def _create_entry(self, config: Config) -> None:
        """Create the subarray's entry if there is none; fails if the database is away."""
        for txn in config.txn():
            if txn.raw.value(self._path) is None:
                txn.create_subarray(self._subarray_id, Subarray())

    def _show(self, view: View) -> None:
        before = self.observation, self.problem
        if self.problem:
            LOG.info("subarray %s follows the configuration database", self._subarray_id)
        with self._shown:
            self.observation, self.problem = observe(view, self._subarray_id), None
            self._revision = view.revision
            self._shown.notify_all()
        if before != (self.observation, None):
            self._publish()

    def _show_problem(self, error: Exception) -> None:
        """Say so once in an outage; the last observation stays."""
        is_new = self._config is not None or self.problem == NOT_YET
        self._config, self.problem = None, str(error)
        if is_new:
            LOG.warning("the configuration database cannot be used: %s; trying again", error)
            self._publish()
