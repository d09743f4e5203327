"""One trace for two clusters: real processes under a real Prometheus, and the simulator's.

Both run the operator's control loop with the same settings, on the same cost curves, which the
processes' simulated engines take in real time. Sizes are such that the machine has little to do;
a machine that has no time even for that is given more: all durations can be stretched.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import yaml
from prometheus_server import prometheus
from running_cluster import Cluster, manifest

from epd.api.curves import CurvesFile
from epd.api.names import ControlMode
from epd.policy.control_view import Limits
from epd.policy.control_view import Slo as PolicySlo
from epd.vocabulary import Method, Role
from epd_cli.demo_images import draw, image_part
from epd_operator.control.curves_file import curves_of
from epd_operator.control.loop import Controller
from epd_operator.control.ports import MetricsUnavailable, Pass
from epd_operator.control.prometheus import PrometheusMetrics
from epd_operator.control.translate import Aim
from epd_operator.local_control import LocalFleet
from epd_operator.local_roster import RosterFile
from epd_sim.batching import Batching
from epd_sim.control import ElasticSettings
from epd_sim.costs import StageCosts
from epd_sim.gateway import GatewayPlacer
from epd_sim.operator_loop import OperatorLoop
from epd_sim.results import Slo
from epd_sim.workload import Request, Shape
from epd_sim.world import World

PODS: Final = 6
FIRST: Final = {Role.ENCODE: 2, Role.PREFILL: 2, Role.DECODE: 2}
CHAT: Final = Shape(100, 16)
CAPTION: Final = Shape(28, 8, (4, 4))
PICTURE_SIZE: Final = (64, 64)  # four tokens
_TEXT_TOKENS_OF_MESSAGE: Final = 4
_BYTES_PER_TOKEN: Final = 4
_READ_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True)
class Pace:
    """How much longer everything takes than is planned: work, gaps, objectives and the loop.

    Attributes:
        stretch: 2 is half as fast.
    """

    stretch: float

    @property
    def curves(self) -> dict[str, object]:
        """A prompt's token costs 1 ms, an image 100 ms, a decode step 20 ms and a little more."""
        ms = self.stretch
        return {
            "encode": {"batch_ms": 0.0, "image_ms": [[0, 0.0], [4, 100.0 * ms]]},
            "prefill_ms": [[0, 0.0], [4096, 4096.0 * ms]],
            "decode_step": {
                "batch_ms": [[1, 20.0 * ms], [64, 30.0 * ms]],
                "ms_per_1000_tokens": 0.0,
            },
        }

    @property
    def slo(self) -> Slo:
        """What is asked of both."""
        return Slo(ttft_ms=2000 * self.stretch, tpot_ms=60 * self.stretch)

    @property
    def limits(self) -> Limits:
        """What both loops keep to."""
        return Limits(cooldown_s=2.0 * self.stretch, max_age_s=5.0 * self.stretch)

    @property
    def interval_s(self) -> float:
        """From one pass of the loop to the next."""
        return 1.0 * self.stretch

    @property
    def window_s(self) -> float:
        """What the loop looks back on."""
        return 5.0 * self.stretch

    def square_wave(self, phase_s: float, phases: int, seed: int) -> list[Request]:
        """Return chats and captions by turns, each kind worth two pods and a bit of one stage.

        `phase_s` is a phase's length before it is stretched.
        """
        rng = np.random.default_rng(seed)
        requests: list[Request] = []
        for phase in range(phases):
            shape, rate = ((CHAT, 22.0), (CAPTION, 11.0))[phase % 2]
            count = round(rate * phase_s)
            times = np.sort(rng.uniform(0, phase_s, count)) + phase * phase_s
            requests += [
                Request(len(requests) + n, float(at_s) * self.stretch, shape)
                for n, at_s in enumerate(times)
            ]
        return requests

    def write_curves(self, folder: Path) -> Path:
        """Write the curves that both take."""
        path = folder / "curves.yaml"
        path.write_text(yaml.safe_dump(self.curves))
        return path


@dataclass
class Seen:
    """What one of the two clusters did.

    Attributes:
        flips: When, from which role, to which.
        good: Requests that met the SLO.
        ttft_ms: Of every request that was answered.
        late_ms: How long after its time each request was sent; empty where time is simulated.
    """

    flips: list[tuple[float, Role, Role]] = field(default_factory=list)
    good: int = 0
    ttft_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)

    @property
    def moves(self) -> list[str]:
        """The flips in their order, without their times."""
        return [f"{source} to {target}" for _, source, target in self.flips]

    @property
    def late_p90_ms(self) -> float:
        """How much the machine itself held up what was to be sent."""
        return float(np.percentile(self.late_ms, 90)) if self.late_ms else 0.0

    def __str__(self) -> str:
        flips = ", ".join(f"{at_s:.1f} s {a} to {b}" for at_s, a, b in self.flips)
        p50, p90 = np.percentile(self.ttft_ms, (50, 90)) if self.ttft_ms else (0.0, 0.0)
        return (
            f"{self.good} good, TTFT {p50:.0f} and {p90:.0f} ms (p50, p90), "
            f"sent {self.late_p90_ms:.1f} ms late (p90); {flips}"
        )


def simulated(trace: Sequence[Request], curves: Path, pace: Pace) -> Seen:
    """Serve the trace in the simulator."""
    settings = ElasticSettings(
        interval_s=pace.interval_s, window_s=pace.window_s, limits=pace.limits
    )
    loop = OperatorLoop(Method.E_P_D, pace.slo, settings)
    world = World(
        [role for role, count in FIRST.items() for _ in range(count)],
        StageCosts.of(CurvesFile.read(curves)),
        GatewayPlacer(),
        controller=loop,
        batching=Batching("simulated engine", token_budget=8192, stretch=0.0),
    )
    results = world.run(trace)
    seen = Seen(ttft_ms=[float(ms) for ms in results.ttft_ms if ms == ms])
    seen.good = round(results.attainment(pace.slo) * len(trace))
    roles = [role for role, count in FIRST.items() for _ in range(count)]
    for at_s, pod, role in world.flips:
        seen.flips.append((at_s, roles[pod], role))
        roles[pod] = role
    return seen


class _Reporter:
    """Keeps the flips that were made."""

    def __init__(self, seen: Seen) -> None:
        self.begin_s = time.monotonic()
        self.problems: list[str] = []
        self._seen = seen

    async def report(self, done: Pass) -> None:
        """Take note of a pass."""
        now_s = time.monotonic() - self.begin_s
        self._seen.flips += [(now_s, flip.from_role, flip.to_role) for flip in done.enacted]
        if done.problem:
            self.problems.append(done.problem)


async def real(trace: Sequence[Request], curves: Path, folder: Path, pace: Pace) -> Seen:
    """Serve the trace by processes on this machine, which a Prometheus scrapes."""
    simulated_engine = {"type": "Simulated", "simulated": {"costCurvesFile": str(curves)}}
    spec = manifest("twin", Path("simulated"), engine=simulated_engine, replicas=PODS)
    cluster = Cluster(spec, folder)
    bodies = [_body(request) for request in trace]
    await asyncio.to_thread(cluster.start)
    try:
        addresses = [pod.address.rpartition(":") for pod in cluster.running.pods]
        jobs = {
            "gateway": [cluster.running.gateway_url.removeprefix("http://")],
            "worker": [f"{host}:{int(port) + 1}" for host, _, port in addresses],
        }
        with prometheus(folder / "prometheus", jobs) as server:
            return await _serve(cluster, server.url, trace, bodies, curves, pace)
    finally:
        await asyncio.to_thread(cluster.stop)


async def _serve(
    cluster: Cluster,
    url: str,
    trace: Sequence[Request],
    bodies: list[bytes],
    curves: Path,
    pace: Pace,
) -> Seen:
    seen = Seen()
    limits, slo = pace.limits, pace.slo
    metrics = PrometheusMetrics(url, {"cluster": "test"}, pace.window_s, max_age_s=limits.max_age_s)
    while not await _all_report(metrics):  # noqa: ASYNC110 - Prometheus is only asked
        await asyncio.sleep(0.2)
    reporter = _Reporter(seen)
    controller = Controller(
        fleet=LocalFleet(RosterFile(cluster.state.roster_file), lambda: cluster.running.admin_url),
        metrics=metrics,
        reporter=reporter,
        clock=time.monotonic,
        aim=Aim(PolicySlo(slo.ttft_ms, slo.tpot_ms, slo.attainment), limits, {}, Method.E_P_D),
        mode=ControlMode.ACTIVE,
        curves=curves_of(CurvesFile.read(curves)),
    )
    async with httpx.AsyncClient(
        base_url=cluster.running.gateway_url, limits=httpx.Limits(max_connections=None),
        timeout=_READ_TIMEOUT_S * pace.stretch, trust_env=False,
    ) as client:  # fmt: skip
        loop = asyncio.create_task(controller.run(pace.interval_s))
        begin_s = reporter.begin_s = time.monotonic()
        asked = []
        for request, body in zip(trace, bodies, strict=True):
            due_s = begin_s + request.arrival_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            seen.late_ms.append((time.monotonic() - due_s) * 1e3)
            asked.append(asyncio.create_task(_ask(client, body, seen, slo)))
        await asyncio.gather(*asked)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
    assert not reporter.problems, reporter.problems
    return seen


async def _all_report(metrics: PrometheusMetrics) -> bool:
    try:
        return len((await metrics.read()).workers) == PODS
    except MetricsUnavailable:
        return False


async def _ask(client: httpx.AsyncClient, body: bytes, seen: Seen, slo: Slo) -> None:
    """Ask, and note when the tokens came."""
    begin_s = time.monotonic()
    headers = {"content-type": "application/json"}
    url = "/v1/chat/completions"
    async with client.stream("POST", url, content=body, headers=headers) as answer:
        assert answer.status_code == 200
        times_s = [
            time.monotonic()
            async for line in answer.aiter_lines()
            if '"content":"' in line and '"content":""' not in line
        ]
    ttft_ms = (times_s[0] - begin_s) * 1e3
    gaps = len(times_s) - 1
    tpot_ms = (times_s[-1] - times_s[0]) / gaps * 1e3 if gaps else 0.0
    seen.ttft_ms.append(ttft_ms)
    seen.good += ttft_ms <= slo.ttft_ms and tpot_ms <= slo.tpot_ms


def _body(request: Request) -> bytes:
    """Return a chat of the request's size; no two are alike."""
    shape = request.shape
    tokens = shape.prompt_tokens - sum(shape.image_tokens) - _TEXT_TOKENS_OF_MESSAGE
    text = f"{request.index} ".ljust(tokens * _BYTES_PER_TOKEN, "x")
    pictures = [
        image_part(draw(64 * request.index + index, PICTURE_SIZE))
        for index in range(len(shape.image_tokens))
    ]
    content = [*pictures, {"type": "text", "text": text}]
    return json.dumps(
        {
            "model": "twin",
            "messages": [{"role": "user", "content": content}],
            "max_tokens": shape.output_tokens,
            "stream": True,
        }
    ).encode()
