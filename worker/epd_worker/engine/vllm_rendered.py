"""A rendered prompt as bytes: what a prefill hands to a decode, so that nothing is rendered twice.

vLLM's own wire type for this keeps only offset and length of an image's placeholder; models with
sparse placeholder masks (Qwen-VL) cannot be rebuilt from that, so the mask travels here as well.
Pixels do not: of an image's processed fields only the metadata that later stages need is kept.
"""

import dataclasses
from array import array
from collections.abc import Callable, Collection
from typing import Any

import msgspec
import numpy as np
import torch
from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import (
    decode_mm_kwargs_item,
    encode_mm_kwargs_item,
)
from vllm.inputs import mm_input, tokens_input
from vllm.logprobs import Logprob
from vllm.multimodal.inputs import (
    MultiModalKwargsItem,
    MultiModalKwargsItems,
    PlaceholderRange,
)


@dataclasses.dataclass(slots=True)
class Rendered:
    """One prompt, ready for the engine.

    `engine_input` is vLLM's; `conversation_tail` its last chat message, for answers that echo it;
    `first_logprobs` the first token's log probabilities where the client asked for them.
    """

    engine_input: dict[str, Any]
    conversation_tail: list[Any] = dataclasses.field(default_factory=list)
    first_logprobs: list[dict[int, Logprob]] | None = None


def dump(rendered: Rendered, metadata_fields_for: Callable[[str], Collection[str]]) -> bytes:
    """Serialize; `metadata_fields_for(modality)` names the fields that stand in for pixels."""
    source = rendered.engine_input
    features: list[Any] = []
    if source.get("type") == "multimodal":
        for modality, placeholders in source["mm_placeholders"].items():
            declared = set(metadata_fields_for(modality))
            hashes = source["mm_hashes"][modality]
            items = source["mm_kwargs"].get(modality) or [None] * len(hashes)
            features += [
                [modality, mm_hash, *_dump_range(position), _dump_metadata(item, declared)]
                for mm_hash, position, item in zip(hashes, placeholders, items, strict=True)
            ]
    logprobs = None
    if rendered.first_logprobs is not None:
        logprobs = [
            [[token, lp.logprob, lp.rank, lp.decoded_token] for token, lp in row.items()]
            for row in rendered.first_logprobs
        ]
    return msgspec.msgpack.encode(
        {
            "tokens": array("I", source["prompt_token_ids"]).tobytes(),
            "prompt": source.get("prompt"),
            "cache_salt": source.get("cache_salt"),
            "features": features,
            "conversation_tail": rendered.conversation_tail,
            "first_logprobs": logprobs,
        }
    )


def load(data: bytes) -> Rendered:
    """Rebuild what `dump` wrote; `ValueError` on anything else."""
    try:
        fields = msgspec.msgpack.decode(data)
        return _rebuild(fields)
    except (msgspec.DecodeError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"not a rendered prompt: {type(error).__name__}") from None


def _rebuild(fields: dict[str, Any]) -> Rendered:
    tokens = array("I", fields["tokens"]).tolist()
    engine_input: dict[str, Any]
    if fields["features"]:
        kwargs: dict[str, list[MultiModalKwargsItem | None]] = {}
        hashes: dict[str, list[str]] = {}
        placeholders: dict[str, list[PlaceholderRange]] = {}
        for modality, mm_hash, offset, length, mask, metadata in fields["features"]:
            item = None if metadata is None else decode_mm_kwargs_item(metadata)
            kwargs.setdefault(modality, []).append(item)
            hashes.setdefault(modality, []).append(mm_hash)
            placeholders.setdefault(modality, []).append(_load_range(offset, length, mask))
        engine_input = mm_input(tokens, MultiModalKwargsItems(kwargs), hashes, placeholders)
    else:
        engine_input = tokens_input(tokens)
    for name in ("prompt", "cache_salt"):
        if fields[name] is not None:
            engine_input[name] = fields[name]
    return Rendered(engine_input, fields["conversation_tail"], _load_logprobs(fields))


def _load_logprobs(fields: dict[str, Any]) -> list[dict[int, Logprob]] | None:
    rows = fields["first_logprobs"]
    if rows is None:
        return None
    return [
        {token: Logprob(logprob, rank, text) for token, logprob, rank, text in row} for row in rows
    ]


def _dump_range(position: PlaceholderRange) -> list[Any]:
    mask = position.is_embed
    packed = None if mask is None else np.packbits(mask.numpy()).tobytes()
    return [position.offset, position.length, packed]


def _load_range(offset: int, length: int, packed: bytes | None) -> PlaceholderRange:
    if packed is None:
        return PlaceholderRange(offset=offset, length=length)
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=length)
    return PlaceholderRange(
        offset=offset, length=length, is_embed=torch.from_numpy(bits.astype(bool))
    )


def _dump_metadata(item: MultiModalKwargsItem | None, declared: set[str]) -> str | None:
    if item is None:
        return None
    kept = {
        name: element
        for name, element in item.items()
        if element.field.keep_on_cpu or name in declared
    }
    return encode_mm_kwargs_item(MultiModalKwargsItem(kept)) if kept else None
