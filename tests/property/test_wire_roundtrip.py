"""Whatever is said on the wire arrives as it was said."""

from contextlib import suppress
from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from epd.wire import codec
from epd.wire import messages as m

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
BYTES = st.binary(max_size=40)


BY_TYPE: dict[object, st.SearchStrategy[object]] = {str: TEXT, bytes: BYTES, int: U32}


def handles(of: type[m.EcHandle] | type[m.KvHandle]) -> st.SearchStrategy[m.EcHandle | m.KvHandle]:
    """Return handles of one kind with every field drawn."""
    return st.builds(of, **{field.name: BY_TYPE[field.type] for field in fields(of)})


ec_handles = handles(m.EcHandle)
kv_handles = handles(m.KvHandle)
images = st.builds(
    m.Image, content=BYTES, media_type=TEXT, ec=st.none() | ec_handles, local=st.booleans()
)
encodes = st.builds(m.Encode, image=images, processor_options=BYTES)
generates = st.builds(
    m.Generate,
    phase=st.sampled_from(m.Phase),
    api=st.sampled_from(m.Api),
    body=BYTES,
    images=st.lists(images, max_size=3).map(tuple),
    stream=st.booleans(),
    http_chunks=st.booleans(),
    response_id=TEXT,
    created_s=st.integers(-(2**63), 2**63 - 1),
    kv=st.none() | kv_handles,
    rendered=BYTES,
    emitted_token_ids=BYTES,
)
submits = st.builds(
    m.Submit,
    stream=U64,
    request_id=TEXT,
    work=encodes | generates,
    priority=st.integers(-(2**31), 2**31 - 1),
)
gateway_frames = st.builds(
    m.GatewayFrame,
    submits=st.lists(submits, max_size=3).map(tuple),
    cancels=st.lists(U64, max_size=3).map(tuple),
    release_kv=st.lists(TEXT, max_size=3).map(tuple),
    release_ec=st.lists(TEXT, max_size=3).map(tuple),
)
results = st.one_of(
    ec_handles,
    st.builds(m.Prefilled, kv=kv_handles, rendered=BYTES),
    st.builds(m.Completed, prompt_tokens=U32, output_tokens=U32),
    st.builds(m.Failure, kind=st.sampled_from(m.FailureKind), message=TEXT, status=U32, body=BYTES),
)
outcomes = st.builds(m.Outcome, stream=U64, result=results, service_us=U32, handoff_us=U32)
worker_frames = st.builds(
    m.WorkerFrame,
    streams=st.lists(U64, max_size=5),
    sizes=st.lists(U32, max_size=5),
    token_counts=st.lists(U32, max_size=5),
    payload=BYTES,
    token_ids=BYTES,
    outcomes=st.lists(outcomes, max_size=3).map(tuple),
)
descriptions = st.builds(
    m.Description,
    worker_id=TEXT,
    incarnation=TEXT,
    model=TEXT,
    engine=TEXT,
    compatibility_hash=TEXT,
    ready=st.booleans(),
    multimodal=st.booleans(),
    pixels_once=st.booleans(),
    max_model_len=U32,
    max_images=U32,
    kv_capacity_tokens=U64,
    process_id=U32,
)
stage_loads = st.builds(
    m.StageLoad,
    waiting=U32,
    running=U32,
    started_total=U64,
    finished_total=U64,
    failed_total=U64,
    cancelled_total=U64,
    service_us_total=U64,
    tokens_total=U64,
)
loads = st.builds(
    m.Load,
    encode=stage_loads,
    prefill=stage_loads,
    decode=stage_loads,
    running_tokens=U64,
    waiting_prefill_tokens=U64,
    kv_used_permille=U32,
    ec_used_permille=U32,
    kv_leases=U32,
    ec_leases=U32,
    ec_received_bytes_total=U64,
    kv_received_bytes_total=U64,
)


@given(gateway_frames)
def test_a_gateway_frame_arrives_as_it_was_sent(frame: m.GatewayFrame) -> None:
    assert codec.decode_gateway_frame(codec.encode_gateway_frame(frame)) == frame


@given(worker_frames)
def test_a_worker_frame_arrives_as_it_was_sent(frame: m.WorkerFrame) -> None:
    read = codec.decode_worker_frame(codec.encode_worker_frame(frame))
    assert list(read.streams) == frame.streams
    assert list(read.sizes) == frame.sizes
    assert list(read.token_counts) == frame.token_counts
    assert read.payload == frame.payload
    assert read.token_ids == frame.token_ids
    assert read.outcomes == frame.outcomes


@given(descriptions)
def test_a_description_arrives_as_it_was_sent(description: m.Description) -> None:
    assert codec.decode_description(codec.encode_description(description)) == description


@given(loads)
def test_a_load_arrives_as_it_was_sent(load: m.Load) -> None:
    assert codec.decode_load(codec.encode_load(load)) == load


@given(U32)
def test_a_watch_interval_arrives_as_it_was_sent(interval_ms: int) -> None:
    sent = codec.encode_watch_load_request(interval_ms)
    assert codec.decode_watch_load_request(sent) == interval_ms


@given(BYTES)
def test_bytes_are_read_or_refused_with_a_value_error_and_nothing_else(data: bytes) -> None:
    for decode in (codec.decode_gateway_frame, codec.decode_worker_frame, codec.decode_load):
        with suppress(ValueError):
            decode(data)
