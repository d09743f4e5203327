"""Where a pod's model comes from: `spec.model` as an argument, volumes, mounts and environment."""

from dataclasses import dataclass, field
from typing import Final

from epd.api.model import CLAIM_SCHEME, IMAGE_SCHEME, ModelSpec
from epd.api.names import CacheType
from epd_operator.objects import Manifest
from epd_operator.pod_security import SCRATCH_PATH

MODEL_PATH: Final = "/models"
CACHE_PATH: Final = "/var/cache/huggingface"

_MODEL: Final = "model"
_CACHE: Final = "model-cache"


@dataclass(slots=True)
class ModelFiles:
    """What a worker is told, and what its pod must have for it."""

    argument: str
    volumes: list[Manifest] = field(default_factory=list)
    mounts: list[Manifest] = field(default_factory=list)
    environment: list[Manifest] = field(default_factory=list)


def model_files(model: ModelSpec) -> ModelFiles:
    """Return how a pod gets at its model."""
    if model.source.startswith(CLAIM_SCHEME):
        claim, _, folder = model.source.removeprefix(CLAIM_SCHEME).partition("/")
        return _mounted({"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}, folder)
    if model.source.startswith(IMAGE_SCHEME):
        reference = model.source.removeprefix(IMAGE_SCHEME)
        return _mounted({"image": {"reference": reference, "pullPolicy": "IfNotPresent"}}, "")
    return _fetched(model)


def _mounted(volume: Manifest, folder: str) -> ModelFiles:
    return ModelFiles(
        argument=f"{MODEL_PATH}/{folder}".rstrip("/"),
        volumes=[{"name": _MODEL, **volume}],
        mounts=[{"name": _MODEL, "mountPath": MODEL_PATH, "readOnly": True}],
    )


def _fetched(model: ModelSpec) -> ModelFiles:
    files = ModelFiles(model.source)
    cache = model.cache
    match cache.type:
        case CacheType.POD:
            home = f"{SCRATCH_PATH}/huggingface"
        case CacheType.CLAIM:
            home = CACHE_PATH
            claim = {"claimName": cache.claim_name}
            files.volumes.append({"name": _CACHE, "persistentVolumeClaim": claim})
        case CacheType.NODE:
            home = CACHE_PATH
            folder = {"path": cache.node_folder, "type": "DirectoryOrCreate"}
            files.volumes.append({"name": _CACHE, "hostPath": folder})
    if files.volumes:
        files.mounts.append({"name": _CACHE, "mountPath": CACHE_PATH})
    files.environment.append({"name": "HF_HOME", "value": home})
    token = model.token_secret_ref
    if token is not None:
        source = {"secretKeyRef": {"name": token.name, "key": token.key}}
        files.environment.append({"name": "HF_TOKEN", "valueFrom": source})
    return files
