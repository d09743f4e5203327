"""Logs of every program: one line an event, for a person or as JSON, and nothing of a client's.

An exception is told by its type and by where it was raised. Its text stays out, for it may quote a
prompt. What a line is about goes along as `extra`: any of `FIELDS`.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum, unique
from types import TracebackType
from typing import Any, Final, TextIO

from epd.vocabulary import Env

FIELDS: Final = ("request", "client_request", "trace", "pod", "stage", "reason", "status")
"""`request` is what gateway and workers call a request, `client_request` its `x-request-id`."""

TALKATIVE: Final = ("httpx", "httpcore", "PIL", "kubernetes", "kubernetes_asyncio")
"""Libraries that at `debug` log what they send and get: addresses, headers, Secrets, the texts in
pictures. They are heard from `warning` on, whatever the level."""

_SHOWN_FRAMES: Final = 8


@unique
class LogFormat(StrEnum):
    """How a line reads."""

    HUMAN = "human"
    JSON = "json"


class LogSettingsError(ValueError):
    """A level or format that there is not; the message is one line for the user."""


class HumanFormatter(logging.Formatter):
    """Time, level, logger and message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        parts = [_time(record), record.levelname, f"{record.name}:", message_of(record)]
        parts += [f"{name}={value}" for name, value in fields_of(record).items()]
        return " ".join(parts)


class JsonFormatter(logging.Formatter):
    """One object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message_of(record),
            **fields_of(record),
        }
        return json.dumps(line, ensure_ascii=False, default=str)


_FORMATTERS: Final = {LogFormat.HUMAN: HumanFormatter, LogFormat.JSON: JsonFormatter}


def configure(
    chosen: str = "", environment: Mapping[str, str] = os.environ, stream: TextIO | None = None
) -> None:
    """Log to stderr from now on.

    Args:
        chosen: The format of the command line; empty: as the environment says, else human.
        environment: The process environment.
        stream: Where to instead; for tests.

    Raises:
        LogSettingsError: There is no such level or format.
    """
    level = environment.get(Env.LOG_LEVEL, "info").upper()
    if level not in logging.getLevelNamesMapping():
        raise LogSettingsError(f"{Env.LOG_LEVEL}={level.lower()}: no log level")
    name = chosen or environment.get(Env.LOG_FORMAT) or LogFormat.HUMAN
    if name not in set(LogFormat):
        raise LogSettingsError(f"{Env.LOG_FORMAT}={name}: no log format; {', '.join(LogFormat)}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_FORMATTERS[LogFormat(name)]())
    logging.basicConfig(level=level, handlers=[handler])
    for library in TALKATIVE:
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLogger().level))


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a line is about."""
    found = vars(record)
    return {name: found[name] for name in FIELDS if found.get(name) not in (None, "")}


def message_of(record: logging.LogRecord) -> str:
    """Return the message on one line, and where an exception came from."""
    message = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        kind, _, trace = record.exc_info
        message = f"{message}: {kind.__name__} at {places(trace)}"
    return message.replace("\r", "\\r").replace("\n", "\\n")


def places(trace: TracebackType | None) -> str:
    """Return where an exception was raised, the innermost place first."""
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(trace)[-_SHOWN_FRAMES:]
    told = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames)]
    return " < ".join(told) or "an unknown place"


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
