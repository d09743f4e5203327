"""Bad input through real gateways: every row of docs/errors.md, and what is left afterwards."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from bad_input import (
    API_KEY,
    ENGINE_SECTION,
    GATEWAY_SECTIONS,
    VLLM_SECTION,
    Answer,
    Json,
    Picture,
    Row,
    Service,
    check,
    rows_of,
)
from bad_input_cases import (
    BUSY_KEY,
    CASES,
    GOOD,
    HASTY_KEY,
    KEY_LIMITS,
    LIMITED,
    LIMITS,
    TEXT_ONLY,
    TWO_IMAGES,
    chat,
    image,
    picture,
)
from gateway_process import GatewayProcess
from image_server import ImageServer
from odd_requests import answered_badly
from pod_counters import PodCounters, pod_counters
from running_cluster import Cluster
from simulated_cluster import MODEL, SimulatedCluster, until

from epd.vocabulary import Role
from epd_worker.engine.tiny_models import TinyKind

PUBLIC_HOST = "127.0.0.9"
LAUNCHER = Path(__file__).parents[1] / "support" / "gateway_with_a_public_host.py"
SIMULATED_ROWS = rows_of(*GATEWAY_SECTIONS, ENGINE_SECTION)
STREAMABLE_ROWS = [
    row
    for row in rows_of(ENGINE_SECTION)
    if isinstance(CASES[row.id], Json) and row.id != "stream-options-alone"
]
VLLM_ROWS = rows_of(ENGINE_SECTION, VLLM_SECTION)
LATE_MISTAKE = Picture(urls=(GOOD,), fields={"temperature": 3})
# To vLLM these would be orders to our engine core, which is what a client must not give.
ENGINE_ARGUMENTS = {"epd_encode_only": 1, "epd_prior_tokens": [1, 2], "kv_transfer_params": "x"}


def name_of(row: Row) -> str:
    return row.id


class StrictGateway(GatewayProcess):
    """A gateway process with low limits and keys, to which PUBLIC_HOST is the open internet."""

    def __init__(
        self, roster: Path, folder: Path, ports: tuple[int, ...], limits: Mapping[str, int]
    ) -> None:
        allowed = ",".join(map(str, (80, 443, *ports)))
        settings = {**LIMITS, **limits, "media.allowed_ports": allowed}
        super().__init__(roster, folder / "strict-gateway.log", settings)
        keys = folder / "keys.txt"
        keys.write_text("\n".join((API_KEY, HASTY_KEY, BUSY_KEY)))
        self._command[1:3] = [str(LAUNCHER), PUBLIC_HOST]
        self._command += ["--api-key-file", str(keys)]


class SimulatedService:
    """Simulated workers, a strict gateway before them, and what can be seen of both.

    Everything here runs in one event loop, so that the connections to the workers' own counters
    last as long as the service.
    """

    counters: PodCounters

    def __init__(
        self,
        folder: Path,
        pictures: ImageServer,
        refusing: socket.socket,
        limits: Mapping[str, int],
    ) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self.workers = SimulatedCluster(folder)
        port = refusing.getsockname()[1]
        ports = (pictures.port, port)
        self.gateway = StrictGateway(self.workers.roster_file, folder, ports, limits)
        self.service = Service(
            self.gateway.url, MODEL, pictures.url("").rstrip("/"), f"http://{PUBLIC_HOST}:{port}/"
        )

    def start(self, curves: str = "", **roles: Role) -> None:
        """Start it, and wait until every worker can take work."""
        self._runner.run(self._start(curves, roles))

    def nothing_is_left(self) -> None:
        """Wait until neither gateway nor workers hold anything of any request."""
        self._runner.run(self._nothing_is_left())

    def kill(self) -> None:
        """End everything."""
        self._runner.run(self._stack.aclose())
        self._runner.close()
        self.gateway.kill()
        self.workers.kill()

    async def _start(self, curves: str, roles: Mapping[str, Role]) -> None:
        for name in roles:
            # What is left behind must not go by itself while a test looks.
            self.workers.start_worker(name, curves, "--kv-lease-s", "900", "--ec-lease-s", "900")
        for name, role in roles.items():
            version = await self.workers.join(name, role)
        await self.gateway.start(version)
        await until(self._is_healthy)
        self.counters = await self._stack.enter_async_context(pod_counters(self.workers.addresses))

    async def _nothing_is_left(self) -> None:
        await self.counters.until_nothing_is_held()
        await until(self._is_idle)

    async def _is_healthy(self) -> bool:
        workers = (await self.gateway.admin("/roster"))["workers"]
        return all(worker["healthy"] for worker in workers)

    async def _is_idle(self) -> bool:
        return not (await self.gateway.in_flight() or await self._gauge("epd_requests_in_flight"))

    async def _gauge(self, name: str) -> float:
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{self.gateway.admin_url}/metrics")).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


@pytest.fixture(scope="module")
def pictures() -> Iterator[ImageServer]:
    server = ImageServer(PUBLIC_HOST, picture(size=(140, 140), colour=None))
    yield server
    server.close()


@pytest.fixture(scope="module")
def simulated(
    tmp_path_factory: pytest.TempPathFactory, pictures: ImageServer
) -> Iterator[Mapping[str, SimulatedService]]:
    """Give four services: for all input, two images at most, text only, and few requests."""
    kinds: Mapping[str, tuple[str, dict[str, Role]]] = {
        "main": (
            "capacity: {context_tokens: 4096}",
            {"e": Role.ENCODE, "p": Role.PREFILL, "d": Role.DECODE},
        ),
        TWO_IMAGES: ("capacity: {max_images: 2}", {"two": Role.ENCODE_PREFILL_DECODE}),
        TEXT_ONLY: ("capacity: {max_images: 0}", {"text": Role.ENCODE_PREFILL_DECODE}),
        LIMITED: ("", {"limited": Role.ENCODE_PREFILL_DECODE}),
    }
    with ExitStack() as stack, socket.socket() as refusing:
        refusing.bind((PUBLIC_HOST, 0))  # and nobody listens
        services = {}
        for name, (curves, roles) in kinds.items():
            folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
            limits = KEY_LIMITS if name == LIMITED else {}
            services[name] = SimulatedService(folder, pictures, refusing, limits)
            stack.callback(services[name].kill)
            services[name].start(curves, **roles)
        yield services


def is_answered(answer: Answer) -> bool:
    return answer.status == 200 and bool(json.loads(answer.body)["choices"])


@pytest.mark.parametrize("row", SIMULATED_ROWS, ids=name_of)
def test_bad_input_gets_the_answer_of_its_row_and_leaves_nothing(
    simulated: Mapping[str, SimulatedService], row: Row
) -> None:
    case = CASES[row.id]
    target = simulated[case.service]
    check(row, case.send(target.service), exact_message=row.section != ENGINE_SECTION)
    target.nothing_is_left()
    assert is_answered(chat().send(target.service))


@pytest.mark.parametrize("row", STREAMABLE_ROWS, ids=name_of)
def test_a_mistake_is_found_before_a_stream_begins(
    simulated: Mapping[str, SimulatedService], row: Row
) -> None:
    case, service = CASES[row.id], simulated["main"].service
    assert isinstance(case, Json)
    streamed = replace(case, fields={**case.fields, "stream": True})
    check(row, streamed.send(service), exact_message=False)


def test_an_image_from_the_web_is_answered_beside_all_the_refused_ones(
    simulated: Mapping[str, SimulatedService],
) -> None:
    service = simulated["main"].service
    assert is_answered(image("{pictures}/image").send(service))
    assert is_answered(image("{pictures}/redirect?/image").send(service))


def test_a_mistake_that_is_found_after_encode_gives_the_embedding_back(
    simulated: Mapping[str, SimulatedService],
) -> None:
    target = simulated["main"]
    assert LATE_MISTAKE.send(target.service).error["param"] == "temperature"
    target.nothing_is_left()


def test_a_hundred_mistakes_at_once_leave_nothing(
    simulated: Mapping[str, SimulatedService],
) -> None:
    target = simulated["main"]
    wanted = [row for row in SIMULATED_ROWS if row.section in ("images", ENGINE_SECTION)]
    rows = [row for row in wanted if CASES[row.id].service == "main"] * 3

    async def send_all() -> list[Answer]:
        sends = (asyncio.to_thread(CASES[row.id].send, target.service) for row in rows)
        return list(await asyncio.gather(*sends))

    for row, answer in zip(rows, asyncio.run(send_all()), strict=True):
        assert answer.status == row.status, row.id
    target.nothing_is_left()
    assert is_answered(chat().send(target.service))


def test_no_value_of_any_field_is_the_services_fault(
    simulated: Mapping[str, SimulatedService],
) -> None:
    target = simulated["main"]
    assert answered_badly(target.service) == []
    target.nothing_is_left()


def test_no_log_tells_what_was_asked(simulated: Mapping[str, SimulatedService]) -> None:
    secret = "the-diary-of-the-client"
    target = simulated["main"]
    for fields in ({"temperature": 3}, {"stop": 5}, {"messages": secret}, {}):
        words = {"messages": [{"role": "user", "content": secret}]}
        chat(**{**words, **fields}).send(target.service)
    chat(messages=[{"role": "user", "content": secret}]).send(replace(target.service, key=secret))
    logs = [target.gateway.said(), *(w.log.read_text() for w in target.workers.workers.values())]
    for log in logs:
        assert secret not in log
        assert "Traceback" not in log


# --- the real engine ------------------------------------------------------------------------------


@pytest.fixture
def vllm_service(vllm_cluster: Callable[[TinyKind], Cluster]) -> tuple[Cluster, Service]:
    cluster = vllm_cluster(TinyKind.QWEN3_VL)
    return cluster, Service(cluster.running.gateway_url, cluster.running.model)


async def nothing_is_left_of(cluster: Cluster) -> None:
    addresses = {pod.name: pod.address for pod in cluster.running.pods}
    async with pod_counters(addresses) as counters:
        await counters.until_nothing_is_held()


@pytest.mark.vllm
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_vllm_refuses_in_the_words_of_the_table_and_keeps_nothing(
    vllm_service: tuple[Cluster, Service], stream: bool, subtests: pytest.Subtests
) -> None:
    cluster, service = vllm_service
    for row in VLLM_ROWS:
        case = CASES[row.id]
        if isinstance(case, Json) and stream and row in STREAMABLE_ROWS:
            case = replace(case, fields={**case.fields, "stream": True})
        with subtests.test(row.id):
            check(row, case.send(service))
    assert LATE_MISTAKE.send(service).error["param"] == "temperature"
    asyncio.run(nothing_is_left_of(cluster))
    assert is_answered(chat().send(service))
    assert [pod.restarts for pod in cluster.running.pods] == [0, 0, 0]


@pytest.mark.vllm
def test_a_client_cannot_give_orders_to_our_engine_core(
    vllm_service: tuple[Cluster, Service],
) -> None:
    cluster, service = vllm_service
    plain = chat(temperature=0).send(service)
    ordered = chat(temperature=0, vllm_xargs=ENGINE_ARGUMENTS).send(service)
    texts = [json.loads(a.body)["choices"][0]["message"]["content"] for a in (plain, ordered)]
    assert texts[0] == texts[1]
    asyncio.run(nothing_is_left_of(cluster))
    assert [pod.restarts for pod in cluster.running.pods] == [0, 0, 0]


@pytest.mark.vllm
def test_no_value_of_any_field_is_vllms_fault(vllm_service: tuple[Cluster, Service]) -> None:
    cluster, service = vllm_service
    assert answered_badly(service) == []
    asyncio.run(nothing_is_left_of(cluster))
    assert is_answered(chat().send(service))
    assert [pod.restarts for pod in cluster.running.pods] == [0, 0, 0]
