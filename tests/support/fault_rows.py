"""The table of faults: which pod fails, how, and at what moment of two chats with pictures.

Pods go by the stage they are offered: `e`, `p` and `d`. Simulated and real engines share the rows;
how a moment is made to last is each one's own affair.
"""

import signal
from dataclasses import dataclass
from enum import StrEnum

from chat_streams import ChatStream, ask_about

from epd.vocabulary import Role

ROLES = {"e": Role.ENCODE, "p": Role.PREFILL, "d": Role.DECODE}
KILLED, FROZEN = signal.SIGKILL, signal.SIGSTOP
PICTURES = (1, 2)


class Moment(StrEnum):
    """How far a streamed chat with one picture and a whole one with two have got."""

    ENCODING = "encoding"
    EC_HANDOFF = "ec-handoff"
    PREFILLING = "prefilling"
    DECODE_RESERVED = "decode-reserved"
    KV_HANDOFF = "kv-handoff"
    DECODING = "decoding"


@dataclass(frozen=True)
class Row:
    """One pod that fails once.

    Attributes:
        victim: The pod.
        when: Before, during or after its own handoff.
        moment: What that is for the chats.
        fault: The signal that it gets.
    """

    victim: str
    when: str
    moment: Moment
    fault: signal.Signals

    def __str__(self) -> str:
        how = "killed" if self.fault is KILLED else "frozen"
        return f"{self.victim}-{self.when}-{how}"

    @property
    def disturbs(self) -> bool:
        """Whether anybody still needs the pod by then."""
        return self.when != "after" or self.victim == "d"


ROWS = [
    Row(victim, when, moment, fault)
    for fault in (KILLED, FROZEN)
    for victim, when, moment in (
        ("e", "before", Moment.ENCODING),
        ("e", "during", Moment.EC_HANDOFF),
        ("e", "after", Moment.DECODING),
        ("p", "before", Moment.PREFILLING),
        ("p", "during", Moment.KV_HANDOFF),
        ("p", "after", Moment.DECODING),
        ("d", "before", Moment.DECODE_RESERVED),
        ("d", "during", Moment.KV_HANDOFF),
        ("d", "after", Moment.DECODING),
    )
]


def two_chats(max_tokens: int = 30) -> list[ChatStream]:
    """Return a chat that is streamed and one that is not."""
    return [
        ChatStream(ask_about(number, pictures, max_tokens=max_tokens, stream=pictures == 1))
        for number, pictures in enumerate(PICTURES)
    ]


def assert_undisturbed(stages: list[dict[str, object]], pods: dict[str, str]) -> None:
    """Check a timeline: every stage was done by its own pod, at the first attempt."""
    assert [pods[str(s["stage"])[0]] for s in stages] == [s["pod"] for s in stages], stages
    assert not any(stage["failure"] for stage in stages), stages
