"""What an `EPDCluster` decides of its gateways' settings, by their dotted names.

All of these may change while a gateway runs.
"""

from collections.abc import Mapping

from epd.api.names import Overflow
from epd.api.v1alpha1 import EPDClusterSpec


def gateway_settings(spec: EPDClusterSpec) -> Mapping[str, object]:
    """Return the objective and the limits, as the gateway calls them."""
    limits, slo = spec.gateway.limits, spec.slo
    return {
        "limits.max_body_bytes": limits.max_body_bytes,
        "keys.max_in_flight": limits.max_requests_in_flight_per_key,
        "keys.max_per_minute": limits.max_requests_per_minute_per_key,
        "media.max_images": limits.max_images,
        "media.max_image_bytes": limits.max_image_bytes,
        "media.max_image_pixels": limits.max_image_pixels,
        "media.fetch_timeout_s": limits.media_timeout_seconds,
        "media.allowed_domains": ",".join(limits.allowed_media_domains),
        "slo.ttft_ms": slo.ttft_milliseconds,
        "slo.tpot_ms": slo.tpot_milliseconds,
        "slo.attainment_percent": slo.attainment_percent,
        "slo.overflow": str(slo.overflow is Overflow.WHEN_LATE).lower(),
    }
