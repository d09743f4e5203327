"""Where the roster comes from: a feed of snapshots.

`roster_kubernetes` follows labelled pods. Here, `FileRoster` follows a JSON file that its writer
replaces atomically:

    {"version": 7, "cluster": "demo", "model": "tiny", "method": "E-P-D",
     "workers": [{"name": "demo-0", "address": "127.0.0.1:7000", "role": "encode"}, ...]}

`cluster`, `model`, `method` and a worker's `takes_new_work` may be left out.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from epd.vocabulary import Method, Role

logger = logging.getLogger(__name__)

_MAX_ROSTER_BYTES: Final = 4 << 20


class RosterEntry(BaseModel):
    """One pod that the gateway may use.

    Attributes:
        name: The pod's name.
        address: HOST:PORT of its gRPC service.
        role: The stages it is offered.
        takes_new_work: False: nothing new is placed on it, what it has goes on.
        flipped_s: Unix time at which its role was written; None if nobody says.
    """

    model_config = ConfigDict(frozen=True)

    name: str = Field(min_length=1, max_length=253)
    address: str = Field(pattern=r"^.+:\d{1,5}$")
    role: Role
    takes_new_work: bool = True
    flipped_s: float | None = None


class RosterSnapshot(BaseModel):
    """All pods that the gateway may use, at one moment.

    Attributes:
        version: Grows with every change.
        cluster: Name of the cluster.
        model: Served model name; empty: what the workers say.
        method: How the cluster is split; None if the writer does not say.
        workers: The pods, each name once.
        written_s: Unix time at which it was written; None if the feed does not say.
    """

    model_config = ConfigDict(frozen=True)

    version: int = Field(default=0, ge=0)
    cluster: str = ""
    model: str = ""
    method: Method | None = None
    workers: tuple[RosterEntry, ...] = ()
    written_s: float | None = None

    @field_validator("workers")
    @classmethod
    def _names_are_unique(cls, workers: tuple[RosterEntry, ...]) -> tuple[RosterEntry, ...]:
        if len({worker.name for worker in workers}) < len(workers):
            raise ValueError("two workers have the same name")
        return workers


class RosterSource(Protocol):
    """A feed of rosters."""

    @property
    def is_current(self) -> bool:
        """What it yielded last is what there is now, as far as it can tell."""
        ...

    def snapshots(self) -> AsyncIterator[RosterSnapshot]:
        """Yield the present roster as soon as there is one, then each new one; never end."""
        ...


class FileRoster:
    """Follows a roster file.

    A file that is missing or malformed changes nothing: the last good roster stays, and one line
    is logged for each such version of the file.
    """

    def __init__(self, path: Path, poll_s: float) -> None:
        """Name the file, and how often to look at it."""
        self._path = path
        self._poll_s = poll_s
        self._seen: tuple[int, int, int] | None = None
        self._complained = False

    @property
    def is_current(self) -> bool:
        """The file is there and sound."""
        return self._seen is not None and not self._complained

    async def snapshots(self) -> AsyncIterator[RosterSnapshot]:
        """Yield the present roster as soon as there is one, then each new one; never end."""
        while True:
            snapshot = self.read_if_changed()
            if snapshot is not None:
                yield snapshot
            await asyncio.sleep(self._poll_s)

    def read_if_changed(self) -> RosterSnapshot | None:
        """Return the roster if the file has changed and is sound; None otherwise."""
        try:
            status = os.stat(self._path)
            identity = (status.st_ino, status.st_mtime_ns, status.st_size)
            if identity == self._seen:
                return None
            self._seen = identity
            if status.st_size > _MAX_ROSTER_BYTES:
                raise ValueError(f"over {_MAX_ROSTER_BYTES} bytes")
            snapshot = RosterSnapshot.model_validate_json(self._path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            self._complain(f"{where + ': ' if where else ''}{first['msg']}")
        except FileNotFoundError:
            self._seen = None
            self._complain("no such file; waiting for it")
        except (OSError, ValueError) as error:
            self._complain(str(error))
        else:
            self._complained = False
            return snapshot.model_copy(update={"written_s": status.st_mtime})
        return None

    def _complain(self, what: str) -> None:
        if not self._complained or self._seen is not None:
            logger.warning("roster %s: %s; the last good roster stays", self._path, what)
        self._complained = True
