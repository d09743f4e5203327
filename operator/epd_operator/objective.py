"""The objective of a cluster, as its gateways are told: they judge by it what users get."""

from collections.abc import Mapping

from epd.api.v1alpha1 import SLOSpec


def slo_settings(slo: SLOSpec) -> Mapping[str, object]:
    """Return the objective as settings of the gateway, by their dotted names."""
    return {
        "slo.ttft_ms": slo.ttft_milliseconds,
        "slo.tpot_ms": slo.tpot_milliseconds,
        "slo.attainment_percent": slo.attainment_percent,
    }
