"""For every alert: series of a fault that fires it, and since when they are well again.

Values are written as promtool has them: `0+6x30` rises by 6 thirty times. All belong to one
cluster; the healthy world beside them is `HEALTHY`.
"""

from dataclasses import dataclass, field

OF = 'namespace="ns",epd_dev_cluster="c"'


@dataclass(frozen=True)
class Fault:
    """Series that are bad, then good.

    Attributes:
        series: Values by name and labels; `OF` is added.
        fires: When the alert must have fired, as Prometheus writes durations.
        resolves: When it must have gone.
        interval: Between two values.
    """

    series: dict[str, str] = field(default_factory=dict)
    fires: str = "20m"
    resolves: str = "60m"
    interval: str = "1m"


def answers(objective: str, missed: str, met: str) -> dict[str, str]:
    labels = f'objective="{objective}",images="0"'
    return {
        f'epd_slo_answers_total{{{labels},verdict="missed"}}': missed,
        f'epd_slo_answers_total{{{labels},verdict="met"}}': met,
        "epd_slo_attainment_ratio{}": "0.9+0x200",
    }


def fast_burn(objective: str) -> Fault:
    series = answers(objective, "0+60x30 1800+0x170", "0+10x30 300+100x170")
    return Fault(series, fires="25m", resolves="60m")


def slow_burn(objective: str) -> Fault:
    # A third of the answers is late for three hours: over 2 of the 10 %, under 5 of them.
    series = answers(objective, "0+150x36 5400+0x160", "0+300x36 10800+1000x160")
    return Fault(series, fires="170m", resolves="300m", interval="5m")


FLIPS = 'epd_control_flips_total{from_role="decode",to_role="encode",why="BestSplit"}'
FLIPS_BACK = 'epd_control_flips_total{from_role="encode",to_role="decode",why="BestSplit"}'
LOST = 'epd_stage_failures_total{stage="decode",reason="handoff_lost"}'

FAULTS = {
    "EPDTTFTBurnsFast": fast_burn("ttft"),
    "EPDTTFTBurnsSlowly": slow_burn("ttft"),
    "EPDTPOTBurnsFast": fast_burn("tpot"),
    "EPDTPOTBurnsSlowly": slow_burn("tpot"),
    "EPDRequestsFail": Fault(
        {
            'epd_requests_total{api="chat_completions",status="2xx"}': "0+90x120",
            'epd_requests_total{api="chat_completions",status="5xx"}': "0+10x30 300+0x90",
        }
    ),
    "EPDNoReadyPods": Fault({'epd_roster_pods{role="decode",state="ready"}': "0+0x30 1+0x90"}),
    "EPDStageWithoutPod": Fault({'epd_roster_stage_missing{stage="encode"}': "1+0x30 0+0x90"}),
    "EPDStageStarved": Fault(
        {
            'epd_worker_waiting{worker="w",stage="encode"}': "30+0x30 0+0x90",
            'epd_worker_finished_total{worker="w",stage="encode"}': "0+60x120",
            'epd_slo_limit_seconds{objective="ttft"}': "1+0x120",
        }
    ),
    "EPDStagesFail": Fault(
        {'epd_stage_failures_total{stage="decode",reason="internal"}': "0+60x30 1800+0x90"}
    ),
    "EPDHandoffsFail": Fault(
        {LOST: "0+10x30 300+0x90", 'epd_handoff_duration_seconds_count{kind="kv"}': "0+50x120"}
    ),
    "EPDLeasesLeak": Fault(
        {
            'epd_worker_leases{worker="w",kind="kv"}': "3+0x30 0+0x90",
            'epd_worker_started_total{worker="w",stage="decode"}': "7+0x120",
        }
    ),
    "EPDRosterStale": Fault({"epd_roster_current{}": "0+0x30 1+0x90"}),
    "EPDVersionSkew": Fault(
        {
            'epd_gateway_info{version="2",model="m"}': "1+0x120",
            'epd_worker_info{worker="w",version="1",model="m",engine="e"}': "1+0x45 stale",
            'epd_worker_info{worker="w",version="2",model="m",engine="e"}': "_x45 1+0x70",
        },
        fires="40m",
    ),
    "EPDFlapping": Fault({FLIPS: "0+1x30 30+0x90", FLIPS_BACK: "0+1x30 30+0x90"}),
    # Decided at the beginning, then not for 30 minutes, then each minute.
    "EPDDecisionsStale": Fault(
        {"epd_control_last_decision_timestamp_seconds{}": "0+0x30 1860+60x90"}
    ),
    "EPDHeldTooLong": Fault(
        {
            **answers("ttft", "0+60x30 1800+0x90", "0+60x120"),
            'epd_control_holding{hold="Minimum"}': "1+0x30 0+0x90",
        }
    ),
    "EPDOperatorAbsent": Fault({"epd_operator_leading{}": "0+0x30 1+0x90"}),
    "EPDOperatorStuck": Fault({"epd_operator_last_turn_timestamp_seconds{}": "0+0x30 1860+60x90"}),
    "EPDOperatorPassesFail": Fault(
        {"epd_operator_pass_failures_total{}": "0+1x45 45+0x75"}, fires="40m", resolves="90m"
    ),
    # Ends in ten days, and after half an hour is renewed for ninety.
    "EPDCertificateExpires": Fault(
        {
            'epd_operator_certificate_expiry_timestamp_seconds{certificate="leaf"}': (
                "864000+0x30 7776000+0x90"
            )
        }
    ),
}

HEALTHY = {
    **answers("ttft", "0+1x400", "0+100x400"),
    **answers("tpot", "0+1x400", "0+100x400"),
    **answers("all", "0+2x400", "0+99x400"),
    "epd_slo_attainment_ratio{}": "0.9+0x400",
    'epd_slo_limit_seconds{objective="ttft"}': "1+0x400",
    'epd_requests_total{api="chat_completions",status="2xx"}': "0+100x400",
    'epd_requests_total{api="chat_completions",status="5xx"}': "0+0x400",
    'epd_roster_pods{role="encode",state="ready"}': "1+0x400",
    'epd_roster_pods{role="decode",state="ready"}': "2+0x400",
    'epd_roster_pods{role="decode",state="unready"}': "0+0x400",
    'epd_roster_stage_missing{stage="encode"}': "0+0x400",
    'epd_roster_stage_missing{stage="decode"}': "0+0x400",
    "epd_roster_current{}": "1+0x400",
    'epd_worker_waiting{worker="w",stage="encode"}': "1+0x400",
    'epd_worker_finished_total{worker="w",stage="encode"}': "0+120x400",
    'epd_worker_started_total{worker="w",stage="encode"}': "0+120x400",
    'epd_worker_leases{worker="w",kind="ec"}': "4+0x400",
    'epd_stage_failures_total{stage="decode",reason="internal"}': "0+0x400",
    LOST: "0+0x400",
    'epd_handoff_duration_seconds_count{kind="kv"}': "0+50x400",
    'epd_gateway_info{version="1",model="m"}': "1+0x400",
    'epd_worker_info{worker="w",version="1",model="m",engine="e"}': "1+0x400",
    FLIPS: "0+0x100 1+0x300",
    FLIPS_BACK: "0+0x200 1+0x200",
    'epd_control_holding{hold="Balanced"}': "1+0x400",
    'epd_control_holding{hold="Minimum"}': "0+0x400",
    "epd_control_last_decision_timestamp_seconds{}": "0+60x400",
    "epd_operator_leading{}": "1+0x400",
    "epd_operator_last_turn_timestamp_seconds{}": "0+60x400",
    "epd_operator_pass_failures_total{}": "0+0x400",
    'epd_operator_certificate_expiry_timestamp_seconds{certificate="leaf"}': "7776000+0x400",
}


def input_series(series: dict[str, str]) -> list[dict[str, str]]:
    """Return series as promtool reads them, all of one cluster."""
    return [
        {"series": name.replace("{", f"{{{OF},").replace(",}", "}"), "values": values}
        for name, values in series.items()
    ]


def fault_test(alert: str, fault: Fault) -> dict[str, object]:
    """Return promtool's test that an alert fires on its fault and resolves after it."""
    firing = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) > 0'
    at = {fault.fires: True, fault.resolves: False}
    return {
        "name": alert,
        "interval": fault.interval,
        "input_series": input_series(fault.series),
        "promql_expr_test": [
            {
                "expr": f"({firing}) * 0 + 1",
                "eval_time": when,
                "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
            }
            for when, fires in at.items()
        ],
    }


def healthy_test(every_minutes: int = 30, until_minutes: int = 390) -> dict[str, object]:
    """Return promtool's test that nothing fires, nor is about to, on the healthy series."""
    return {
        "name": "healthy",
        "interval": "1m",
        "input_series": input_series(HEALTHY),
        "promql_expr_test": [
            {"expr": "ALERTS", "eval_time": f"{minute}m", "exp_samples": []}
            for minute in range(every_minutes, until_minutes, every_minutes)
        ],
    }
