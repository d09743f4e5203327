"""The signals from Prometheus, by its HTTP API.

Ages are told by Prometheus' own clock (`timestamp()` against the time of evaluation), so that a
clock that differs from ours makes no metric look stale or fresh.
"""

import asyncio
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final

from epd import telemetry
from epd_operator.control.ports import MetricsUnavailable
from epd_operator.control.signals import (
    SIGNALS,
    Labels,
    Query,
    Traffic,
    selector,
    traffic_of,
)

_TIMEOUT_S: Final = 5.0
_MAX_ANSWER_BYTES: Final = 16 << 20

_WORKERS_AT: Final = Query(telemetry.WORKER_TOKENS, by=("worker",))
_GATEWAYS_AT: Final = Query(telemetry.ROSTER_VERSION)


class PrometheusMetrics:
    """Asks one Prometheus about one cluster. See `Metrics` of the loop's ports."""

    def __init__(
        self,
        url: str,
        matchers: Mapping[str, str],
        window_s: float,
        *,
        max_age_s: float,
        tls: ssl.SSLContext | None = None,
        headers: Callable[[], Mapping[str, str]] = dict,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        """Name the server.

        Args:
            url: Its base URL.
            matchers: Label values that tell this cluster's series from others'.
            window_s: What rates are averaged over; four scrape intervals at least.
            max_age_s: A worker whose last sample is older does not report.
            tls: For https; None: the system's authorities.
            headers: Returns headers to send, such as a bearer token that may change.
            timeout_s: For each query.
        """
        self._url = url.rstrip("/")
        self._matchers = dict(matchers)
        self._window_s = window_s
        self._max_age_s = max_age_s
        self._tls = tls
        self._headers = headers
        self._timeout_s = timeout_s

    async def read(self) -> Traffic:
        """Return the traffic of the last seconds. See `Metrics`."""
        queries = {
            name: query.promql(self._matchers, self._window_s) for name, query in SIGNALS.items()
        }
        ages = {
            "workers": _age_of(_WORKERS_AT, self._matchers),
            "gateways": _age_of(_GATEWAYS_AT, self._matchers),
        }
        texts = [*queries.values(), *ages.values()]
        answers = await asyncio.gather(*(asyncio.to_thread(self._ask, text) for text in texts))
        kept = [query.by for query in SIGNALS.values()] + [("worker",), ()]
        found = [_vector(answer, by) for answer, by in zip(answers, kept, strict=True)]
        samples = dict(zip(queries, found, strict=False))
        workers, gateways = found[-2], found[-1]
        if not gateways:
            raise MetricsUnavailable(f"{self._url} has no series of this cluster's gateways")
        young = {name: age for (name,), age in workers.items() if age <= self._max_age_s}
        return traffic_of(
            samples,
            window_s=self._window_s,
            age_s=max([*gateways.values(), *young.values()]),
            workers=frozenset(young),
        )

    def _ask(self, query: str) -> Any:
        data = urllib.parse.urlencode({"query": query}).encode()
        request = urllib.request.Request(  # noqa: S310 - the operator's own setting
            f"{self._url}/api/v1/query", data, dict(self._headers())
        )
        try:
            with urllib.request.urlopen(  # noqa: S310
                request, timeout=self._timeout_s, context=self._tls
            ) as answer:
                return json.loads(answer.read(_MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise MetricsUnavailable(f"{self._url} answers {error.code}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise MetricsUnavailable(f"{self._url} cannot be asked: {reason}") from None


def _age_of(query: Query, matchers: Mapping[str, str]) -> str:
    """Return PromQL for the age of the youngest sample, by the labels that the query keeps."""
    inner = f"time() - timestamp({query.series}{selector(matchers)})"
    return f"min by ({', '.join(query.by)}) ({inner})"


def _vector(answer: Any, by: Labels) -> dict[Labels, float]:
    """Return an instant vector by label values; one value that is no number spoils it all."""
    try:
        if answer["status"] != "success":
            raise MetricsUnavailable(f"Prometheus refused a query: {answer.get('error')}")
        found = {
            tuple(sample["metric"].get(label, "") for label in by): float(sample["value"][1])
            for sample in answer["data"]["result"]
        }
    except (KeyError, TypeError, IndexError, ValueError, AttributeError):
        raise MetricsUnavailable("what answers is not Prometheus") from None
    if not all(map(isfinite, found.values())):
        raise MetricsUnavailable("Prometheus holds a value that is no number")
    return found
