"""Pods to roster: who is in it, who is offered new work, and what old news change."""

import pytest
from worker_pods import worker_pod

from epd.vocabulary import DRAINING, ROLE_LABEL, Role
from epd_gateway.pod_watch import Change
from epd_gateway.roster_kubernetes import PodBook, entry_of, takes_new_work


def book_of(*pods, version="10"):
    book = PodBook("demo")
    book.replace(pods, version)
    return book


def roles_of(book):
    return {worker.name: worker.role for worker in book.snapshot().workers}


def test_a_running_pod_is_in_the_roster_with_address_port_and_role():
    entry = entry_of(worker_pod("a", "encode-prefill", address="10.1.2.3", port=7777))
    assert entry is not None
    assert (entry.name, entry.address) == ("a", "10.1.2.3:7777")
    assert (entry.role, entry.takes_new_work) == (Role.ENCODE_PREFILL, True)


def test_an_address_of_ipv6_stands_in_brackets():
    entry = entry_of(worker_pod("a", address="fd00::1"))
    assert entry is not None
    assert entry.address == "[fd00::1]:7000"


def test_a_container_that_names_no_port_is_asked_at_the_usual_one():
    pod = worker_pod("a")
    pod["spec"]["containers"] = [{"name": "worker"}]
    entry = entry_of(pod)
    assert entry is not None
    assert entry.address.endswith(":7000")


@pytest.mark.parametrize(
    "status", [{}, {"phase": "Pending"}, {"phase": "Failed", "podIP": "10.0.0.1"}]
)
def test_a_pod_without_an_address_or_that_has_ended_is_not_in_the_roster(status):
    assert entry_of({**worker_pod("a"), "status": status}) is None


@pytest.mark.parametrize(
    "pod",
    [
        worker_pod("a", ready=False),
        worker_pod("a", annotations={DRAINING: "true"}),
        worker_pod("a", labels={DRAINING: "true"}),
        worker_pod("a", deletionTimestamp="2026-01-01T00:00:00Z"),
        {**worker_pod("a"), "status": {"podIP": "10.0.0.1", "phase": "Running"}},
    ],
)
def test_a_pod_that_is_unready_draining_or_being_deleted_stays_but_gets_nothing_new(pod):
    assert not takes_new_work(pod)
    entry = entry_of(pod)
    assert entry is not None
    assert not entry.takes_new_work


def test_only_true_marks_a_pod_as_draining():
    assert takes_new_work(worker_pod("a", annotations={DRAINING: "false"}))


def test_a_relabel_changes_the_role_and_the_version():
    book = book_of(worker_pod("a", "encode"))
    book.take([(Change.MODIFIED, worker_pod("a", "decode", version=11))], "11")
    assert roles_of(book) == {"a": Role.DECODE}
    assert book.snapshot().version == 11


def test_a_role_that_makes_no_sense_leaves_the_pod_as_it_was(caplog):
    book = book_of(worker_pod("a", "encode"))
    book.take([(Change.MODIFIED, worker_pod("a", "cook", version=11))], "11")
    assert roles_of(book) == {"a": Role.ENCODE}
    assert "it stays encode" in caplog.text


def test_a_pod_that_never_had_a_role_is_left_out(caplog):
    pod = worker_pod("a")
    del pod["metadata"]["labels"][ROLE_LABEL]
    assert roles_of(book_of(pod)) == {}
    assert "nothing is placed on it" in caplog.text


def test_old_news_and_the_same_news_twice_change_nothing():
    book = book_of(worker_pod("a", "decode", version=9))
    now = [(Change.MODIFIED, worker_pod("a", "prefill", version=11))]
    book.take(now, "11")
    once = book.snapshot()
    book.take(now, "11")
    book.take([(Change.MODIFIED, worker_pod("a", "encode", version=8))], "11")
    assert book.snapshot() == once


def test_the_end_of_an_earlier_pod_of_the_name_does_not_end_the_present_one():
    book = book_of(worker_pod("a", uid="new", version=9))
    book.take([(Change.DELETED, worker_pod("a", uid="old", version=11))], "11")
    assert list(roles_of(book)) == ["a"]
    book.take([(Change.DELETED, worker_pod("a", uid="new", version=12))], "12")
    assert roles_of(book) == {}


def test_a_pod_that_comes_back_under_its_name_is_taken_whatever_its_version():
    book = book_of(worker_pod("a", "encode", uid="old", version=90))
    book.take([(Change.ADDED, worker_pod("a", "decode", uid="new", version=20))], "20")
    assert roles_of(book) == {"a": Role.DECODE}


def test_a_list_is_the_truth_whatever_was_known():
    book = book_of(worker_pod("a"), worker_pod("b", "encode", version=50))
    book.replace([worker_pod("c"), worker_pod("b", "prefill", version=3)], "7")
    assert roles_of(book) == {"b": Role.PREFILL, "c": Role.DECODE}
    assert book.snapshot().version == 7


def test_a_version_that_is_no_number_still_counts_up():
    book = book_of(worker_pod("a"), version="10")
    book.take([], "abc")
    assert book.snapshot().version == 11
