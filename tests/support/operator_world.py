"""A cluster in a fake Kubernetes, and the operator's passes over it until nothing more changes."""

from collections import Counter
from typing import Any

from fake_kubernetes import FakeClock, FakeKubernetes, FakeWorkers

from epd.vocabulary import API_VERSION, KIND, ROLE_LABEL, Component
from epd_operator.objects import Key, Kind, Manifest, Ref, labels_of
from epd_operator.reconcile import Reconciler
from epd_operator.wakeups import Outcome
from epd_operator.wanted import Images

NAMESPACE = "default"
IMAGES = Images(worker="example.org/epd-worker:1", gateway="example.org/epd-gateway:1")


def manifest(name: str = "demo", replicas: int = 3, **spec: Any) -> Manifest:
    """Return an `EPDCluster` of simulated workers."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "model": {"source": "simulated", "servedName": "sim"},
            "engine": {"type": "Simulated"},
            "replicas": replicas,
            **spec,
        },
    }


class World:
    """One API server, its nodes, and one operator that may be killed and started again."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.server = FakeKubernetes(self.clock)
        self.workers = FakeWorkers()
        self.key = Key(NAMESPACE, "demo")
        self.start_operator()

    def start_operator(self) -> None:
        """Start an operator that knows nothing."""
        self.operator = Reconciler(self.server, self.workers, self.clock, IMAGES)

    def edit(self, **spec: Any) -> None:
        """Change the spec as a user would."""
        cluster = self.cluster
        self.server.put({**cluster, "spec": {**cluster["spec"], **spec}})

    @property
    def cluster(self) -> Manifest:
        return self.server.objects[self.ref]

    @property
    def ref(self) -> Ref:
        return Ref(Kind.EPD_CLUSTER, self.key.namespace, self.key.name)

    @property
    def pods(self) -> list[Manifest]:
        """Worker pods that are not on their way out."""
        return [
            pod for pod in self.server.of(Kind.POD) if "deletionTimestamp" not in pod["metadata"]
        ]

    @property
    def roles(self) -> Counter[str]:
        """How many pods each role has."""
        return Counter(labels_of(pod)[ROLE_LABEL] for pod in self.pods)

    def condition(self, kind: str) -> tuple[str, str]:
        """Return status and reason of a condition."""
        for each in self.cluster["status"]["conditions"]:
            if each["type"] == kind:
                return each["status"], each["reason"]
        return "absent", ""

    def reasons(self) -> Counter[str]:
        """Return how many Events were posted for each reason."""
        return Counter(event["reason"] for event in self.server.of(Kind.EVENT))

    async def one_pass(self) -> Outcome:
        """Run one pass."""
        return await self.operator.run(self.key)

    async def settle(self, passes: int = 200, *, nodes: bool = True) -> None:
        """Run passes, and let nodes and time do their part, until a pass writes nothing."""
        for _ in range(passes):
            before = self.fingerprint()
            outcome = await self.one_pass()
            if nodes:
                self.server.kubelet()
                self.server.deployments()
            if outcome.is_gone:
                return
            if self.fingerprint() == before and outcome.look_again_s >= 60:
                return
            self.clock.pass_s(max(1.0, min(outcome.look_again_s, 5.0)))
        raise AssertionError(f"not settled after {passes} passes")

    def fingerprint(self) -> str:
        """Return what tells one state of the server from another."""
        return str(
            sorted(
                (str(ref), each["metadata"]["resourceVersion"])
                for ref, each in self.server.objects.items()
                if ref.kind is not Kind.EVENT
            )
        )

    def end_state(self) -> dict[str, Any]:
        """Return what must not depend on when the operator was killed."""
        pods = self.pods
        return {
            "roles": self.roles,
            "names": len({pod["metadata"]["name"] for pod in pods}),
            "revisions": len({labels_of(pod)["epd.dev/revision"] for pod in pods}),
            "objects": sorted(
                str(ref) for ref in self.server.objects if ref.kind not in (Kind.POD, Kind.EVENT)
            ),
            "ready": self.condition("Ready") if self.ref in self.server.objects else None,
            "draining": [pod for pod in pods if labels_of(pod).get("epd.dev/draining")],
        }


def component(manifest: Manifest) -> str:
    """Return which program an object belongs to."""
    return labels_of(manifest).get("app.kubernetes.io/component", Component.WORKER.value)
