"""Traces by OpenTelemetry: off unless the environment names a collector, and free while off.

`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT` turns them on; the other
variables of OpenTelemetry's SDK (`OTEL_TRACES_SAMPLER`, headers, certificates) mean what they mean
everywhere. Between programs a span is named by its W3C `traceparent`.
"""

import logging
import os
import re
from collections.abc import Mapping
from typing import Final, cast

from epd.tracing.spans import Keeper
from epd.tracing.spans import Span as Span
from epd.tracing.spans import Tracing as Tracing
from epd.vocabulary import Component

logger = logging.getLogger(__name__)

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FLUSH_S: Final = 2.0
"""What a program that ends grants its last spans."""

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def valid_traceparent(text: str) -> str:
    """Return a `traceparent` as it came, or nothing if it is none."""
    return text if _TRACEPARENT.fullmatch(text) else ""


def trace_id_of(traceparent: str) -> str:
    """Return the trace's id in a valid `traceparent`, 32 hexadecimal digits."""
    return traceparent[3:35]


def collector(environment: Mapping[str, str] = os.environ) -> str:
    """Return where spans go, as the environment says; empty: nowhere."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ""
    return next(filter(None, map(environment.get, ENDPOINTS)), "")


def start_tracing(
    component: Component, instance: str, environment: Mapping[str, str] = os.environ
) -> Tracing | None:
    """Return the tracing of this program, as the environment asks for it; None: it does not.

    Args:
        component: Which program.
        instance: Which one of its kind: a pod's name.
        environment: The process environment.
    """
    if not collector(environment):
        return None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from epd.tracing.otlp import SpanExporter
    except ImportError as error:
        logger.warning("no traces: %s; install opentelemetry-exporter-otlp-proto-grpc", error.name)
        return None
    names = {"service.name": f"epd-{component}", "service.instance.id": instance}
    provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
    keeper = cast(Keeper, BatchSpanProcessor(SpanExporter(provider.resource)))
    return Tracing(provider, keeper, FLUSH_S)
