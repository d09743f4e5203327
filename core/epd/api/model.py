"""`spec.model`: which model, where its files come from, and where they are kept.

A source is one of

    Qwen/Qwen3-VL-8B-Instruct   a name on the hub; the worker fetches it
    /some/folder                a folder where the worker runs
    pvc://CLAIM/FOLDER          a folder of a PersistentVolumeClaim in the cluster's namespace
    oci://IMAGE                 an image whose files are the model (Kubernetes 1.33 and later)
"""

import re
from typing import Final, Self

from pydantic import Field, model_validator

from epd.api.base import ApiModel, Location
from epd.api.names import CacheType
from epd.api.patterns import FOLDER, KEY_NAME, NO_SPACES, OBJECT_NAME, SERVED_NAME

CLAIM_SCHEME: Final = "pvc://"
IMAGE_SCHEME: Final = "oci://"
SCHEME_MARK: Final = "://"

_NAME = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
_FOLDER = r"(/([^/.][^/]*|[.][^/.][^/]*|[.][.][^/]+))*/?"
CLAIM_SOURCE: Final = rf"^pvc://{_NAME}{_FOLDER}$"
"""No folder of the path may be `.` or `..`."""
IMAGE_SOURCE: Final = r"^oci://[a-z0-9][-A-Za-z0-9._:/@]*[A-Za-z0-9]$"

CLAIM_EXPECTED: Final = (
    "expected: pvc://CLAIM/FOLDER, the claim in lower case, the folder without .."
)
IMAGE_EXPECTED: Final = "expected: oci://IMAGE, an image as in a container's image field"
SCHEME_EXPECTED: Final = (
    "expected: a hub name (org/name), a folder, pvc://CLAIM/FOLDER or oci://IMAGE"
)


def source_problem(source: str) -> str | None:
    """Say what is wrong with the form of a source; None if it has one of the four."""
    if source.startswith(CLAIM_SCHEME):
        return None if re.fullmatch(CLAIM_SOURCE, source) else CLAIM_EXPECTED
    if source.startswith(IMAGE_SCHEME):
        return None if re.fullmatch(IMAGE_SOURCE, source) else IMAGE_EXPECTED
    return SCHEME_EXPECTED if SCHEME_MARK in source else None


def is_mounted(source: str) -> bool:
    """Tell whether Kubernetes brings the files, so that nothing is fetched from the hub."""
    return source.startswith((CLAIM_SCHEME, IMAGE_SCHEME))


class TokenSecretRef(ApiModel):
    """A token in a Secret in the cluster's namespace."""

    name: str = Field(max_length=253, pattern=OBJECT_NAME)
    """Name of the Secret."""

    key: str = Field(default="token", max_length=253, pattern=KEY_NAME)
    """Key in it."""


class ModelCacheSpec(ApiModel):
    """Where pods keep what they fetch from the hub."""

    type: CacheType = CacheType.POD
    """`Pod`: in each pod, gone with it. `Claim`: on a volume that all pods mount. `Node`: in a
    folder of the node, for all pods on it; the namespace must allow hostPath volumes."""

    claim_name: str | None = Field(default=None, max_length=253, pattern=OBJECT_NAME)
    """PersistentVolumeClaim in the cluster's namespace (type `Claim`)."""

    node_folder: str | None = Field(default=None, max_length=1024, pattern=FOLDER)
    """Folder on each node (type `Node`)."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        problems: list[tuple[Location, str]] = []
        given = {CacheType.CLAIM: self.claim_name, CacheType.NODE: self.node_folder}
        for kind, field in ((CacheType.CLAIM, "claimName"), (CacheType.NODE, "nodeFolder")):
            if self.type is kind and given[kind] is None:
                problems.append(((field,), f"is required with type {kind}"))
            if self.type is not kind and given[kind] is not None:
                reason = f"belongs to type {kind}; remove it or set type: {kind}"
                problems.append(((field,), reason))
        self.refuse(problems)
        return self


class ModelSpec(ApiModel):
    """The model all pods of the cluster hold."""

    source: str = Field(max_length=512, pattern=NO_SPACES)
    """Hub name (`Qwen/Qwen3-VL-8B-Instruct`); or `pvc://CLAIM/FOLDER`, a folder on a
    PersistentVolumeClaim; or `oci://IMAGE`, an image whose files are the model; or a folder where
    the worker runs, a relative one taken from where it starts."""

    served_name: str = Field(max_length=128, pattern=SERVED_NAME)
    """The `model` that clients ask for. It cannot be changed: clients would be refused at once."""

    revision: str | None = Field(default=None, max_length=128, pattern=NO_SPACES)
    """Branch, tag or commit on the hub; the hub's default where absent."""

    token_secret_ref: TokenSecretRef | None = None
    """Token for the hub, where the model is not open to all."""

    cache: ModelCacheSpec = ModelCacheSpec()
    """Where pods keep what they fetch from the hub."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        problems: list[tuple[Location, str]] = []
        problem = source_problem(self.source)
        if problem is not None:
            problems.append((("source",), problem))
        if is_mounted(self.source):
            hub_only = {"revision": self.revision, "tokenSecretRef": self.token_secret_ref}
            for field, value in hub_only.items():
                if value is not None:
                    scheme = self.source.partition(SCHEME_MARK)[0] + SCHEME_MARK
                    reason = f"is for a model on the hub, which {scheme} is not; remove it"
                    problems.append(((field,), reason))
        self.refuse(problems)
        return self
