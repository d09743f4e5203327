"""`python quiet_gateway.py -m epd_gateway ARGUMENTS`: a gateway whose metrics count nothing.

The baseline of `telemetry`. The journal of requests stays, for it serves `/requests/ID`.
"""

import runpy
import sys
from typing import Any

from epd_gateway import app
from epd_gateway.answer import StreamedAnswer
from epd_gateway.instruments import Histogram, Number
from epd_gateway.metrics import Goodput


def nothing(*_: Any, **__: Any) -> None:
    """Take whatever is counted."""


def take_next(answer: StreamedAnswer, payload: bytes, token_ids: bytes) -> None:
    """Pass an event on without noting when it came."""
    answer.emitted += token_ids
    if payload:
        answer._write(payload)


if __name__ == "__main__":
    StreamedAnswer.take_next = take_next  # type: ignore[method-assign]
    for metric, methods in ((Number, "inc dec set"), (Histogram, "observe")):
        for method in methods.split():
            setattr(metric, method, nothing)
    Goodput.count = Goodput.fail = nothing  # type: ignore[method-assign]
    app.p90_gap_s = nothing  # type: ignore[attr-defined]
    sys.argv = ["epd-gateway", *sys.argv[3:]]
    runpy.run_module("epd_gateway", run_name="__main__", alter_sys=True)
