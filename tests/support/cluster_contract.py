"""What every implementation of the operator's port `Cluster` does; subclass it with a `server`."""

from typing import Any

import pytest

from epd_operator.objects import Kind, Manifest, Ref
from epd_operator.ports import AlreadyExistsError, Cluster, ConflictError, GoneError

SECRET = Kind.SECRET


class Server:
    """An implementation, and a namespace of its own."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace

    def secret(self, name: str, labels: dict[str, str] | None = None, **data: str) -> Manifest:
        metadata: dict[str, Any] = {"name": name, "namespace": self.namespace}
        if labels:
            metadata["labels"] = labels
        return {**SECRET.type_meta, "metadata": metadata, "type": "Opaque", "data": data}

    def ref(self, name: str, kind: Kind = SECRET) -> Ref:
        return Ref(kind, self.namespace, name)


class ClusterContract:
    """The suite."""

    async def test_what_is_created_is_there_with_uid_and_version(self, server: Server) -> None:
        made = await server.cluster.create(server.secret("a", one="MQ=="))
        found = await server.cluster.get(server.ref("a"))
        assert found is not None
        assert found["data"] == {"one": "MQ=="}
        assert found["kind"] == "Secret"
        for field in ("uid", "resourceVersion", "creationTimestamp"):
            assert found["metadata"][field] == made["metadata"][field]

    async def test_what_does_not_exist_is_none(self, server: Server) -> None:
        assert await server.cluster.get(server.ref("nothing")) is None

    async def test_a_name_is_taken_once(self, server: Server) -> None:
        await server.cluster.create(server.secret("a"))
        with pytest.raises(AlreadyExistsError):
            await server.cluster.create(server.secret("a"))

    async def test_a_list_has_what_bears_all_labels_by_name(self, server: Server) -> None:
        for name, labels in (("c", {"x": "1", "y": "1"}), ("b", {"x": "1"}), ("a", {"x": "1"})):
            await server.cluster.create(server.secret(name, labels))
        found = await server.cluster.list(SECRET, server.namespace, {"x": "1"})
        assert [each["metadata"]["name"] for each in found] == ["a", "b", "c"]
        assert {each["kind"] for each in found} == {"Secret"}
        found = await server.cluster.list(SECRET, server.namespace, {"x": "1", "y": "1"})
        assert [each["metadata"]["name"] for each in found] == ["c"]
        everywhere = await server.cluster.list(SECRET, "", {"y": "1"})
        assert "c" in {each["metadata"]["name"] for each in everywhere}

    async def test_a_patch_merges_and_none_removes(self, server: Server) -> None:
        await server.cluster.create(server.secret("a", {"keep": "1", "drop": "1"}))
        body = {"metadata": {"labels": {"drop": None, "new": "2"}}}
        patched = await server.cluster.patch(server.ref("a"), body)
        assert patched["metadata"]["labels"] == {"keep": "1", "new": "2"}

    async def test_a_patch_of_another_version_is_a_conflict(self, server: Server) -> None:
        made = await server.cluster.create(server.secret("a"))
        version = made["metadata"]["resourceVersion"]
        body = {"metadata": {"labels": {"x": "1"}, "resourceVersion": version}}
        await server.cluster.patch(server.ref("a"), body)
        body["metadata"]["labels"] = {"x": "2"}
        with pytest.raises(ConflictError):
            await server.cluster.patch(server.ref("a"), body)

    async def test_a_patch_of_nothing_is_gone(self, server: Server) -> None:
        with pytest.raises(GoneError):
            await server.cluster.patch(server.ref("a"), {"metadata": {"labels": {"x": "1"}}})

    async def test_what_is_applied_is_made_and_what_it_no_longer_says_is_dropped(
        self, server: Server
    ) -> None:
        await server.cluster.apply(server.secret("a", {"x": "1", "y": "1"}, one="MQ=="))
        await server.cluster.patch(server.ref("a"), {"metadata": {"labels": {"theirs": "1"}}})
        applied = await server.cluster.apply(server.secret("a", {"x": "2"}, one="Mg=="))
        assert applied["metadata"]["labels"] == {"x": "2", "theirs": "1"}
        assert applied["data"] == {"one": "Mg=="}

    async def test_to_apply_the_same_again_changes_nothing(self, server: Server) -> None:
        first = await server.cluster.apply(server.secret("a", {"x": "1"}))
        again = await server.cluster.apply(server.secret("a", {"x": "1"}))
        assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]

    async def test_to_apply_to_another_version_is_a_conflict(self, server: Server) -> None:
        made = await server.cluster.apply(server.secret("a"))
        await server.cluster.patch(server.ref("a"), {"metadata": {"labels": {"x": "1"}}})
        stale = server.secret("a", one="MQ==")
        stale["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
        with pytest.raises(ConflictError):
            await server.cluster.apply(stale)

    async def test_a_deletion_takes_the_object_that_was_meant(self, server: Server) -> None:
        made = await server.cluster.create(server.secret("a"))
        with pytest.raises(ConflictError):
            await server.cluster.delete(server.ref("a"), "another-uid")
        await server.cluster.delete(server.ref("a"), made["metadata"]["uid"])
        assert await server.cluster.get(server.ref("a")) is None
        with pytest.raises(GoneError):
            await server.cluster.delete(server.ref("a"), made["metadata"]["uid"])

    async def test_a_finalizer_holds_an_object_until_it_is_removed(self, server: Server) -> None:
        secret = server.secret("a")
        secret["metadata"]["finalizers"] = ["epd.dev/finalizer"]
        made = await server.cluster.create(secret)
        await server.cluster.delete(server.ref("a"), made["metadata"]["uid"])
        held = await server.cluster.get(server.ref("a"))
        assert held is not None
        assert held["metadata"]["deletionTimestamp"]
        await server.cluster.patch(server.ref("a"), {"metadata": {"finalizers": []}})
        assert await server.cluster.get(server.ref("a")) is None
