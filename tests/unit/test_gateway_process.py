"""What a gateway asks of the operating system."""

import logging
import resource
import subprocess
import sys

import pytest

from epd_gateway.process import raise_open_files


@pytest.fixture
def limits(monkeypatch):
    """Return this process's limit of open files, soft and hard, which tests may set."""
    now = [64, 1000]

    def set_limit(_, wanted):
        now[:] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    return now


def test_as_many_files_may_be_open_as_the_system_allows(limits, caplog):
    with caplog.at_level(logging.WARNING):
        raise_open_files(max_connections=999)
    assert limits == [1000, 1000]
    assert not caplog.records


def test_too_few_files_for_the_clients_are_told_in_one_line(limits, caplog):
    with caplog.at_level(logging.WARNING):
        raise_open_files(max_connections=1000)
    (record,) = caplog.records
    assert record.getMessage() == (
        "at most 1000 open files, too few for limits.max_connections=1000: raise the hard limit "
        "(ulimit -Hn, LimitNOFILE=) or lower the setting"
    )


def test_a_limit_that_must_not_be_changed_is_lived_with(limits, caplog, monkeypatch):
    def forbid(*_):
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "setrlimit", forbid)
    with caplog.at_level(logging.WARNING):
        raise_open_files(max_connections=100)
    assert "at most 64 open files" in caplog.text


def test_no_limit_is_enough_for_everybody(limits, caplog):
    limits[1] = resource.RLIM_INFINITY
    raise_open_files(max_connections=10**9)
    assert not caplog.records


def test_the_gateway_carries_no_command_line_of_its_http_client() -> None:
    """It is imported wherever rich and click are there, and is 4 MiB of each process."""
    script = (
        "import sys, epd_gateway.__main__; print('httpx' in sys.modules, 'rich' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert answer.stdout.split() == ["True", "False"], answer.stderr
