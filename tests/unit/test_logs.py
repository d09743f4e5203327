"""Log lines: one an event, with what they are about, and nothing that a client wrote."""

import io
import json
import logging
import re

import pytest

from epd import logs
from epd.logs import HumanFormatter, JsonFormatter, LogSettingsError

SECRET = "my-private-prompt"


def record(message="a stage failed", *arguments, exc_info=None, **extra):
    made = logging.LogRecord("epd_x.y", logging.INFO, "x.py", 1, message, arguments, exc_info)
    made.created = 1_767_262_830.25
    vars(made).update(extra)
    return made


def failure():
    try:
        raise ValueError(f"cannot read {SECRET!r}")
    except ValueError as error:
        return (ValueError, error, error.__traceback__)


def test_json_has_the_fields_by_name():
    line = JsonFormatter().format(record("%s of %d", "two", 3, request="r1", trace="t1", pod=""))
    assert json.loads(line) == {
        "time": "2026-01-01T10:20:30.250Z", "level": "info", "logger": "epd_x.y",
        "message": "two of 3", "request": "r1", "trace": "t1",
    }  # fmt: skip


def test_a_person_reads_the_same_on_one_line():
    line = HumanFormatter().format(record(request="r1", status=503))
    assert line == ("2026-01-01T10:20:30.250Z INFO epd_x.y: a stage failed request=r1 status=503")


@pytest.mark.parametrize("formatter", [HumanFormatter(), JsonFormatter()])
def test_an_exception_is_told_by_type_and_place_and_without_its_text(formatter):
    line = formatter.format(record("it broke", exc_info=failure()))
    assert re.search(r"it broke: ValueError at test_logs\.py:\d+", line)
    assert SECRET not in line
    assert "\n" not in line


@pytest.mark.parametrize("formatter", [HumanFormatter(), JsonFormatter()])
def test_nothing_that_is_logged_makes_a_second_line(formatter):
    line = formatter.format(record("one\r\n2026 INFO forged", request="r"))
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("chosen", "environment", "words"),
    [
        ("", {"EPD_LOG_LEVEL": "loud"}, "EPD_LOG_LEVEL=loud: no log level"),
        ("", {"EPD_LOG_FORMAT": "xml"}, "EPD_LOG_FORMAT=xml: no log format; human, json"),
    ],
)
def test_what_there_is_not_is_refused_in_one_line(chosen, environment, words):
    with pytest.raises(LogSettingsError, match=re.escape(words)):
        logs.configure(chosen, environment)


@pytest.mark.parametrize(
    ("chosen", "environment", "is_json"),
    [
        ("", {}, False),
        ("json", {}, True),
        ("", {"EPD_LOG_FORMAT": "json"}, True),
        ("human", {"EPD_LOG_FORMAT": "json"}, False),
    ],
)
def test_the_command_line_wins_over_the_environment(chosen, environment, is_json, monkeypatch):
    root = logging.RootLogger(logging.WARNING)
    monkeypatch.setattr(logging, "root", root)
    stream = io.StringIO()
    logs.configure(chosen, environment, stream)
    root.info("hello")
    assert stream.getvalue().startswith("{") is is_json


def test_libraries_that_tell_what_they_send_are_quiet_at_every_level():
    before = {name: logging.getLogger(name).level for name in logs.TALKATIVE}
    try:
        logs.configure("", {"EPD_LOG_LEVEL": "debug"}, io.StringIO())
        for name in ("httpx", "httpcore.http11", "PIL.PngImagePlugin", "kubernetes.client.rest"):
            assert not logging.getLogger(name).isEnabledFor(logging.INFO), name
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
