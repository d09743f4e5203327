"""`kubectl epd`: the clusters of Kubernetes as EPD sees them.

Exit status: 0 done, 1 it did not work, 2 what was asked for makes no sense.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, Final

import yaml

from epd.vocabulary import (
    API_GROUP,
    CLUSTER_LABEL,
    COMPONENT_LABEL,
    KIND,
    LLM_D_ROLE_LABEL,
    PLURAL,
    ROLE_LABEL,
    Component,
    Role,
    Stage,
)
from epd_cli import kubectl_plan_view, kubectl_top, study_options
from epd_cli.__main__ import Parser
from epd_cli.failures import FAILURES, CommandError, UsageError, status_of
from epd_cli.kubectl import Kubectl
from epd_cli.kubectl_view import (
    CLUSTER_COLUMNS,
    POD_COLUMNS,
    cluster_row,
    cluster_view,
    explanation,
    now_utc,
    pod_row,
    pod_view,
)
from epd_cli.tables import print_table

CLUSTERS: Final = f"{PLURAL}.{API_GROUP}"
SHOWN_EVENTS: Final = 8
EPILOG: Final = """\
examples:
  kubectl epd status -A                          all clusters
  kubectl epd roles demo                         its pods and their roles
  kubectl epd flip demo-1 encode-prefill         nothing restarts, no stream is dropped
  kubectl epd explain demo                       why the split is as it is
  kubectl epd plan demo --prometheus monitoring/prometheus:9090 --curves h200.yaml
                                                 pods, method and split for its traffic
  kubectl epd top demo                           all of it at one look, anew each second
  kubectl epd logs demo --role decode -f
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    common = Parser(add_help=False)
    common.add_argument("-n", "--namespace", default="", metavar="NS")
    common.add_argument("-A", "--all-namespaces", action="store_true")
    common.add_argument("--context", metavar="NAME", help="as kubectl has it")
    common.add_argument("--kubeconfig", metavar="FILE", help="as kubectl has it")
    shown = Parser(add_help=False)
    shown.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")
    root = Parser(
        prog="kubectl epd",
        description="Look at EPDCluster objects and their pods, and change roles.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, summary: str, *parents: Parser) -> Parser:
        return commands.add_parser(
            name, help=summary, description=summary, parents=[common, *parents]
        )

    status = add("status", "Show clusters: ready, pods, roles, objectives.", shown)
    status.add_argument("cluster", nargs="?", metavar="CLUSTER")
    roles = add("roles", "Show worker pods and their roles.", shown)
    roles.add_argument("cluster", nargs="?", metavar="CLUSTER")
    flip = add("flip", "Change the role of a running pod.", shown)
    flip.add_argument("pod", metavar="POD")
    flip.add_argument("role", metavar="ROLE", help=", ".join(Role))
    explain = add("explain", "Say why a cluster's split is as it is.", shown)
    explain.add_argument("cluster", metavar="CLUSTER")
    study_options.add_live_plan(add("plan", "Say what fleet a cluster's traffic takes.", shown))
    top = add("top", "Show pods, stages, objective and decisions, anew each second.")
    top.add_argument("cluster", metavar="CLUSTER")
    top.add_argument("--once", action="store_true", help="print plain text, once")
    logs = add("logs", "Show the logs of a cluster's pods, as kubectl logs does.")
    logs.add_argument("cluster", metavar="CLUSTER")
    logs.add_argument("--component", choices=("worker", "gateway"), default="worker")
    logs.add_argument("--role", metavar="ROLE", help="workers of this role only")
    logs.add_argument("-f", "--follow", action="store_true")
    logs.add_argument("--tail", type=int, default=20, metavar="LINES", help="(%(default)s)")
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    options = parser().parse_args(arguments)
    try:
        _COMMANDS[options.command](_kubectl(options), options)
    except KeyboardInterrupt:
        return 130
    except FAILURES as failure:
        print(f"kubectl epd {options.command}: {failure}", file=sys.stderr)
        return status_of(failure)
    return 0


def _kubectl(options: argparse.Namespace) -> Kubectl:
    chosen = {"--context": options.context, "--kubeconfig": options.kubeconfig}
    flags = tuple(f"{name}={value}" for name, value in chosen.items() if value)
    if options.all_namespaces and options.command not in ("status", "roles"):
        raise UsageError("-A is for status and roles; name the namespace with -n")
    return Kubectl(flags, options.namespace, options.all_namespaces)


def _status(kubectl: Kubectl, options: argparse.Namespace) -> None:
    one = options.cluster
    found = [kubectl.get(CLUSTERS, one)] if one else kubectl.find(CLUSTERS)
    views = [cluster_view(cluster) for cluster in found]
    rows = [cluster_row(view, now_utc()) for view in views]
    _show(options, views, CLUSTER_COLUMNS, rows, f"no {KIND} here; -A looks everywhere")


def _roles(kubectl: Kubectl, options: argparse.Namespace) -> None:
    views = [pod_view(pod) for pod in kubectl.find("pods", _selector(options.cluster))]
    rows = [pod_row(view, now_utc()) for view in views]
    _show(options, views, POD_COLUMNS, rows, "no worker pod here; -A looks everywhere")


def _flip(kubectl: Kubectl, options: argparse.Namespace) -> None:
    role = _role(options.role)
    pod = kubectl.get("pods", options.pod)
    view, labels = pod_view(pod), pod["metadata"].get("labels") or {}
    if labels.get(COMPONENT_LABEL) != Component.WORKER or not view["cluster"]:
        raise UsageError(f"{options.pod} is no worker pod of an {KIND}; see kubectl epd roles")
    if view["state"] == "Terminating":
        raise CommandError(f"{options.pod} is being deleted")
    if role == labels.get(ROLE_LABEL) == labels.get(LLM_D_ROLE_LABEL):
        patched = pod
    else:
        # Whoever changed it since we looked decided on another pod than the one we saw.
        metadata = {
            "resourceVersion": pod["metadata"]["resourceVersion"],
            "labels": {ROLE_LABEL: role.value, LLM_D_ROLE_LABEL: role.value},
        }
        patched = kubectl.patch("pods", options.pod, {"metadata": metadata})
    version = patched["metadata"]["resourceVersion"]
    done = {"pod": view["name"], "from": view["role"], "to": role.value, "resourceVersion": version}
    if options.output != "table":
        _dump(options, done)
        return
    before = view["role"] or "no role"
    print(f"{view['name']}: {before} → {role}" if patched is not pod else f"already {role}")
    peers = [pod_view(peer) for peer in kubectl.find("pods", _selector(view["cluster"]))]
    missing = _uncovered([peer["role"] for peer in peers])
    if missing:
        print(f"note: no pod is offered {' or '.join(missing)} now; that work goes to any pod")


def _explain(kubectl: Kubectl, options: argparse.Namespace) -> None:
    cluster = kubectl.get(CLUSTERS, options.cluster)
    view, uid = cluster_view(cluster), cluster["metadata"]["uid"]
    events = [
        event
        for event in kubectl.find("events")
        if event.get("involvedObject", {}).get("uid") == uid
    ]
    events.sort(key=lambda e: e.get("lastTimestamp") or e["metadata"]["creationTimestamp"])
    events = events[-SHOWN_EVENTS:]
    if options.output != "table":
        told = [{"reason": e.get("reason"), "message": e.get("message")} for e in events]
        _dump(options, {**view, "events": told})
        return
    print("\n".join(explanation(view, events, now_utc())))


def _plan(kubectl: Kubectl, options: argparse.Namespace) -> None:
    # The simulator takes a second to load, which other commands need not wait for.
    from epd_cli import kubectl_plan

    found = kubectl_plan.plan(kubectl, CLUSTERS, _selector(options.cluster), options)
    if options.output != "table":
        _dump(options, found)
    else:
        print("\n".join(kubectl_plan_view.heading(found)) + "\n")
        print_table(kubectl_plan_view.PLAN_COLUMNS, kubectl_plan_view.rows(found))
    if not found["plans"][0]["meets_slo"]:
        raise CommandError(
            f"no method meets the objective with {options.pods} pods: allow more with --pods"
        )
    if options.output == "table":
        print("\n" + "\n".join(kubectl_plan_view.advice(found)))


def _logs(kubectl: Kubectl, options: argparse.Namespace) -> None:
    selector = _selector(options.cluster, Component(options.component))
    if options.role:
        if options.component != Component.WORKER:
            raise UsageError("--role is for workers; gateways have none")
        selector += f",{ROLE_LABEL}={_role(options.role)}"
    arguments = ["logs", f"--selector={selector}", "--prefix", f"--tail={options.tail}"]
    arguments += ["--all-containers", "--max-log-requests=1024"]
    sys.stdout.flush()
    kubectl.become([*arguments, *(["--follow"] if options.follow else [])])


def _top(kubectl: Kubectl, options: argparse.Namespace) -> None:
    selector = _selector(options.cluster, Component.GATEWAY)
    kubectl_top.top(kubectl, CLUSTERS, options.cluster, selector, once=options.once)


_COMMANDS: Final = {
    "status": _status, "roles": _roles, "flip": _flip, "explain": _explain, "logs": _logs,
    "top": _top, "plan": _plan,
}  # fmt: skip


def _selector(cluster: str | None, component: Component = Component.WORKER) -> str:
    return f"{CLUSTER_LABEL}{f'={cluster}' if cluster else ''},{COMPONENT_LABEL}={component}"


def _role(text: str) -> Role:
    try:
        return Role.parse(text)
    except ValueError as unknown:
        raise UsageError(str(unknown)) from None


def _uncovered(roles: Sequence[str]) -> list[Stage]:
    known = [Role(role) for role in roles if role in set(Role)]
    offered = {stage for role in known for stage in role.stages}
    return [stage for stage in Stage if stage not in offered]


def _show(
    options: argparse.Namespace,
    views: list[dict[str, Any]],
    columns: Sequence[str],
    rows: list[list[str]],
    nothing: str,
) -> None:
    if options.output != "table":
        _dump(options, views)
    elif not rows:
        print(nothing, file=sys.stderr)
    elif options.all_namespaces:
        named = [[view["namespace"], *row] for view, row in zip(views, rows, strict=True)]
        print_table(("NAMESPACE", *columns), named)
    else:
        print_table(columns, rows)


def _dump(options: argparse.Namespace, what: object) -> None:
    if options.output == "json":
        print(json.dumps(what, indent=2))
    else:
        print(yaml.safe_dump(what, sort_keys=False), end="")


if __name__ == "__main__":
    sys.exit(main())
