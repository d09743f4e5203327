"""Alerts fired by the faults they are for: one cluster, a real Prometheus, a real Alertmanager.

The rules are ours, generated with every duration divided by one factor. Tests run in this order:
what misses the objective comes first, for the burn rates remember it. What fires which alert stands
in `alert_faults`; those of the operator have their test beside a real API server.
"""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from alert_faults import OF_CLUSTER, OF_OPERATOR
from alert_pager import alertmanager_program
from monitoring.live.traffic import Mix, Traffic
from monitoring.rules import ALERTS
from programs_of_prometheus import needs_prometheus
from watched_up import MODEL, WatchedUp, watched_up

from epd.vocabulary import Role

WORDS, PICTURES, FLOOD = Mix(6, 0, 10), Mix(4, 1, 10), Mix(48, 1, 4)

pytestmark = [pytest.mark.timeout(420), needs_prometheus]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedUp]:
    with watched_up(tmp_path_factory.mktemp("watched")) as watched:
        yield watched


def test_every_alert_is_fired_by_a_fault_here_or_beside_the_operator() -> None:
    assert sorted([*OF_CLUSTER, *OF_OPERATOR]) == sorted(alert.name for alert in ALERTS)


def test_slow_pods_burn_the_budget_of_the_time_per_token(watched: WatchedUp) -> None:
    with Traffic(watched.url, MODEL, WORDS) as traffic:
        watched.until(lambda: traffic.answered > 5)
        slow = [watched.pod(Role.DECODE, number).name for number in range(2)]
        with ExitStack() as faults:
            for pod in slow:
                faults.enter_context(watched.fault("slow", pod))
            watched.fires("EPDTPOTBurnsFast")
            title = "Time per token, of what is allowed"
            watched.until(lambda: watched.is_red(title, "EPDTPOTBurnsFast"))
            said = watched.first_command_of("EPDTPOTBurnsFast")
            assert all(pod in said for pod in slow)
            of_slo = re.findall(r"^decode .* (\d+) %$", said, re.MULTILINE)
            assert int(of_slo[0]) > 100, said
            watched.fires("EPDTPOTBurnsSlowly")
    assert "EPDTTFTBurnsFast" not in watched.pager.firing


def test_a_flood_of_pictures_burns_the_budget_of_the_first_token_and_lost_handoffs_are_told(
    watched: WatchedUp,
) -> None:
    watched.is_quiet_of("EPDHandoffsFail", "EPDStagesFail")
    losing = [watched.pod(Role.DECODE, number).name for number in range(2)]
    with Traffic(watched.url, MODEL, FLOOD), ExitStack() as faults:
        for pod in losing:
            faults.enter_context(watched.fault("lossy-handoff", pod, 120, "--share=0.5"))
        watched.fires("EPDHandoffsFail")
        watched.until(lambda: watched.is_red("Stages that failed", "EPDHandoffsFail"))
        said = watched.first_command_of("EPDHandoffsFail")
        lost = [line for line in said.splitlines() if "handoff_lost" in line]
        assert {line.split()[0].strip("[]") for line in lost} >= set(losing)
        watched.fires("EPDTTFTBurnsFast", "EPDStageStarved", "EPDHeldTooLong")
        watched.fires("EPDStagesFail", "EPDTTFTBurnsSlowly")
    assert {each["reason"] for each in watched.pager.labels("EPDStagesFail")} == {"handoff_lost"}
    assert "encode" in {each["stage"] for each in watched.pager.labels("EPDStageStarved")}
    assert "Minimum" in {each["hold"] for each in watched.pager.labels("EPDHeldTooLong")}
    watched.is_quiet_of("EPDHandoffsFail")


def test_a_gateway_that_lost_its_roster_is_told_and_is_well_again(watched: WatchedUp) -> None:
    before = watched.other_roster.read_text()
    watched.other_roster.write_text("{")
    watched.fires("EPDRosterStale")
    watched.other_roster.write_text(before)
    watched.is_quiet_of("EPDRosterStale")


def test_leases_of_a_dead_gateway_a_foreign_flipper_and_another_release_are_told(
    watched: WatchedUp,
) -> None:
    with Traffic(watched.url, MODEL, PICTURES) as traffic:
        watched.until(lambda: traffic.answered > 3)
        with watched.fault("freeze", watched.pod(Role.PREFILL).name):
            kept = 'sum(epd_worker_leases{kind="ec"})'
            # Prefill takes none now: what encode has made stays.
            watched.until(lambda: watched.ask(kept) >= [2.0])
            gateway = watched.cluster.running.gateway_process_id
            assert gateway is not None
            os.kill(gateway, signal.SIGKILL)
    watched.until(lambda: watched.cluster.running.gateway_process_id not in (None, gateway))
    watched.until(lambda: flip_against(watched) and "EPDFlapping" in watched.pager.firing)
    # That leases end by their time takes a minute, which no rule can shorten.
    watched.fires("EPDLeasesLeak", "EPDVersionSkew")
    watched.other_gateway.kill()
    watched.is_quiet_of("EPDFlapping", "EPDVersionSkew")


def flip_against(watched: WatchedUp) -> bool:
    """Once the loop has the split it wants, take a pod from it: to and fro in turns."""
    pods = {pod.name: pod.role for pod in watched.roster.read().workers}
    encoding = [name for name, role in pods.items() if role is Role.ENCODE]
    decoding = [name for name, role in pods.items() if role is Role.DECODE]
    if (len(encoding), len(decoding)) != (1, 2):
        return True
    flips = sum(watched.ask("sum(epd_control_flips_total)"))
    if flips % 2:
        watched.roster.flip(decoding[0], Role.ENCODE)
    else:
        watched.roster.flip(encoding[0], Role.DECODE)
    watched.until(lambda: sum(watched.ask("sum(epd_control_flips_total)")) > flips)
    return True


def test_a_killed_pod_leaves_a_stage_without_one(watched: WatchedUp) -> None:
    alert = "EPDStageWithoutPod"
    watched.is_quiet_of(alert)

    def is_told() -> bool:
        """Kill it whenever it is up, as a pod that crashes again and again."""
        victim = watched.pod(Role.PREFILL)
        if victim.state == "ready":
            with watched.fault("kill", victim.name):
                pass
        if alert not in watched.pager.firing:
            return False
        if not watched.is_red("Stages without a pod", alert):
            return False
        said = watched.first_command_of(alert).splitlines()
        of_victim = [line for line in said if line.startswith(f"{victim.name} ")]
        assert "prefill" in of_victim[0]
        return any(state in of_victim[0] for state in ("restarting", "starting", "loading"))

    watched.until(is_told)
    watched.is_quiet_of(alert)


def test_when_all_pods_are_frozen_nobody_is_served_and_nothing_is_decided(
    watched: WatchedUp,
) -> None:
    frozen = ("EPDNoReadyPods", "EPDRequestsFail", "EPDDecisionsStale")
    watched.is_quiet_of(*frozen)
    names = [pod.name for pod in watched.cluster.running.pods]
    with Traffic(watched.url, MODEL, Mix(2, 0, 10)), ExitStack() as faults:
        for name in names:
            faults.enter_context(watched.fault("freeze", name))
        watched.fires("EPDNoReadyPods")
        watched.until(lambda: watched.is_red("Stages without a pod", "EPDNoReadyPods"))
        said = watched.first_command_of("EPDNoReadyPods")
        for name in names:
            (line,) = (line for line in said.splitlines() if line.startswith(f"{name} "))
            assert "does not answer" in line
        watched.fires(*frozen)
    watched.is_quiet_of("EPDNoReadyPods", "EPDDecisionsStale")


def test_every_alert_of_the_table_has_fired_by_now(watched: WatchedUp) -> None:
    assert [alert for alert in OF_CLUSTER if not watched.pager.labels(alert)] == []
    assert watched.pager.by_alertmanager is (alertmanager_program() is not None)
