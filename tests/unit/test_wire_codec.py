"""What the codec refuses, and that it knows every field of the protocol."""

from dataclasses import fields

import pytest

from epd.wire import codec, worker_pb2
from epd.wire import messages as m

HANDLE = {"EcHandle": m.EcHandle, "KvHandle": m.KvHandle}
PLAIN = {
    **HANDLE,
    "Description": m.Description,
    "StageLoad": m.StageLoad,
    "Load": m.Load,
    "Image": m.Image,
    "Encode": m.Encode,
    "Generate": m.Generate,
    "Prefilled": m.Prefilled,
    "Completed": m.Completed,
    "Failure": m.Failure,
    "WorkerFrame": m.WorkerFrame,
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_message_has_the_fields_of_the_protocol(name: str) -> None:
    on_the_wire = {field.name for field in worker_pb2.DESCRIPTOR.message_types_by_name[name].fields}
    assert {field.name for field in fields(PLAIN[name])} == on_the_wire


@pytest.mark.parametrize("enum", [m.Phase, m.Api, m.FailureKind])
def test_an_enum_has_the_values_of_the_protocol(enum: type[m.Phase]) -> None:
    values = worker_pb2.DESCRIPTOR.enum_types_by_name[enum.__name__].values_by_number
    assert {member.value for member in enum} == set(values) - {0}


def test_garbage_is_no_frame() -> None:
    with pytest.raises(ValueError, match="not a GatewayFrame message"):
        codec.decode_gateway_frame(b"\xff\xff\xff")


def test_a_submit_without_work_is_refused_with_its_stream() -> None:
    frame = worker_pb2.GatewayFrame(submits=[worker_pb2.Submit(stream=9)])
    with pytest.raises(ValueError, match="submit 9 holds no work"):
        codec.decode_gateway_frame(frame.SerializeToString())


def test_a_generate_without_phase_is_refused() -> None:
    generate = worker_pb2.Generate(api=worker_pb2.API_COMPLETIONS)
    frame = worker_pb2.GatewayFrame(submits=[worker_pb2.Submit(generate=generate)])
    with pytest.raises(ValueError, match="Phase"):
        codec.decode_gateway_frame(frame.SerializeToString())


def test_an_outcome_without_result_is_refused_with_its_stream() -> None:
    frame = worker_pb2.WorkerFrame(outcomes=[worker_pb2.Outcome(stream=4)])
    with pytest.raises(ValueError, match="outcome of stream 4 holds no result"):
        codec.decode_worker_frame(frame.SerializeToString())


def test_requests_without_fields_are_empty_bytes() -> None:
    assert codec.encode_empty(None) == b""
    codec.decode_empty(b"")
