"""Clusters of real engines that several tests share: they take half a minute to start."""

from collections.abc import Callable, Iterator

import pytest
from otlp_receiver import Receiver, otlp_receiver
from reference_answers import tiny_model
from running_cluster import Cluster, manifest

from epd_worker.engine.tiny_models import TinyKind


@pytest.fixture(scope="session")
def collector() -> Iterator[Receiver]:
    """Return what collects the traces of those clusters: of requests whose client asks for one."""
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def vllm_cluster(
    tmp_path_factory: pytest.TempPathFactory, collector: Receiver
) -> Iterator[Callable[[TinyKind], Cluster]]:
    """Return a function that gives three running pods with the tiny model that is asked for.

    One cluster runs at a time: asking for another model ends the one before while the new one
    starts. Roles are as the last test left them.
    """
    running: dict[TinyKind, Cluster] = {}

    def cluster_of(kind: TinyKind) -> Cluster:
        if kind not in running:
            before = list(running.values())
            running.clear()
            for other in before:
                other.interrupt()
            model = tiny_model(kind)
            name = model.name.replace(".", "-")
            running[kind] = Cluster(manifest(name, model), tmp_path_factory.mktemp(name))
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
                environment.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
                environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
                running[kind].start()
            for other in before:
                other.wait()
        return running[kind]

    yield cluster_of
    for cluster in running.values():
        cluster.stop()
