"""Where a pod's model comes from: `spec.model.source` as an argument, volumes and mounts.

Qwen/Qwen3-VL-8B-Instruct   a name on the hub: the worker fetches it
pvc://CLAIM/FOLDER          a folder on a PersistentVolumeClaim of the namespace
oci://IMAGE                 an image whose files are the model (an image volume)
/some/folder                a folder in the worker's container
"""

from dataclasses import dataclass, field
from typing import Final

from epd_operator.objects import Manifest

MODEL_VOLUME: Final = "model"
MODEL_PATH: Final = "/models"
CLAIM_SCHEME: Final = "pvc://"
IMAGE_SCHEME: Final = "oci://"


@dataclass(frozen=True, slots=True)
class ModelMount:
    """What a worker is told, and what its pod must have for it."""

    argument: str
    volumes: list[Manifest] = field(default_factory=list)
    mounts: list[Manifest] = field(default_factory=list)


def model_mount(source: str) -> ModelMount:
    """Return how a pod gets at the model that `source` names."""
    if source.startswith(CLAIM_SCHEME):
        claim, _, folder = source.removeprefix(CLAIM_SCHEME).partition("/")
        volume = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        return _mounted(volume, folder)
    if source.startswith(IMAGE_SCHEME):
        reference = source.removeprefix(IMAGE_SCHEME)
        return _mounted({"image": {"reference": reference, "pullPolicy": "IfNotPresent"}}, "")
    return ModelMount(source)


def _mounted(volume: Manifest, folder: str) -> ModelMount:
    return ModelMount(
        argument=f"{MODEL_PATH}/{folder}".rstrip("/"),
        volumes=[{"name": MODEL_VOLUME, **volume}],
        mounts=[{"name": MODEL_VOLUME, "mountPath": MODEL_PATH, "readOnly": True}],
    )
