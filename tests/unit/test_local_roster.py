"""The roster file: versions, two writers, and what the gateway may read at any moment."""

import json
import threading
from pathlib import Path

import pytest

from epd.vocabulary import Role, Stage
from epd_operator.local_roster import Roster, RosterFile, RosterPod
from epd_operator.local_state import LocalError


def pod(name: str, role: Role = Role.ENCODE) -> RosterPod:
    return RosterPod(name=name, address=f"127.0.0.1:{7000 + len(name)}", role=role)


@pytest.fixture
def roster(tmp_path: Path) -> RosterFile:
    file = RosterFile(tmp_path / "roster.json")
    file.create("demo", "tiny")
    return file


def test_a_new_roster_is_version_one_and_empty(roster: RosterFile) -> None:
    assert json.loads(roster.path.read_text()) == {
        "version": 1,
        "cluster": "demo",
        "model": "tiny",
        "workers": [],
    }


def test_every_change_has_the_next_version(roster: RosterFile) -> None:
    versions = [roster.add(pod("a")), roster.add(pod("b"))]
    versions.append(roster.flip("a", Role.DECODE).version)
    roster.remove("b")
    assert [*versions, roster.read().version] == [2, 3, 4, 5]


def test_pods_stand_in_the_order_of_their_names(roster: RosterFile) -> None:
    for name in ("c", "a", "b"):
        roster.add(pod(name))
    assert [worker.name for worker in roster.read().workers] == ["a", "b", "c"]


def test_a_pod_that_is_added_again_replaces_itself(roster: RosterFile) -> None:
    roster.add(pod("a"))
    roster.add(RosterPod(name="a", address="127.0.0.1:9", role=Role.DECODE))
    assert [(w.name, w.address) for w in roster.read().workers] == [("a", "127.0.0.1:9")]


def test_removing_a_pod_tells_the_role_it_had(roster: RosterFile) -> None:
    roster.add(pod("a"))
    roster.flip("a", Role.PREFILL_DECODE)
    assert roster.remove("a") is Role.PREFILL_DECODE
    assert roster.remove("a") is None


def test_removing_an_absent_pod_changes_nothing(roster: RosterFile) -> None:
    roster.remove("nobody")
    assert roster.read().version == 1


def test_a_flip_tells_both_roles_and_its_version(roster: RosterFile) -> None:
    roster.add(pod("a", Role.ENCODE))
    flip = roster.flip("a", Role.DECODE)
    assert (flip.before, flip.after, flip.version) == (Role.ENCODE, Role.DECODE, 3)
    assert roster.read().role_of("a") is Role.DECODE


def test_a_flip_to_the_same_role_changes_nothing(roster: RosterFile) -> None:
    version = roster.add(pod("a", Role.ENCODE))
    assert roster.flip("a", Role.ENCODE).version == version == roster.read().version


def test_a_flip_of_an_unknown_pod_lists_the_pods(roster: RosterFile) -> None:
    roster.add(pod("demo-0"))
    with pytest.raises(LocalError, match=r"'demo-9' is not in the roster; pods: demo-0$"):
        roster.flip("demo-9", Role.DECODE)
    assert roster.read().version == 2


def test_writers_at_the_same_time_lose_no_change(roster: RosterFile) -> None:
    def add(prefix: str) -> None:
        for index in range(25):
            roster.add(pod(f"{prefix}-{index:02}"))

    writers = [threading.Thread(target=add, args=(prefix,)) for prefix in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(roster.read().workers) == 100
    assert roster.read().version == 101


def test_uncovered_stages_are_those_no_pod_is_offered() -> None:
    workers = (pod("a", Role.ENCODE_DECODE), pod("b", Role.DECODE))
    roster = Roster(cluster="demo", model="tiny", workers=workers)
    assert roster.uncovered_stages() == [Stage.PREFILL]
