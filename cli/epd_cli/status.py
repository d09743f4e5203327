"""`epd status`: the pods of a running cluster, what they are offered and what they do."""

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any, Final

from epd.vocabulary import Stage
from epd.wire.messages import Load, StageLoad
from epd_cli.connect import chosen_cluster
from epd_cli.tables import print_table
from epd_operator import local_probe
from epd_operator.local_roster import Roster, RosterFile
from epd_operator.local_state import LocalPod, PodState, RunningCluster

SILENT: Final = "does not answer"
"""What is told of a pod that was ready and does not say what it is at: it is frozen, or overrun."""


def run(options: argparse.Namespace) -> int:
    """Print the status, as a table or as JSON."""
    directory = chosen_cluster(options)
    cluster = directory.read()
    roster = RosterFile(directory.roster_file).read()
    status = asyncio.run(collect(cluster, roster))
    status["control"] = _last_pass(directory.control_file)
    if options.output == "json":
        print(json.dumps(status, indent=2))
    else:
        _print(status)
    return 0


def _last_pass(file: Path) -> dict[str, Any] | None:
    """Return the last pass of the control loop; None if there is no loop, or no pass yet."""
    try:
        return dict(json.loads(file.read_bytes()))
    except FileNotFoundError:
        return None


async def collect(cluster: RunningCluster, roster: Roster) -> dict[str, Any]:
    """Return everything there is to know, as JSON data."""
    loads = await asyncio.gather(*(_load_of(pod) for pod in cluster.pods))
    applied = await local_probe.applied_version(cluster.admin_url)
    return {
        "name": cluster.name,
        "model": cluster.model,
        "engine": cluster.engine,
        "processId": cluster.process_id,
        "gateway": {
            "url": f"{cluster.gateway_url}/v1",
            "adminUrl": cluster.admin_url,
            "processId": cluster.gateway_process_id,
            "rosterVersion": applied,
        },
        "rosterVersion": roster.version,
        "pods": [
            _pod_status(pod, roster, load) for pod, load in zip(cluster.pods, loads, strict=True)
        ],
    }


async def _load_of(pod: LocalPod) -> Load | None:
    if not pod.address or not await local_probe.listens(pod.address):
        return None
    async with local_probe.worker(pod.address) as client:
        return await local_probe.load(client)


def _pod_status(pod: LocalPod, roster: Roster, load: Load | None) -> dict[str, Any]:
    role = roster.role_of(pod.name)
    return {
        "name": pod.name,
        "role": role or pod.role,
        "ready": role is not None and load is not None,
        "state": SILENT if pod.state is PodState.READY and load is None else pod.state,
        "processId": pod.process_id,
        "address": pod.address,
        "restarts": pod.restarts,
        "load": load_status(load) if load else None,
    }


def load_status(load: Load) -> dict[str, Any]:
    """Return a worker's load as JSON data."""
    return {
        "stages": {stage: _stage_status(stage_load(load, stage)) for stage in Stage},
        "runningTokens": load.running_tokens,
        "kvUsedPermille": load.kv_used_permille,
        "ecUsedPermille": load.ec_used_permille,
        "kvLeases": load.kv_leases,
        "ecLeases": load.ec_leases,
    }


def stage_load(load: Load, stage: Stage) -> StageLoad:
    """Return the part of a load that is about one stage."""
    match stage:
        case Stage.ENCODE:
            return load.encode
        case Stage.PREFILL:
            return load.prefill
        case Stage.DECODE:
            return load.decode


def _stage_status(load: StageLoad) -> dict[str, int]:
    return {
        "running": load.running,
        "waiting": load.waiting,
        "startedTotal": load.started_total,
        "finishedTotal": load.finished_total,
        "failedTotal": load.failed_total,
        "cancelledTotal": load.cancelled_total,
    }


def _print(status: dict[str, Any]) -> None:
    gateway = status["gateway"]
    applied, version = gateway["rosterVersion"], status["rosterVersion"]
    seen = f"roster version {version}"
    if applied is None:
        seen = "the gateway does not answer"
    elif applied < version:
        seen += f", of which the gateway has seen {applied}"
    print(f"{status['name']}: {status['model']} at {gateway['url']} ({seen})")
    columns = ["POD", "ROLE", "STATE", "PID", "RESTARTS"]
    columns += [f"{stage.upper()} NOW/DONE" for stage in Stage]
    columns += ["KV USED", "LEASES KV/EC"]
    print_table(columns, [_row(pod) for pod in status["pods"]])
    if control := status["control"]:
        _print_control(control)


def _print_control(control: dict[str, Any]) -> None:
    desired = ", ".join(f"{role} {pods}" for role, pods in control["desired"].items())
    did = ", ".join(f"{f['pod']} {f['from']} → {f['to']}" for f in control["enacted"])
    print(f"\ncontrol {control['mode']}, {control['time'][11:19]} UTC: wants {desired}")
    for line in (f"flipped {did}" if did else "", control["problem"], *control["reasons"]):
        if line:
            print(f"  {line}")


def _row(pod: dict[str, Any]) -> list[str]:
    row = [pod["name"], pod["role"], pod["state"], str(pod["processId"] or "-")]
    row.append(str(pod["restarts"]))
    load = pod["load"]
    if load is None:
        return [*row, *["-"] * (len(Stage) + 2)]
    stages = [load["stages"][stage] for stage in Stage]
    row += [f"{stage['running'] + stage['waiting']}/{stage['finishedTotal']}" for stage in stages]
    return [*row, f"{load['kvUsedPermille'] / 10:.1f} %", f"{load['kvLeases']}/{load['ecLeases']}"]
