"""A Kubernetes API server in a dictionary, behind the operator's port `Cluster`.

It does what reconciliation relies on, and the contract suite holds it to the real server: names,
versions, preconditions, label selection, merge patches, server-side apply, finalizers, and the
garbage collection of what an object owned. `kubelet` plays the nodes, `deployments` the controller.
"""

import itertools
import json
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from epd_operator.objects import Kind, Manifest, Ref, labels_of, timestamp
from epd_operator.ports import AlreadyExistsError, ConflictError, GoneError

START = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


class FakeClock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time

    def pass_s(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class FakeWorkers:
    """What pods say of their work; those that are not in `work` say nothing."""

    def __init__(self) -> None:
        self.work: dict[str, int] = {}
        self.default: int | None = 0

    async def in_flight(self, address: str) -> int | None:
        return self.work.get(address, self.default)


class FakeKubernetes:
    """Implements `Cluster`; `objects` is what is stored."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.objects: dict[Ref, Manifest] = {}
        self.applied: dict[Ref, Manifest] = {}
        self.calls: list[tuple[str, str]] = []
        self.before_call: Callable[[str, str], None] = lambda verb, kind: None
        self.after_call: Callable[[str, str], None] = lambda verb, kind: None
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)

    # --- the port -------------------------------------------------------------------------------

    async def get(self, ref: Ref) -> Manifest | None:
        with self._call("get", ref.kind):
            return _copy(self.objects.get(ref))

    async def list(
        self, kind: Kind, namespace: str, labels: Mapping[str, str]
    ) -> Sequence[Manifest]:
        with self._call("list", kind):
            return [
                _copy(manifest)
                for ref, manifest in sorted(self.objects.items(), key=lambda item: item[0].name)
                if ref.kind is kind
                and namespace in ("", ref.namespace)
                and labels.items() <= labels_of(manifest).items()
            ]

    async def create(self, manifest: Manifest) -> Manifest:
        ref = Ref.to(manifest)
        with self._call("create", ref.kind):
            if ref in self.objects:
                raise AlreadyExistsError(f"{ref} exists")
            return self._store(ref, _copy(manifest))

    async def apply(self, manifest: Manifest) -> Manifest:
        ref = Ref.to(manifest)
        with self._call("apply", ref.kind):
            present = self.objects.get(ref)
            wanted_version = manifest["metadata"].get("resourceVersion")
            if wanted_version and (
                present is None or present["metadata"]["resourceVersion"] != wanted_version
            ):
                raise ConflictError(f"{ref} has another version")
            wanted = _copy(manifest)
            wanted["metadata"].pop("resourceVersion", None)
            dropped = _dropped(self.applied.get(ref, {}), wanted)
            self.applied[ref] = wanted
            merged = _merge(_merge(present or {}, dropped), wanted)
            if present is not None and _bare(merged) == _bare(present):
                return _copy(present)
            return self._store(ref, merged)

    async def patch(self, ref: Ref, body: Mapping[str, Any], *, subresource: str = "") -> Manifest:
        with self._call("patch", ref.kind, subresource):
            present = self.objects.get(ref)
            if present is None:
                raise GoneError(f"{ref} does not exist")
            version = (body.get("metadata") or {}).get("resourceVersion")
            if version and version != present["metadata"]["resourceVersion"]:
                raise ConflictError(f"{ref} has another version")
            taken = {"status": body["status"]} if subresource == "status" else body
            merged = _merge(present, taken)
            if merged == present:
                return _copy(present)
            stored = self._store(ref, merged)
            if stored["metadata"].get("deletionTimestamp") and not stored["metadata"].get(
                "finalizers"
            ):
                self.remove(ref)
            return stored

    async def delete(self, ref: Ref, uid: str) -> None:
        with self._call("delete", ref.kind):
            present = self.objects.get(ref)
            if present is None:
                raise GoneError(f"{ref} does not exist")
            if present["metadata"]["uid"] != uid:
                raise ConflictError(f"{ref} is another object")
            self.mark_deleted(ref)

    # --- the world ------------------------------------------------------------------------------

    def mark_deleted(self, ref: Ref) -> None:
        """Delete an object: at once, or once its finalizers or its kubelet let it go."""
        present = self.objects[ref]
        if ref.kind is Kind.POD or present["metadata"].get("finalizers"):
            if "deletionTimestamp" not in present["metadata"]:
                present["metadata"]["deletionTimestamp"] = timestamp(self.clock.now())
                self._store(ref, present)
        else:
            self.remove(ref)

    def remove(self, ref: Ref) -> None:
        """Take an object away, and what it owned."""
        gone = self.objects.pop(ref)
        self.applied.pop(ref, None)
        for other, manifest in list(self.objects.items()):
            owners = manifest["metadata"].get("ownerReferences") or []
            if any(owner["uid"] == gone["metadata"]["uid"] for owner in owners):
                self.mark_deleted(other)

    def put(self, manifest: Manifest) -> Manifest:
        """Store an object as a user would."""
        return self._store(Ref.to(manifest), _copy(manifest))

    def saved(self) -> bytes:
        """Return all that is stored, and the time."""
        return pickle.dumps((self.objects, self.applied, self.clock.time))

    def restore(self, saved: bytes) -> None:
        """Store what `saved` returned, on this server or another."""
        self.objects, self.applied, self.clock.time = pickle.loads(saved)
        self._versions = itertools.count(10_000)
        self._uids = itertools.count(10_000)

    def of(self, kind: Kind) -> Sequence[Manifest]:
        """Return the objects of a kind, by name."""
        found = [each for ref, each in self.objects.items() if ref.kind is kind]
        return sorted(found, key=lambda each: str(each["metadata"]["name"]))

    def kubelet(self, *, is_ready: Callable[[Manifest], bool] = lambda pod: True) -> None:
        """Start what is to run, end what is to end."""
        for pod in self.of(Kind.POD):
            ref = Ref.to(pod)
            if pod["metadata"].get("deletionTimestamp"):
                self.remove(ref)
            elif not pod.get("status", {}).get("phase") and is_ready(pod):
                self.set_status(ref, running())

    def deployments(self) -> None:
        """Say of every Deployment that its pods serve."""
        for deployment in self.of(Kind.DEPLOYMENT):
            ready = {"availableReplicas": deployment["spec"]["replicas"]}
            if deployment.get("status") != ready:
                self.set_status(Ref.to(deployment), ready)

    def set_status(self, ref: Ref, status: Manifest) -> None:
        """Report on an object as its controller would."""
        self._store(ref, {**self.objects[ref], "status": status})

    def _call(self, verb: str, kind: Kind, subresource: str = "") -> "_Call":
        return _Call(self, verb, f"{kind.kind}/{subresource}" if subresource else kind.kind)

    def _store(self, ref: Ref, manifest: Manifest) -> Manifest:
        metadata = manifest["metadata"]
        before = self.objects.get(ref)
        metadata.setdefault("uid", f"uid-{next(self._uids)}")
        metadata.setdefault("creationTimestamp", timestamp(self.clock.now()))
        metadata["resourceVersion"] = str(next(self._versions))
        if before is None:
            metadata["generation"] = 1
        elif before.get("spec") != manifest.get("spec"):
            metadata["generation"] = before["metadata"]["generation"] + 1
        self.objects[ref] = manifest
        return _copy(manifest)


class _Call:
    def __init__(self, server: FakeKubernetes, verb: str, kind: str) -> None:
        self.server, self.verb, self.kind = server, verb, kind

    def __enter__(self) -> None:
        self.server.before_call(self.verb, self.kind)
        self.server.calls.append((self.verb, self.kind))

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self.server.after_call(self.verb, self.kind)


def _copy(value: Any) -> Any:
    """Return a deep copy; of plain data, this is the fastest way."""
    return pickle.loads(pickle.dumps(value))


def running(address: str = "10.0.0.9") -> Manifest:
    """Return the status of a pod that serves."""
    return {
        "phase": "Running",
        "podIP": address,
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "True"},
        ],
    }


def _bare(manifest: Manifest) -> str:
    metadata = {k: v for k, v in manifest["metadata"].items() if k != "resourceVersion"}
    return json.dumps({**manifest, "metadata": metadata}, sort_keys=True)


def _merge(present: Any, body: Any) -> Any:
    if not isinstance(body, Mapping) or not isinstance(present, Mapping):
        return _copy(body)
    result = _copy(dict(present))
    for key, value in body.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge(result.get(key, {} if isinstance(value, Mapping) else None), value)
    return result


def _dropped(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return a patch that removes what was applied and no longer is."""
    return dict(_drops(before, after))


def _drops(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in before.items():
        if key not in after:
            yield key, None
        elif isinstance(value, Mapping) and isinstance(after[key], Mapping):
            inner = dict(_drops(value, after[key]))
            if inner:
                yield key, inner
