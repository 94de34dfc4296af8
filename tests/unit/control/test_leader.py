"""Who leads when several could."""

from contextlib import ExitStack

import pytest

from batch_imaging.control.config import Config, MemoryBackend
from batch_imaging.control.leader import Leader


class Candidate:
    """A leader with the view it decides by."""

    def __init__(self, backend: MemoryBackend) -> None:
        self.config = Config(backend, "")
        self.follower = self.config.follow()
        self.leader = Leader(self.config, "test")

    def leads(self) -> bool:
        self.follower.wait(0)
        return self.leader.leads(self.follower.view)

    def confirms(self) -> bool:
        for txn in self.config.txn():
            confirmed = self.leader.confirm(txn)
        return confirmed


@pytest.fixture
def backend():
    return MemoryBackend()


@pytest.fixture
def first(backend):
    """A candidate that leads."""
    candidate = Candidate(backend)
    assert not candidate.leads(), "not before its view shows it"
    assert candidate.leads()
    return candidate


def test_the_key_names_the_process_that_leads(first):
    assert first.follower.view.revision == 2
    for txn in first.config.txn():
        entry = txn.raw.get("/leader/test")
    assert entry["pid"] == first.config.owner.pid


def test_a_second_candidate_stands_by_until_the_first_ends(backend, first):
    second = Candidate(backend)
    assert not second.leads()
    first.leader.resign()
    assert not second.leads()
    assert second.leads()
    assert not first.leads()
    assert not first.confirms()


def test_of_two_with_old_views_one_wins(backend):
    with ExitStack() as stack:
        candidates = [Candidate(backend) for _ in range(2)]
        for each in candidates:
            stack.enter_context(each.leader)
            each.leader.leads(each.follower.view)
        assert sorted(each.leads() for each in candidates) == [False, True]
        assert sorted(each.confirms() for each in candidates) == [False, True]


def test_a_lost_lease_is_a_lost_lead_at_once(first):
    first.leader._lease.expire()
    assert not first.leader.leads(first.follower.view)


def test_a_key_deleted_by_hand_is_made_again(first):
    for txn in first.config.txn():
        txn.raw.delete("/leader/test")
    assert not first.confirms()
    assert not first.leads()
    assert first.leads()
    assert first.confirms()
