"""Every number the gateway can be told, in frozen groups; units stand in the names.

`load` is how the program reads them: dotted names from the command line
(`limits.max_body_bytes=1000`) win over the environment (`EPD_GATEWAY_LIMITS__MAX_BODY_BYTES`),
which wins over the defaults here. Nothing else in the gateway reads the environment.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

ENVIRONMENT_PREFIX: Final = "EPD_GATEWAY_"


class SettingsError(ValueError):
    """A setting is unknown or out of range; the message is one line for the user."""


def _split(value: object) -> object:
    """Let a list be written with commas, as the command line and the environment need."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Listen(_Group):
    """Where the gateway accepts connections.

    Attributes:
        host: Address or name to bind.
        port: TCP port; 0 lets the system choose.
        tls_certificate: PEM file of the certificate chain; None serves plain HTTP.
        tls_key: PEM file of the certificate's private key.
        stop_grace_s: How long streams in flight may go on once the gateway is told to stop.
        files_poll_s: How often the files of API keys and certificate are looked at.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    stop_grace_s: NonNegativeFloat = 30.0
    files_poll_s: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _certificate_and_key_come_together(self) -> "Listen":
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be given together")
        return self


class HttpLimits(_Group):
    """What one client, and all clients together, may take of the HTTP front.

    Attributes:
        max_connections: Open connections; one more is answered 503 and closed.
        max_header_bytes: Request target and headers, each header 32 more; over it is 431.
        max_body_bytes: One request's body; more is 413.
        max_buffered_body_bytes: Bodies of all requests in flight; more is 503.
        max_client_buffer_bytes: Unsent bytes of one streamed answer; past it, that stream ends.
        max_pipelined_requests: Requests one connection may send ahead of its answers.
        header_timeout_s: From the first byte of a request (or the connection) to its last header.
        body_timeout_s: Window in which a body must advance by `min_body_bytes_per_s` times it.
        min_body_bytes_per_s: Slowest body still accepted, averaged over the window.
        idle_timeout_s: How long a connection is kept between requests.
        flush_timeout_s: How long a finished answer may take to reach the client.
        linger_s: How long a refused client may go on sending before it is cut off.
        sweep_interval_s: How often deadlines are looked at; they fire at most this much late.
    """

    max_connections: PositiveInt = 8192
    max_header_bytes: PositiveInt = 32 * 1024
    max_body_bytes: PositiveInt = 64 * 1024 * 1024
    max_buffered_body_bytes: PositiveInt = 1024 * 1024 * 1024
    max_client_buffer_bytes: PositiveInt = 1024 * 1024
    max_pipelined_requests: PositiveInt = 16
    header_timeout_s: PositiveFloat = 10.0
    body_timeout_s: PositiveFloat = 10.0
    min_body_bytes_per_s: NonNegativeInt = 1000
    idle_timeout_s: PositiveFloat = 75.0
    flush_timeout_s: PositiveFloat = 30.0
    linger_s: PositiveFloat = 2.0
    sweep_interval_s: PositiveFloat = 1.0


class KeyLimits(_Group):
    """What each API key may ask of this process; 0 sets no limit.

    Attributes:
        max_in_flight: Requests being served at once; one more is 429.
        max_per_minute: Requests a minute, as many of them at once as a minute allows; more are 429.
    """

    max_in_flight: NonNegativeInt = 0
    max_per_minute: NonNegativeInt = 0


class MediaLimits(_Group):
    """Which images are accepted, and what fetching them may cost.

    Attributes:
        max_images: Images in one request.
        max_image_bytes: Encoded size of one image.
        max_image_pixels: Width times height of one image.
        max_fetched_bytes: Encoded size of all images that one request has fetched from URLs.
        fetch_timeout_s: Whole fetch of one URL: names, redirects and body.
        max_redirects: Redirects followed for one URL.
        max_concurrent_fetches: URLs fetched at once by this process.
        allowed_domains: Hosts (and their subdomains) that may be fetched from; empty allows all.
        allowed_ports: TCP ports that may be fetched from.
        allow_private: Fetch from private addresses too. For tests and closed networks only.
    """

    max_images: PositiveInt = 64
    max_image_bytes: PositiveInt = 20 * 1024 * 1024
    max_image_pixels: PositiveInt = 64_000_000
    max_fetched_bytes: PositiveInt = 64 * 1024 * 1024
    fetch_timeout_s: PositiveFloat = 10.0
    max_redirects: NonNegativeInt = 3
    max_concurrent_fetches: PositiveInt = 32
    allowed_domains: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    allowed_ports: Annotated[tuple[int, ...], BeforeValidator(_split)] = (80, 443)
    allow_private: bool = False


class Deadlines(_Group):
    """How long each stage of a request may take before it is retried elsewhere or given up.

    Attributes:
        connect_s: Reaching a worker.
        encode_s: Encoding one image.
        prefill_s: From the prefill's start to its handle and first token.
        first_token_s: From the request's arrival to its first token.
        decode_idle_s: Between two tokens of one stream.
        request_s: The whole request.
    """

    connect_s: PositiveFloat = 2.0
    encode_s: PositiveFloat = 30.0
    prefill_s: PositiveFloat = 60.0
    first_token_s: PositiveFloat = 120.0
    decode_idle_s: PositiveFloat = 30.0
    request_s: PositiveFloat = 3600.0


class Workers(_Group):
    """How the gateway keeps in touch with its workers.

    Attributes:
        roster_poll_s: How often the roster file is looked at; a flip is seen this much later.
        load_interval_ms: At most how often a worker reports its load.
        probe_interval_s: A worker that has been silent for so long is asked how it is.
        probe_timeout_s: No answer after so long: nothing new is placed on it.
        lost_after_s: Silent for so long, it is lost: its work goes elsewhere.
        suspect_s: How long a worker that missed a deadline is chosen last.
        reconnect_max_s: Longest pause between two attempts to reach a worker.
        release_delay_s: How long releases of handoffs may wait for company.
        tls_ca: PEM file with the authority of the workers' certificates; None speaks plain gRPC.
        tls_certificate: PEM file of the certificate that the gateway shows to workers.
        tls_key: PEM file of its private key.
        tls_server_name: Name that the workers' certificates carry; empty: each its own address.
    """

    roster_poll_s: PositiveFloat = 0.025
    load_interval_ms: PositiveInt = 50
    probe_interval_s: PositiveFloat = 1.0
    probe_timeout_s: PositiveFloat = 1.0
    lost_after_s: PositiveFloat = 5.0
    suspect_s: NonNegativeFloat = 10.0
    reconnect_max_s: PositiveFloat = 1.0
    release_delay_s: NonNegativeFloat = 0.05
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_server_name: str = ""

    @model_validator(mode="after")
    def _certificate_needs_key_and_authority(self) -> "Workers":
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be given together")
        if self.tls_certificate is not None and self.tls_ca is None:
            raise ValueError("tls_certificate needs tls_ca")
        return self


class KubernetesWatch(_Group):
    """How pods are followed, where the roster comes from Kubernetes.

    Attributes:
        watch_s: How long the API server keeps one watch open; the next goes on where it ended.
        grace_s: A watch that is silent for so long on top of it is dead.
        request_timeout_s: Reaching the API server, and one page of a list.
        retry_max_s: Longest pause between two attempts.
    """

    watch_s: PositiveInt = 30
    grace_s: PositiveFloat = 5.0
    request_timeout_s: PositiveFloat = 10.0
    retry_max_s: PositiveFloat = 5.0


class Retries(_Group):
    """How often failed work is tried again.

    Attributes:
        max_stage_retries: Times one stage is tried again elsewhere before the answer began.
        max_replays: Times an answer that began is continued on another pod.
    """

    max_stage_retries: NonNegativeInt = 1
    max_replays: NonNegativeInt = 2


class Slo(_Group):
    """The cluster's objective, by which the gateway judges.

    Attributes:
        ttft_ms: Time to first token that a request should meet.
        tpot_ms: Time per output token, the mean over its m-1 gaps, likewise.
        attainment_percent: Share of requests that should meet both.
        overflow: Act on it, too: encode and prefill that their role is predicted to end too late go
            to pods of other roles, where they cost next to no answer its time per token. False:
            they wait for a pod of their role.
    """

    ttft_ms: PositiveFloat = 1000.0
    tpot_ms: PositiveFloat = 50.0
    attainment_percent: float = Field(default=90.0, gt=0, le=100)
    overflow: bool = True


class Live(_Group):
    """The live view on the admin listener.

    Attributes:
        anywhere: Show it though that listener is not on loopback: whoever reaches it sees it.
    """

    anywhere: bool = False


class Settings(_Group):
    """All settings of one gateway process."""

    listen: Listen = Listen()
    limits: HttpLimits = HttpLimits()
    keys: KeyLimits = KeyLimits()
    media: MediaLimits = MediaLimits()
    deadlines: Deadlines = Deadlines()
    workers: Workers = Workers()
    kubernetes: KubernetesWatch = KubernetesWatch()
    retries: Retries = Retries()
    slo: Slo = Slo()
    live: Live = Live()

    @classmethod
    def load(cls, arguments: Mapping[str, str], environment: Mapping[str, str]) -> "Settings":
        """Return the settings that `arguments` and `environment` ask for.

        Lists are written with commas.

        Args:
            arguments: Dotted names to values, as given on the command line.
            environment: The process environment; what is not PREFIX_GROUP__NAME is ignored.

        Raises:
            SettingsError: A name is unknown, or a value has the wrong type or range.
        """
        dotted = {
            name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", "."): value
            for name, value in environment.items()
            # Kubernetes gives pods EPD_GATEWAY_PORT and more for a Service of that name.
            if name.startswith(ENVIRONMENT_PREFIX) and "__" in name
        }
        dotted.update(arguments)
        groups: dict[str, dict[str, str]] = {}
        for name, value in dotted.items():
            group, dot, field = name.partition(".")
            if not dot:
                raise SettingsError(f"setting {name!r}: expected GROUP.NAME, one of {_groups()}")
            groups.setdefault(group, {})[field] = value
        try:
            return cls.model_validate(groups)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SettingsError(f"setting {where}: {first['msg']}") from None


def _groups() -> str:
    return ", ".join(Settings.model_fields)
