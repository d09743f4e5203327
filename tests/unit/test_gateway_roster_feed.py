"""The roster file: what is followed, and what is left standing."""

import asyncio
import json
import os
from contextlib import aclosing

import pytest

from epd.vocabulary import Method, Role
from epd_gateway.roster_feed import FileRoster

ENTRY = {"name": "a", "address": "127.0.0.1:7000", "role": "encode"}


@pytest.fixture
def roster(tmp_path):
    return FileRoster(tmp_path / "roster.json", poll_s=0.001)


def write(roster, content):
    text = content if isinstance(content, str) else json.dumps(content)
    fresh = roster._path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, roster._path)


def test_a_roster_is_read_in_full(roster):
    write(roster, {"version": 3, "cluster": "c", "model": "m", "method": "E-P-D",
                   "workers": [ENTRY], "later": "addition"})  # fmt: skip
    snapshot = roster.read_if_changed()
    assert (snapshot.version, snapshot.cluster, snapshot.model) == (3, "c", "m")
    assert snapshot.method is Method.E_P_D
    (worker,) = snapshot.workers
    assert (worker.name, worker.address, worker.role) == ("a", "127.0.0.1:7000", Role.ENCODE)


def test_an_unchanged_file_is_no_news(roster):
    write(roster, {"version": 1})
    assert roster.read_if_changed() is not None
    assert roster.read_if_changed() is None


def test_a_replaced_file_is_news_even_if_its_size_and_time_are_the_same(roster):
    write(roster, {"version": 1})
    roster.read_if_changed()
    before = os.stat(roster._path)
    write(roster, {"version": 2})
    os.utime(roster._path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert roster.read_if_changed().version == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        {"version": -1},
        {"version": "new"},
        {"workers": [{"name": "a", "address": "nowhere", "role": "encode"}]},
        {"workers": [{**ENTRY, "role": "cook"}]},
        {"workers": [{**ENTRY, "name": ""}]},
        {"workers": [ENTRY, ENTRY]},
        {"method": "P-E"},
    ],
)
def test_a_malformed_file_is_told_of_once_and_changes_nothing(roster, caplog, content):
    write(roster, content)
    assert roster.read_if_changed() is None
    assert roster.read_if_changed() is None
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert "the last good roster stays" in record.getMessage()
    write(roster, {"version": 9})
    assert roster.read_if_changed().version == 9


def test_a_missing_file_is_waited_for_and_told_of_once(roster, caplog):
    for _ in range(3):
        assert roster.read_if_changed() is None
    assert len(caplog.records) == 1
    write(roster, {"version": 1})
    assert roster.read_if_changed().version == 1


def test_a_file_that_vanishes_is_read_again_when_it_returns(roster):
    write(roster, {"version": 1})
    assert roster.read_if_changed().version == 1
    roster._path.unlink()
    assert roster.read_if_changed() is None
    write(roster, {"version": 1})
    assert roster.read_if_changed().version == 1


async def test_the_feed_yields_each_new_roster(roster):
    write(roster, {"version": 1})
    async with aclosing(roster.snapshots()) as snapshots:
        assert (await anext(snapshots)).version == 1
        waiting = asyncio.ensure_future(anext(snapshots))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        write(roster, {"version": 2})
        assert (await waiting).version == 2
