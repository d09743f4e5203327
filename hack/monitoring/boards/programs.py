"""Do the operator and the gateways themselves work?"""

from typing import Final

from epd import telemetry as t
from monitoring import board as b
from monitoring.board import Board, Kind, Panel, Query, Unit

PROGRAMS: Final = Board(
    "epd-programs",
    "Operator and gateway",
    "Do the operator and the gateways themselves work?",
    (
        (
            "Operator",
            (
                Panel(
                    "Operators that lead",
                    "One leads; the others wait.",
                    Unit.COUNT,
                    (Query(f"sum({t.LEADING.name})", "leading"),),
                    Kind.NUMBER,
                    6,
                    bad_below=1,
                    runbooks=("EPDOperatorAbsent",),
                ),
                Panel(
                    "Clusters looked after",
                    "EPDCluster objects that the leader knows.",
                    Unit.COUNT,
                    (Query(f"sum({t.CLUSTERS.name})", "clusters"),),
                    Kind.NUMBER,
                    6,
                ),
                Panel(
                    "Since all work was on time",
                    "Passes, surveys, control loops and the Lease; a probe ends it at 120 s.",
                    Unit.SECONDS,
                    # What ends while it is scraped may be a moment ahead of the question's time.
                    (Query(f"clamp_min(time() - min({t.LAST_TURN.name}), 0)", "ago"),),
                    Kind.NUMBER,
                    6,
                    bad_from=120,
                    runbooks=("EPDOperatorStuck",),
                ),
                Panel(
                    "Certificates end in",
                    "The soonest of the clusters' own certificates.",
                    Unit.SECONDS,
                    (Query(f"min({t.CERTIFICATE_EXPIRY.name}) - time()", "soonest"),),
                    Kind.NUMBER,
                    6,
                    bad_below=14 * 86400.0,
                    runbooks=("EPDCertificateExpires",),
                ),
                Panel(
                    "Passes",
                    "Passes over clusters, those that failed, and passes of the control loops.",
                    Unit.PER_SECOND,
                    (
                        Query(b.rate(t.PASSES, of=""), "passes"),
                        Query(b.rate(t.PASS_FAILURES, of=""), "failed"),
                        Query(b.rate(t.CONTROL_PASSES), "control"),
                    ),
                    runbooks=("EPDOperatorPassesFail", "EPDDecisionsStale"),
                ),
                Panel(
                    "Calls to the API server",
                    "By verb and result; watches do not count.",
                    Unit.PER_SECOND,
                    (b.each(b.rate, t.API_CALLS, "verb", "result", of=""),),
                    Kind.STACK,
                ),
            ),
        ),
        (
            "Gateway",
            (
                Panel(
                    "Client connections",
                    "Open connections.",
                    Unit.COUNT,
                    (b.each(b.gauge, t.CONNECTIONS, "instance"),),
                    Kind.STACK,
                ),
                Panel(
                    "Refused and gone",
                    "Requests refused before they were read, and clients gone before their answer "
                    "was complete.",
                    Unit.PER_SECOND,
                    (
                        Query(b.rate(t.REFUSALS, "code"), "{{code}}"),
                        Query(b.rate(t.DISCONNECTS), "gone"),
                    ),
                ),
                Panel(
                    "Tokens from workers",
                    "Token events, and the frames that bring them: one is an engine step.",
                    Unit.PER_SECOND,
                    (
                        Query(b.rate(t.EVENTS), "events"),
                        Query(b.rate(t.WORKER_FRAMES), "frames"),
                    ),
                ),
                Panel(
                    "Bytes from workers",
                    "Ready-made bytes of clients' answers.",
                    Unit.BYTES,
                    (Query(b.rate(t.EVENT_BYTES), "bytes"),),
                ),
                Panel(
                    "Roster",
                    "1: the gateway follows its pods; 0: it serves with those it knew.",
                    Unit.COUNT,
                    (b.each(b.gauge, t.ROSTER_CURRENT, "instance"),),
                    bad_below=1,
                    runbooks=("EPDRosterStale",),
                ),
                Panel(
                    "Gateways by version",
                    "More than one is an upgrade under way.",
                    Unit.COUNT,
                    (
                        Query(
                            f"count by (version, model) ({t.GATEWAY_INFO.name}{{{b.OF_CLUSTER}}})",
                            "{{version}}, {{model}}",
                        ),
                    ),
                    Kind.STACK,
                    runbooks=("EPDVersionSkew",),
                ),
            ),
        ),
    ),
)
