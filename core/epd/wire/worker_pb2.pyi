from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    PHASE_WHOLE: _ClassVar[Phase]
    PHASE_PREFILL: _ClassVar[Phase]
    PHASE_DECODE: _ClassVar[Phase]

class Api(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    API_UNSPECIFIED: _ClassVar[Api]
    API_CHAT_COMPLETIONS: _ClassVar[Api]
    API_COMPLETIONS: _ClassVar[Api]

class FailureKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_UNSPECIFIED: _ClassVar[FailureKind]
    FAILURE_REFUSED: _ClassVar[FailureKind]
    FAILURE_HANDOFF_LOST: _ClassVar[FailureKind]
    FAILURE_INCOMPATIBLE: _ClassVar[FailureKind]
    FAILURE_OVERLOADED: _ClassVar[FailureKind]
    FAILURE_INTERNAL: _ClassVar[FailureKind]
    FAILURE_SHUTTING_DOWN: _ClassVar[FailureKind]
PHASE_UNSPECIFIED: Phase
PHASE_WHOLE: Phase
PHASE_PREFILL: Phase
PHASE_DECODE: Phase
API_UNSPECIFIED: Api
API_CHAT_COMPLETIONS: Api
API_COMPLETIONS: Api
FAILURE_UNSPECIFIED: FailureKind
FAILURE_REFUSED: FailureKind
FAILURE_HANDOFF_LOST: FailureKind
FAILURE_INCOMPATIBLE: FailureKind
FAILURE_OVERLOADED: FailureKind
FAILURE_INTERNAL: FailureKind
FAILURE_SHUTTING_DOWN: FailureKind

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Description(_message.Message):
    __slots__ = ("worker_id", "incarnation", "model", "engine", "compatibility_hash", "ready", "multimodal", "pixels_once", "max_model_len", "max_images", "kv_capacity_tokens", "process_id")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    COMPATIBILITY_HASH_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    MULTIMODAL_FIELD_NUMBER: _ClassVar[int]
    PIXELS_ONCE_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGES_FIELD_NUMBER: _ClassVar[int]
    KV_CAPACITY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROCESS_ID_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    incarnation: str
    model: str
    engine: str
    compatibility_hash: str
    ready: bool
    multimodal: bool
    pixels_once: bool
    max_model_len: int
    max_images: int
    kv_capacity_tokens: int
    process_id: int
    def __init__(self, worker_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., model: _Optional[str] = ..., engine: _Optional[str] = ..., compatibility_hash: _Optional[str] = ..., ready: _Optional[bool] = ..., multimodal: _Optional[bool] = ..., pixels_once: _Optional[bool] = ..., max_model_len: _Optional[int] = ..., max_images: _Optional[int] = ..., kv_capacity_tokens: _Optional[int] = ..., process_id: _Optional[int] = ...) -> None: ...

class WatchLoadRequest(_message.Message):
    __slots__ = ("interval_ms",)
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    interval_ms: int
    def __init__(self, interval_ms: _Optional[int] = ...) -> None: ...

class StageLoad(_message.Message):
    __slots__ = ("waiting", "running", "started_total", "finished_total", "failed_total", "cancelled_total", "service_us_total", "tokens_total")
    WAITING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    STARTED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    FINISHED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    FAILED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    SERVICE_US_TOTAL_FIELD_NUMBER: _ClassVar[int]
    TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    waiting: int
    running: int
    started_total: int
    finished_total: int
    failed_total: int
    cancelled_total: int
    service_us_total: int
    tokens_total: int
    def __init__(self, waiting: _Optional[int] = ..., running: _Optional[int] = ..., started_total: _Optional[int] = ..., finished_total: _Optional[int] = ..., failed_total: _Optional[int] = ..., cancelled_total: _Optional[int] = ..., service_us_total: _Optional[int] = ..., tokens_total: _Optional[int] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("encode", "prefill", "decode", "running_tokens", "waiting_prefill_tokens", "kv_used_permille", "ec_used_permille", "kv_leases", "ec_leases", "ec_received_bytes_total", "kv_received_bytes_total")
    ENCODE_FIELD_NUMBER: _ClassVar[int]
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WAITING_PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_USED_PERMILLE_FIELD_NUMBER: _ClassVar[int]
    EC_USED_PERMILLE_FIELD_NUMBER: _ClassVar[int]
    KV_LEASES_FIELD_NUMBER: _ClassVar[int]
    EC_LEASES_FIELD_NUMBER: _ClassVar[int]
    EC_RECEIVED_BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    KV_RECEIVED_BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    encode: StageLoad
    prefill: StageLoad
    decode: StageLoad
    running_tokens: int
    waiting_prefill_tokens: int
    kv_used_permille: int
    ec_used_permille: int
    kv_leases: int
    ec_leases: int
    ec_received_bytes_total: int
    kv_received_bytes_total: int
    def __init__(self, encode: _Optional[_Union[StageLoad, _Mapping]] = ..., prefill: _Optional[_Union[StageLoad, _Mapping]] = ..., decode: _Optional[_Union[StageLoad, _Mapping]] = ..., running_tokens: _Optional[int] = ..., waiting_prefill_tokens: _Optional[int] = ..., kv_used_permille: _Optional[int] = ..., ec_used_permille: _Optional[int] = ..., kv_leases: _Optional[int] = ..., ec_leases: _Optional[int] = ..., ec_received_bytes_total: _Optional[int] = ..., kv_received_bytes_total: _Optional[int] = ...) -> None: ...

class EcHandle(_message.Message):
    __slots__ = ("worker_id", "compatibility_hash", "identifier", "metadata", "address", "size_bytes", "tokens", "lease_ms")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    COMPATIBILITY_HASH_FIELD_NUMBER: _ClassVar[int]
    IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    compatibility_hash: str
    identifier: str
    metadata: bytes
    address: bytes
    size_bytes: int
    tokens: int
    lease_ms: int
    def __init__(self, worker_id: _Optional[str] = ..., compatibility_hash: _Optional[str] = ..., identifier: _Optional[str] = ..., metadata: _Optional[bytes] = ..., address: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., tokens: _Optional[int] = ..., lease_ms: _Optional[int] = ...) -> None: ...

class KvHandle(_message.Message):
    __slots__ = ("worker_id", "compatibility_hash", "identifier", "address", "size_bytes", "tokens", "lease_ms")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    COMPATIBILITY_HASH_FIELD_NUMBER: _ClassVar[int]
    IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    compatibility_hash: str
    identifier: str
    address: bytes
    size_bytes: int
    tokens: int
    lease_ms: int
    def __init__(self, worker_id: _Optional[str] = ..., compatibility_hash: _Optional[str] = ..., identifier: _Optional[str] = ..., address: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., tokens: _Optional[int] = ..., lease_ms: _Optional[int] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("content", "media_type", "ec", "local")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    EC_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    media_type: str
    ec: EcHandle
    local: bool
    def __init__(self, content: _Optional[bytes] = ..., media_type: _Optional[str] = ..., ec: _Optional[_Union[EcHandle, _Mapping]] = ..., local: _Optional[bool] = ...) -> None: ...

class Encode(_message.Message):
    __slots__ = ("image", "processor_options")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PROCESSOR_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    image: Image
    processor_options: bytes
    def __init__(self, image: _Optional[_Union[Image, _Mapping]] = ..., processor_options: _Optional[bytes] = ...) -> None: ...

class Generate(_message.Message):
    __slots__ = ("phase", "api", "body", "images", "stream", "http_chunks", "response_id", "created_s", "kv", "rendered", "emitted_token_ids")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    API_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    HTTP_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_S_FIELD_NUMBER: _ClassVar[int]
    KV_FIELD_NUMBER: _ClassVar[int]
    RENDERED_FIELD_NUMBER: _ClassVar[int]
    EMITTED_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    phase: Phase
    api: Api
    body: bytes
    images: _containers.RepeatedCompositeFieldContainer[Image]
    stream: bool
    http_chunks: bool
    response_id: str
    created_s: int
    kv: KvHandle
    rendered: bytes
    emitted_token_ids: bytes
    def __init__(self, phase: _Optional[_Union[Phase, str]] = ..., api: _Optional[_Union[Api, str]] = ..., body: _Optional[bytes] = ..., images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ..., stream: _Optional[bool] = ..., http_chunks: _Optional[bool] = ..., response_id: _Optional[str] = ..., created_s: _Optional[int] = ..., kv: _Optional[_Union[KvHandle, _Mapping]] = ..., rendered: _Optional[bytes] = ..., emitted_token_ids: _Optional[bytes] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("stream", "request_id", "priority", "encode", "generate", "traceparent")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    ENCODE_FIELD_NUMBER: _ClassVar[int]
    GENERATE_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    stream: int
    request_id: str
    priority: int
    encode: Encode
    generate: Generate
    traceparent: str
    def __init__(self, stream: _Optional[int] = ..., request_id: _Optional[str] = ..., priority: _Optional[int] = ..., encode: _Optional[_Union[Encode, _Mapping]] = ..., generate: _Optional[_Union[Generate, _Mapping]] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("kv_identifiers", "ec_identifiers")
    KV_IDENTIFIERS_FIELD_NUMBER: _ClassVar[int]
    EC_IDENTIFIERS_FIELD_NUMBER: _ClassVar[int]
    kv_identifiers: _containers.RepeatedScalarFieldContainer[str]
    ec_identifiers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, kv_identifiers: _Optional[_Iterable[str]] = ..., ec_identifiers: _Optional[_Iterable[str]] = ...) -> None: ...

class GatewayFrame(_message.Message):
    __slots__ = ("submits", "cancels", "release")
    SUBMITS_FIELD_NUMBER: _ClassVar[int]
    CANCELS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    submits: _containers.RepeatedCompositeFieldContainer[Submit]
    cancels: _containers.RepeatedScalarFieldContainer[int]
    release: Release
    def __init__(self, submits: _Optional[_Iterable[_Union[Submit, _Mapping]]] = ..., cancels: _Optional[_Iterable[int]] = ..., release: _Optional[_Union[Release, _Mapping]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("kind", "message", "status", "body")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    kind: FailureKind
    message: str
    status: int
    body: bytes
    def __init__(self, kind: _Optional[_Union[FailureKind, str]] = ..., message: _Optional[str] = ..., status: _Optional[int] = ..., body: _Optional[bytes] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("stream", "encoded", "prefilled", "completed", "failed", "service_us", "handoff_us")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    PREFILLED_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    SERVICE_US_FIELD_NUMBER: _ClassVar[int]
    HANDOFF_US_FIELD_NUMBER: _ClassVar[int]
    stream: int
    encoded: EcHandle
    prefilled: Prefilled
    completed: Completed
    failed: Failure
    service_us: int
    handoff_us: int
    def __init__(self, stream: _Optional[int] = ..., encoded: _Optional[_Union[EcHandle, _Mapping]] = ..., prefilled: _Optional[_Union[Prefilled, _Mapping]] = ..., completed: _Optional[_Union[Completed, _Mapping]] = ..., failed: _Optional[_Union[Failure, _Mapping]] = ..., service_us: _Optional[int] = ..., handoff_us: _Optional[int] = ...) -> None: ...

class Prefilled(_message.Message):
    __slots__ = ("kv", "rendered")
    KV_FIELD_NUMBER: _ClassVar[int]
    RENDERED_FIELD_NUMBER: _ClassVar[int]
    kv: KvHandle
    rendered: bytes
    def __init__(self, kv: _Optional[_Union[KvHandle, _Mapping]] = ..., rendered: _Optional[bytes] = ...) -> None: ...

class Completed(_message.Message):
    __slots__ = ("prompt_tokens", "output_tokens")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    output_tokens: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ...) -> None: ...

class WorkerFrame(_message.Message):
    __slots__ = ("streams", "sizes", "token_counts", "payload", "token_ids", "outcomes")
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNTS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    streams: _containers.RepeatedScalarFieldContainer[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    token_counts: _containers.RepeatedScalarFieldContainer[int]
    payload: bytes
    token_ids: bytes
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    def __init__(self, streams: _Optional[_Iterable[int]] = ..., sizes: _Optional[_Iterable[int]] = ..., token_counts: _Optional[_Iterable[int]] = ..., payload: _Optional[bytes] = ..., token_ids: _Optional[bytes] = ..., outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ...) -> None: ...
