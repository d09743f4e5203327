"""Files that are replaced while we run: keys and certificates that Kubernetes mounts from Secrets.

The kubelet writes a new folder and swaps one symlink, so a file is another one when its inode is.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from epd_gateway.settings import SettingsError

logger = logging.getLogger(__name__)

_Identity: TypeAlias = tuple[int, int, int] | None


class FollowedFiles:
    """Reads files again once they are others.

    What cannot be read changes nothing: one line is logged for each such version, and what was
    read last stays.
    """

    def __init__(self, what: str, paths: Sequence[Path], read: Callable[[], None]) -> None:
        """Take the files as they are now for read.

        Args:
            what: What they hold, for the log.
            paths: The files.
            read: Reads them; raises `SettingsError` where they make no sense.
        """
        self._what = what
        self._paths = paths
        self._read = read
        self._seen = self._identities()

    async def follow(self, poll_s: float) -> None:
        """Look at the files every `poll_s`, for ever."""
        while True:
            await asyncio.sleep(poll_s)
            self.look()

    def look(self) -> None:
        """Read the files if one of them is another one."""
        identities = self._identities()
        if identities == self._seen:
            return
        self._seen = identities
        try:
            self._read()
        except SettingsError as error:
            logger.warning("%s; the last good ones stay", error)
        else:
            logger.info("%s: read anew", self._what)

    def _identities(self) -> list[_Identity]:
        return [_identity(path) for path in self._paths]


def _identity(path: Path) -> _Identity:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
