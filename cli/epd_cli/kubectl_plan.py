"""`kubectl epd plan`: `epd plan` for a cluster that runs, by the traffic that Prometheus saw.

The spec says objective and fleet, Prometheus rates and means, a curves file what stages cost; the
simulator says what fleet such traffic takes.
"""

import argparse
import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from epd.api import EPDCluster
from epd.api.curves import CurvesError, CurvesFile
from epd.api.load import validate_cluster
from epd.api.names import EngineType
from epd.api.problems import ClusterError
from epd.api.roles import chosen_method, split_problems
from epd.vocabulary import Role
from epd_cli.failures import CommandError, UsageError
from epd_cli.kubectl import Kubectl
from epd_cli.kubectl_top import forwarded
from epd_cli.kubectl_view import pod_view
from epd_cli.study_traffic import bar
from epd_operator.control.ports import MetricsUnavailable
from epd_operator.control.prometheus import PrometheusMetrics
from epd_operator.control.signals import Traffic, quantile
from epd_operator.control.translate import Known, learnt
from epd_sim.costs import StageCosts
from epd_sim.observed import Observed
from epd_sim.policies import Setup
from epd_sim.results import Slo
from epd_sim.study import FleetPlan, attainment, plan_fleet

MAX_AGE_S: Final = 120.0
"""Metrics older than this are not of the traffic now."""

_WITH_IMAGES: Final = "1+"
_SERVICE: Final = re.compile(r"([a-z0-9-]+)/([a-z0-9-]+):(\d+)")
_LEAST_SECONDS, _MOST_SECONDS = 60.0, 300.0
_REQUESTS: Final = 5000
"""About as many are simulated, for each fleet that is thought of."""


@dataclass(frozen=True, slots=True)
class Present:
    """A cluster as it is.

    Attributes:
        name: Namespace and name.
        cluster: What it should be.
        split: Its pods by role.
        traffic: What Prometheus saw.
        observed: The same as rates and means.
    """

    name: str
    cluster: EPDCluster
    split: Mapping[Role, int]
    traffic: Traffic
    observed: Observed


def plan(
    kubectl: Kubectl, clusters: str, selector: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Return what a cluster has, what its traffic takes, and what to do about it.

    Args:
        kubectl: How to ask.
        clusters: The kind of the objects.
        selector: Labels of the cluster's worker pods.
        options: Of the command line.

    Raises:
        CommandError: There is no cluster, no Prometheus, no traffic, or no curves.
    """
    owner = kubectl.get(clusters, options.cluster)
    try:
        cluster = validate_cluster({k: v for k, v in owner.items() if k != "status"})
    except ClusterError as error:
        raise CommandError(f"{options.cluster}: {' '.join(str(error).split())}") from None
    costs = costs_of(cluster, options.curves)
    views = [pod_view(pod) for pod in kubectl.find("pods", selector)]
    roles = Counter(Role(v["role"]) for v in views if v["role"] in set(Role) and v["ready"])
    namespace = owner["metadata"]["namespace"]
    with reachable(kubectl, options.prometheus) as url:
        traffic = _traffic(url, namespace, options)
    observed = observed_of(traffic, options.image_tokens)
    name = f"{namespace}/{options.cluster}"
    return document(Present(name, cluster, roles, traffic, observed), costs, options)


def costs_of(cluster: EPDCluster, file: str | None) -> StageCosts:
    """Return what stages cost: by the file, or by the curves that a simulated engine runs on.

    Raises:
        CommandError: A real engine and no file, or one that cannot be used.
    """
    engine = cluster.spec.engine
    simulated = engine.type is EngineType.SIMULATED
    its_own = engine.simulated and engine.simulated.cost_curves_file
    if not file and (not simulated or its_own):
        what = f"{its_own} is a file of the pods" if its_own else "the engine is a real one"
        raise CommandError(
            f"what do its stages cost? {what}: measure a worker with epd profile, "
            "and give --curves FILE"
        )
    try:
        return StageCosts.of(CurvesFile.read(Path(file) if file else None))
    except CurvesError as error:
        raise CommandError(str(error)) from None


@contextmanager
def reachable(kubectl: Kubectl, prometheus: str | None) -> Iterator[str]:
    """Give the URL of Prometheus; a Service is reached by a forwarded port.

    Raises:
        CommandError: None was named, or it cannot be reached.
        UsageError: It is neither a URL nor a Service.
    """
    if not prometheus:
        raise CommandError(
            "which traffic? name a Prometheus that scrapes it: --prometheus URL, "
            "or NAMESPACE/SERVICE:PORT"
        )
    if prometheus.startswith(("http://", "https://")):
        yield prometheus
        return
    service = _SERVICE.fullmatch(prometheus)
    if service is None:
        raise UsageError(f"--prometheus {prometheus}: a URL, or NAMESPACE/SERVICE:PORT")
    there = replace(kubectl, namespace=service[1])
    with forwarded(there, f"service/{service[2]}", int(service[3])) as port:
        yield f"http://127.0.0.1:{port}"


def _traffic(url: str, namespace: str, options: argparse.Namespace) -> Traffic:
    # As the chart's PodMonitor labels them.
    matchers = {"namespace": namespace, "epd_dev_cluster": options.cluster}
    metrics = PrometheusMetrics(url, matchers, options.window_s, max_age_s=MAX_AGE_S)
    try:
        traffic = asyncio.run(metrics.read())
    except MetricsUnavailable as error:
        raise CommandError(f"Prometheus: {error}") from None
    if traffic.age_s > MAX_AGE_S:
        raise CommandError(f"Prometheus: its newest sample is {traffic.age_s:.0f} s old")
    return traffic


def observed_of(traffic: Traffic, image_tokens: float | None = None) -> Observed:
    """Return the rates and means of measured traffic.

    Args:
        traffic: As the control loop reads it.
        image_tokens: Of an image, where images are encoded with their prompts: nobody counts then.

    Raises:
        CommandError: There was none, or the tokens of images are not known.
    """
    known = learnt(Known(), traffic)
    total = sum(traffic.accepted.values())
    if known.shape is None or total <= 0:
        raise CommandError(
            f"no traffic yet: Prometheus saw no request answered in the last "
            f"{traffic.window_s:.0f} s; wait, or look further back with --window-s"
        )
    shape, with_images = known.shape, traffic.accepted.get(_WITH_IMAGES, 0.0)
    tokens = image_tokens or shape.image_tokens
    if with_images and not tokens:
        raise CommandError(
            "images are encoded with their prompts here, so nobody counts their tokens; "
            "give --image-tokens N"
        )
    answers = known.answer_tokens
    return Observed(
        requests_per_s=total,
        image_share=with_images / total,
        images=traffic.images / with_images if with_images else 0.0,
        image_tokens=tokens,
        text_tokens=max(1.0, shape.prompt_tokens - shape.images * tokens),
        output_tokens=answers.get("0", shape.output_tokens),
        image_output_tokens=answers.get(_WITH_IMAGES, shape.output_tokens),
    )


def document(present: Present, costs: StageCosts, options: argparse.Namespace) -> dict[str, Any]:
    """Simulate, and return all of it as plain data."""
    spec, observed, traffic = present.cluster.spec, present.observed, present.traffic
    share = spec.slo.attainment_percent / 100
    slo = Slo(spec.slo.ttft_milliseconds, spec.slo.tpot_milliseconds, attainment=share)
    enough_s = _REQUESTS / observed.requests_per_s
    seconds = options.seconds or min(_MOST_SECONDS, max(_LEAST_SECONDS, enough_s))
    workload = observed.draw(seconds, options.seed)
    if not workload:
        raise CommandError("no request comes in this time: give more --seconds")
    setup = Setup(costs, slo, pods=options.pods)
    plans: list[FleetPlan] = []
    with bar(5) as progress:
        task = progress.tasks[0].id
        now = attainment(setup, workload, present.split) if present.split else None
        progress.advance(task)
        for found in plan_fleet(setup, workload, options.pods):
            plans.append(found)
            progress.advance(task)
    plans.sort(key=lambda found: (not found.meets_slo, found.pods, -found.attainment))
    return {
        "cluster": present.name,
        "traffic": {
            "window_s": round(traffic.window_s),
            **{name: round(value, 4) for name, value in asdict(observed).items()},
            "ttft_ms": quantile(traffic.ttft_ms, share),
            "tpot_ms": quantile(traffic.tpot_ms, share),
        },
        "slo": {"ttft_ms": slo.ttft_ms, "tpot_ms": slo.tpot_ms, "attainment": share},
        "costs": costs.name,
        "simulated": {"seconds": round(seconds), "requests": len(workload), "seed": options.seed},
        "now": {
            "pods": spec.replicas,
            "method": spec.method.value,
            "split": {role.value: count for role, count in sorted(present.split.items())},
            "attainment": now,
        },
        "plans": [
            {
                "method": str(found.choice.method),
                "pods": found.pods,
                "split": {role.value: count for role, count in found.choice.pods.items()},
                "attainment": found.attainment,
                "meets_slo": found.meets_slo,
                "predicted_requests_per_s": found.choice.requests_per_s,
                "weakest": found.choice.weakest.value,
            }
            for found in plans
        ],
        "command": _command(present, plans[0]) if plans[0].meets_slo else "",
    }


def _command(present: Present, best: FleetPlan) -> str:
    """Return what makes it so; empty: it is."""
    namespace, _, name = present.name.partition("/")
    spec, where = present.cluster.spec, f"epd/{name} -n {namespace}"
    # `Auto` may come to another method with another number of pods.
    sized = spec.model_copy(update={"replicas": best.pods})
    if split_problems(sized) or chosen_method(sized) is not best.choice.method:
        wanted = json.dumps({"spec": {"method": best.choice.method, "replicas": best.pods}})
        return f"kubectl patch {where} --type=merge -p '{wanted}'"
    if spec.replicas != best.pods:
        return f"kubectl scale {where} --replicas={best.pods}"
    return ""
