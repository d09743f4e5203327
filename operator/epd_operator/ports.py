"""What reconciliation needs of the world: a cluster's objects, the work of a pod, the time.

`cluster.py` implements `Cluster` over a real API server, the tests over a dictionary; one contract
suite holds both to what stands here.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from epd_operator.objects import Kind, Manifest, Ref


class ClusterCallError(Exception):
    """A call to the API server did not do what was asked; the message is one line."""


class UnavailableError(ClusterCallError):
    """The server was not reached, was too slow, was overloaded or failed: try again later.

    The call may have taken effect.
    """


class GoneError(ClusterCallError):
    """The object does not exist."""


class AlreadyExistsError(ClusterCallError):
    """An object of that name exists."""


class ConflictError(ClusterCallError):
    """The object is not the one, or no longer as, the caller thought: look again."""


class RefusedError(ClusterCallError):
    """The server will not do this, and says why; asking again changes nothing by itself.

    Attributes:
        reason: One CamelCase word: `QuotaExceeded`, `Forbidden` or `Invalid`.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class Cluster(Protocol):
    """The objects of a Kubernetes cluster.

    Every call may raise `UnavailableError` and `RefusedError`; what else it may raise stands with
    it.
    """

    async def get(self, ref: Ref) -> Manifest | None:
        """Return the object, None if it does not exist."""
        ...

    async def list(
        self, kind: Kind, namespace: str, labels: Mapping[str, str]
    ) -> Sequence[Manifest]:
        """Return the objects that have all of these labels, by namespace and name.

        An empty namespace means all of them. `GoneError` if there is no such kind.
        """
        ...

    async def create(self, manifest: Manifest) -> Manifest:
        """Create the object and return it; `AlreadyExistsError` if its name is taken."""
        ...

    async def apply(self, manifest: Manifest) -> Manifest:
        """Make the object say what the manifest says, and drop what an earlier one said.

        It is created where it does not exist. With `metadata.resourceVersion` in the manifest,
        `ConflictError` if the object has another.
        """
        ...

    async def patch(self, ref: Ref, body: Mapping[str, Any], *, subresource: str = "") -> Manifest:
        """Merge `body` into the object; None as a value removes a field.

        With `metadata.resourceVersion` in the body, `ConflictError` if the object has another.
        `GoneError` if the object does not exist.
        """
        ...

    async def delete(self, ref: Ref, uid: str) -> None:
        """Delete the object with this uid.

        `GoneError` if none has the name, `ConflictError` if another object has it.
        """
        ...


class Workers(Protocol):
    """What a worker pod says of itself."""

    async def in_flight(self, address: str) -> int | None:
        """Return how much work has begun and not ended at a pod's IP; None if it does not say."""
        ...


class Clock(Protocol):
    """The time."""

    def now(self) -> datetime:
        """Return the time in UTC."""
        ...
