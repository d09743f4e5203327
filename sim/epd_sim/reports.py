"""What a pod tells: its owner, of pieces that are done; whoever asks, what it has done so far."""

from array import array
from typing import TYPE_CHECKING, Protocol

from epd_sim.calls import Piece

if TYPE_CHECKING:
    from epd_sim.pod import Pod


class Owner(Protocol):
    """Whoever is told what a pod has done."""

    def encoded(self, pod: "Pod", piece: Piece) -> None:
        """An image is encoded; the pod holds its embedding."""
        ...

    def prefilled(self, pod: "Pod", piece: Piece) -> None:
        """A prompt is computed and the first token sampled; the pod holds the KV cache."""
        ...

    def taken(self, pod: "Pod", piece: Piece) -> None:
        """`pod` has everything that was handed off for `piece`."""
        ...

    def decoded(self, pod: "Pod", piece: Piece, token_times_s: "array[float]") -> None:
        """The last token is out; `token_times_s` tells when each came."""
        ...


class Tally:
    """Counts of one stage on one pod, since its start."""

    __slots__ = ("finished", "in_flight", "running", "service_s", "started", "tokens")

    def __init__(self) -> None:
        self.started = 0
        self.finished = 0
        self.in_flight = 0
        self.running = 0
        self.service_s = 0.0
        self.tokens = 0
