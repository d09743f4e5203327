"""Protobuf bytes <-> `messages`. The only importer of the generated stubs.

Each `encode_*`/`decode_*` pair serves as a gRPC (de)serializer, so that no other module sees a
protobuf object. Decoding raises `ValueError` on bytes that are no such message.
"""

from typing import Any, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from epd.wire import messages as m
from epd.wire import worker_pb2 as pb

_M = TypeVar("_M", bound=Message)

_DESCRIPTION_FIELDS = tuple(m.Description.__dataclass_fields__)
_STAGE_LOAD_FIELDS = tuple(m.StageLoad.__dataclass_fields__)
_LOAD_NUMBERS = tuple(set(m.Load.__dataclass_fields__) - {"encode", "prefill", "decode"})
_EC_FIELDS = tuple(m.EcHandle.__dataclass_fields__)
_KV_FIELDS = tuple(m.KvHandle.__dataclass_fields__)


def _parse(message: _M, data: bytes) -> _M:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ValueError(f"not a {message.DESCRIPTOR.name} message: {error}") from None
    return message


def _values(source: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def encode_empty(_: None) -> bytes:
    """Return the bytes of a request without fields."""
    return b""


def decode_empty(_: bytes) -> None:
    """Accept the bytes of a request without fields."""


def encode_watch_load_request(interval_ms: int) -> bytes:
    """Return the bytes of a `WatchLoadRequest`."""
    return pb.WatchLoadRequest(interval_ms=interval_ms).SerializeToString()


def decode_watch_load_request(data: bytes) -> int:
    """Return the interval in milliseconds that a `WatchLoadRequest` asks for."""
    return _parse(pb.WatchLoadRequest(), data).interval_ms


def encode_description(description: m.Description) -> bytes:
    """Return the bytes of a `Description`."""
    return pb.Description(**_values(description, _DESCRIPTION_FIELDS)).SerializeToString()


def decode_description(data: bytes) -> m.Description:
    """Read a `Description`."""
    return m.Description(**_values(_parse(pb.Description(), data), _DESCRIPTION_FIELDS))


def encode_load(load: m.Load) -> bytes:
    """Return the bytes of a `Load`."""
    return pb.Load(
        encode=_stage_to_pb(load.encode),
        prefill=_stage_to_pb(load.prefill),
        decode=_stage_to_pb(load.decode),
        **_values(load, _LOAD_NUMBERS),
    ).SerializeToString()


def decode_load(data: bytes) -> m.Load:
    """Read a `Load`."""
    message = _parse(pb.Load(), data)
    return m.Load(
        encode=_stage_from_pb(message.encode),
        prefill=_stage_from_pb(message.prefill),
        decode=_stage_from_pb(message.decode),
        **_values(message, _LOAD_NUMBERS),
    )


def _stage_to_pb(load: m.StageLoad) -> pb.StageLoad:
    return pb.StageLoad(**_values(load, _STAGE_LOAD_FIELDS))


def _stage_from_pb(message: pb.StageLoad) -> m.StageLoad:
    return m.StageLoad(**_values(message, _STAGE_LOAD_FIELDS))


def _ec_to_pb(handle: m.EcHandle) -> pb.EcHandle:
    return pb.EcHandle(**_values(handle, _EC_FIELDS))


def _ec_from_pb(message: pb.EcHandle) -> m.EcHandle:
    return m.EcHandle(**_values(message, _EC_FIELDS))


def _kv_to_pb(handle: m.KvHandle) -> pb.KvHandle:
    return pb.KvHandle(**_values(handle, _KV_FIELDS))


def _kv_from_pb(message: pb.KvHandle) -> m.KvHandle:
    return m.KvHandle(**_values(message, _KV_FIELDS))


def _image_to_pb(image: m.Image) -> pb.Image:
    return pb.Image(
        content=image.content,
        media_type=image.media_type,
        ec=None if image.ec is None else _ec_to_pb(image.ec),
        local=image.local,
    )


def _image_from_pb(message: pb.Image) -> m.Image:
    ec = _ec_from_pb(message.ec) if message.HasField("ec") else None
    return m.Image(message.content, message.media_type, ec, message.local)


def _submit_to_pb(submit: m.Submit) -> pb.Submit:
    work = submit.work
    return pb.Submit(
        stream=submit.stream,
        request_id=submit.request_id,
        priority=submit.priority,
        traceparent=submit.traceparent,
        encode=_encode_to_pb(work) if isinstance(work, m.Encode) else None,
        generate=_generate_to_pb(work) if isinstance(work, m.Generate) else None,
    )


def _encode_to_pb(work: m.Encode) -> pb.Encode:
    return pb.Encode(image=_image_to_pb(work.image), processor_options=work.processor_options)


def _generate_to_pb(work: m.Generate) -> pb.Generate:
    return pb.Generate(
        phase=cast(pb.Phase, work.phase.value),
        api=cast(pb.Api, work.api.value),
        body=work.body,
        images=[_image_to_pb(image) for image in work.images],
        stream=work.stream,
        http_chunks=work.http_chunks,
        response_id=work.response_id,
        created_s=work.created_s,
        kv=None if work.kv is None else _kv_to_pb(work.kv),
        rendered=work.rendered,
        emitted_token_ids=work.emitted_token_ids,
    )


def _submit_from_pb(message: pb.Submit) -> m.Submit:
    work: m.Encode | m.Generate
    kind = message.WhichOneof("work")
    if kind == "encode":
        encode = message.encode
        work = m.Encode(_image_from_pb(encode.image), encode.processor_options)
    elif kind == "generate":
        generate = message.generate
        work = m.Generate(
            phase=m.Phase(generate.phase),
            api=m.Api(generate.api),
            body=generate.body,
            images=tuple(_image_from_pb(image) for image in generate.images),
            stream=generate.stream,
            http_chunks=generate.http_chunks,
            response_id=generate.response_id,
            created_s=generate.created_s,
            kv=_kv_from_pb(generate.kv) if generate.HasField("kv") else None,
            rendered=generate.rendered,
            emitted_token_ids=generate.emitted_token_ids,
        )
    else:
        raise ValueError(f"submit {message.stream} holds no work")
    return m.Submit(message.stream, message.request_id, work, message.priority, message.traceparent)


def encode_gateway_frame(frame: m.GatewayFrame) -> bytes:
    """Return the bytes of a `GatewayFrame`."""
    release = None
    if frame.release_kv or frame.release_ec:
        release = pb.Release(kv_identifiers=frame.release_kv, ec_identifiers=frame.release_ec)
    return pb.GatewayFrame(
        submits=[_submit_to_pb(submit) for submit in frame.submits],
        cancels=frame.cancels,
        release=release,
    ).SerializeToString()


def decode_gateway_frame(data: bytes) -> m.GatewayFrame:
    """Read a `GatewayFrame`; `ValueError` if a submit holds no work or an unknown phase."""
    message = _parse(pb.GatewayFrame(), data)
    return m.GatewayFrame(
        submits=tuple(_submit_from_pb(submit) for submit in message.submits),
        cancels=tuple(message.cancels),
        release_kv=tuple(message.release.kv_identifiers),
        release_ec=tuple(message.release.ec_identifiers),
    )


def _outcome_to_pb(outcome: m.Outcome) -> pb.Outcome:
    result = outcome.result
    return pb.Outcome(
        stream=outcome.stream,
        encoded=_ec_to_pb(result) if isinstance(result, m.EcHandle) else None,
        prefilled=_prefilled_to_pb(result) if isinstance(result, m.Prefilled) else None,
        completed=_completed_to_pb(result) if isinstance(result, m.Completed) else None,
        failed=_failure_to_pb(result) if isinstance(result, m.Failure) else None,
        service_us=outcome.service_us,
        handoff_us=outcome.handoff_us,
    )


def _prefilled_to_pb(result: m.Prefilled) -> pb.Prefilled:
    return pb.Prefilled(kv=_kv_to_pb(result.kv), rendered=result.rendered)


def _completed_to_pb(result: m.Completed) -> pb.Completed:
    return pb.Completed(prompt_tokens=result.prompt_tokens, output_tokens=result.output_tokens)


def _failure_to_pb(result: m.Failure) -> pb.Failure:
    return pb.Failure(
        kind=cast(pb.FailureKind, result.kind.value),
        message=result.message,
        status=result.status,
        body=result.body,
    )


def _outcome_from_pb(message: pb.Outcome) -> m.Outcome:
    result: m.EcHandle | m.Prefilled | m.Completed | m.Failure
    kind = message.WhichOneof("result")
    if kind == "encoded":
        result = _ec_from_pb(message.encoded)
    elif kind == "prefilled":
        result = m.Prefilled(_kv_from_pb(message.prefilled.kv), message.prefilled.rendered)
    elif kind == "completed":
        result = m.Completed(message.completed.prompt_tokens, message.completed.output_tokens)
    elif kind == "failed":
        failed = message.failed
        result = m.Failure(m.FailureKind(failed.kind), failed.message, failed.status, failed.body)
    else:
        raise ValueError(f"outcome of stream {message.stream} holds no result")
    return m.Outcome(message.stream, result, message.service_us, message.handoff_us)


def encode_worker_frame(frame: m.WorkerFrame) -> bytes:
    """Return the bytes of a `WorkerFrame`."""
    return pb.WorkerFrame(
        streams=frame.streams,
        sizes=frame.sizes,
        token_counts=frame.token_counts,
        payload=frame.payload,
        token_ids=frame.token_ids,
        outcomes=[_outcome_to_pb(outcome) for outcome in frame.outcomes],
    ).SerializeToString()


def decode_worker_frame(data: bytes) -> m.WorkerFrame:
    """Read a `WorkerFrame`; its arrays stay packed (no object per event)."""
    message = _parse(pb.WorkerFrame(), data)
    return m.WorkerFrame(
        streams=message.streams,
        sizes=message.sizes,
        token_counts=message.token_counts,
        payload=message.payload,
        token_ids=message.token_ids,
        outcomes=tuple(_outcome_from_pb(outcome) for outcome in message.outcomes),
    )
