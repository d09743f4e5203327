"""Whether the operator's work goes on: each piece of it says when it will next be heard of.

A quiet operator is on time, for it looks again every minute; a pass, a survey or a control loop
that hangs is not, though the process answers and its event loop turns.
"""

from collections.abc import Callable
from time import monotonic
from typing import Final

SLACK_S: Final = 120.0
"""So late may any work be before the operator counts as stuck: machines are busy at times."""


class Progress:
    """When each piece of work is due.

    Attributes:
        has_reached_server: The API server has answered since the start.
    """

    def __init__(self, clock_s: Callable[[], float] = monotonic) -> None:
        """Expect nothing yet."""
        self._clock_s = clock_s
        self._due_s: dict[str, float] = {}
        self.has_reached_server = False

    def expect(self, work: str, within_s: float) -> None:
        """Note that this work has advanced, and is to advance again within so long."""
        self._due_s[work] = self._clock_s() + within_s

    def forget(self, work: str) -> None:
        """Note that this work has ended, or waits for its turn."""
        self._due_s.pop(work, None)

    @property
    def latest(self) -> tuple[str, float]:
        """The work that is most behind, and by how many seconds; 0 if all is on time."""
        work, due_s = min(list(self._due_s.items()), key=lambda each: each[1], default=("", None))
        return (work, 0.0) if due_s is None else (work, max(0.0, self._clock_s() - due_s))

    @property
    def is_alive(self) -> bool:
        """Nothing hangs."""
        return self.latest[1] < SLACK_S
