"""What can go wrong with a command, and the exit status of each."""

from typing import Final

from epd.api import ClusterError
from epd_operator.local_state import LocalError


class UsageError(Exception):
    """What was asked for makes no sense here; the message says what would."""


class CommandError(Exception):
    """It was right to ask, but it did not work; the message says why and what to do."""


FAILURES: Final = (UsageError, CommandError, ClusterError, LocalError)


def status_of(failure: Exception) -> int:
    """Return the exit status that tells of a failure."""
    return 2 if isinstance(failure, UsageError | ClusterError) else 1
