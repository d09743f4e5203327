"""The order to lose handoffs on purpose: what `epd fault lossy-handoff` tells one worker.

It stands in a file that the worker was named at its start, and ends by itself: whoever wrote it may
be killed before taking it back.
"""

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LossyHandoff:
    """Lose a share of the handoffs for a while.

    Attributes:
        share: Of the embeddings and KV caches that the worker takes from others, 0 to 1.
        until_s: When it is over, in seconds since the epoch.
    """

    share: float
    until_s: float

    def text(self) -> str:
        """Return it as the file holds it."""
        return json.dumps({"share": self.share, "untilSeconds": self.until_s})

    @classmethod
    def read(cls, text: str) -> "LossyHandoff | None":
        """Return what a file says; None where it says nothing that makes sense."""
        try:
            data = json.loads(text)
            return cls(float(data["share"]), float(data["untilSeconds"]))
        except (ValueError, KeyError, TypeError):
            return None
