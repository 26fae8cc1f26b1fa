"""The server's settings. Flags override the environment (ONNXSERVE_*), which overrides a file, then the defaults."""

import difflib
import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.config import MAX_BYTES, MAX_ROWS, MAX_THREADS, explain
from onnxserve_server.repository.yaml_file import read_mapping
from onnxserve_server.runtime.providers import parse_providers
from onnxserve_server.runtime.resources import resources

PREFIX = "ONNXSERVE_"
_OTHER_VARIABLES = {"ONNXSERVE_TARGET", "ONNXSERVE_CONFIG"}  # read by the command line, not by these settings
# Kubernetes sets these in every pod beside a Service called onnxserve or onnxserve-...: addresses, not settings.
_SERVICE_LINKS = re.compile(
    r"ONNXSERVE_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_PORT_LINK = re.compile(r"(tcp|udp|sctp)://.*")


class Settings(BaseSettings):
    """Everything that an operator can configure of the server as a whole. Each field is a flag of `onnxserve serve`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    models: Path = Field(Path("models"), description="directory that holds the models")
    host: str = Field(
        "127.0.0.1",
        description="address to listen on; 0.0.0.0 for all of IPv4, :: for all of IPv4 and IPv6",
    )
    port: int = Field(8500, ge=0, le=65535, description="port for gRPC; 0 picks a free one")
    address: str = Field(
        "", description="socket to listen on for gRPC, in place of host and port: unix:/path, such as unix:/run/a.sock"
    )
    edge: Literal["lane", "plain"] = Field(
        "lane", description="how calls are served: lane (fast) or plain (grpcio's own threads)"
    )
    threads: int = Field(
        default_factory=lambda: resources().threads, ge=1, le=MAX_THREADS, description="threads that one run may use"
    )
    providers: Annotated[dict[str, dict[str, str]], NoDecode] = Field(
        default_factory=lambda: parse_providers("auto"),
        description="execution providers by preference: cpu, cuda, tensorrt; auto: CUDA if available, else the CPU",
    )
    allow_cpu_fallback: bool = Field(False, description="use the CPU where a requested provider is not available")
    max_rows: int = Field(64, ge=1, le=MAX_ROWS, description="maximum rows of one run, unless model.yaml sets it")
    max_delay_us: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="longest wait of a request for others while an executor is free, in µs, unless model.yaml sets it",
    )
    max_queue_rows: int = Field(
        4096, ge=1, le=MAX_ROWS, description="maximum rows that may wait for a model, unless model.yaml sets it"
    )
    max_queue_bytes: int = Field(
        256 << 20,
        ge=1,
        le=MAX_BYTES,
        description="maximum bytes of input that may wait for a model, unless model.yaml sets it",
    )
    spot_checks: float = Field(
        0.02,
        ge=0,
        le=1,
        description="share of a model's run time that spot checks of its batches may take, unless model.yaml sets it; "
        "0: none",
    )
    all_run_bytes: int = Field(
        0,
        ge=0,
        description="maximum bytes of all models' weights and runs on the CPU; 0: half of the memory left at the "
        "start, and twice the bytes of the models' files",
    )
    all_queue_bytes: int = Field(
        0,
        ge=0,
        description="maximum bytes of input that wait for all models; 0: a quarter of the memory left after loading",
    )
    max_message_bytes: int = Field(
        64 << 20, ge=1024, le=2**31 - 1, description="largest message that a caller may send, in bytes"
    )
    default_timeout: float = Field(
        0.0,
        ge=0,
        le=86_400,
        description="seconds that a request may take whose caller names no deadline; 0: as long as it takes",
    )
    max_response_bytes: int = Field(
        0, ge=0, le=2**31 - 1, description="maximum bytes of the outputs of one answer; 0: as max_message_bytes"
    )
    compression: Literal["identity", "gzip"] = Field(
        "identity", description="how messages may be compressed: identity (not at all) or gzip; also bodies by HTTP"
    )
    compression_ratio: int = Field(
        20, ge=1, le=1032, description="with --compression gzip, how many times as large a message may become"
    )
    max_connections: int = Field(
        4096,
        ge=1,
        description="maximum gRPC connections; fewer where the process may not open so many files",
    )
    max_peer_connections: int = Field(
        0, ge=0, description="maximum gRPC connections of one address; 0: no limit, as behind a proxy"
    )
    max_connection_calls: int = Field(
        2048,
        ge=1,
        le=100_000,
        description="maximum calls at a time on one connection; further ones wait at their client",
    )
    max_header_bytes: int = Field(16 << 10, ge=1024, le=1 << 20, description="largest metadata of a call, in bytes")
    min_ping_interval: float = Field(
        5.0,
        ge=0,
        le=7200,
        description="seconds between pings of a client while nothing else is sent; one that pings more often loses its "
        "connection",
    )
    all_unsent_bytes: int = Field(
        0,
        ge=0,
        description="maximum bytes of answers that their callers have not read; 0: a quarter of the memory left after "
        "loading",
    )
    stream_requests: int = Field(
        128, ge=1, description="maximum requests of one stream in flight: read and not yet answered"
    )
    stream_bytes: int = Field(
        32 << 20,
        ge=1,
        description="maximum bytes of one stream's requests in flight and unsent answers; one request may exceed it",
    )
    all_stream_requests: int = Field(
        8192, ge=1, description="maximum requests in flight of all streams together; each stream may always have one"
    )
    load_report: bool = Field(
        False, description="report the load with every 16th answer, for clients that balance by weighted_round_robin"
    )
    inline_us: int = Field(
        3000, ge=0, description="runs of up to this many µs are done by the thread that decodes; 0: none"
    )
    workers: int = Field(
        64,
        ge=1,
        le=10_000,
        description="threads for all calls except the lane's; on the plain edge, the number of concurrent calls",
    )
    drain_delay: float = Field(
        0.0, ge=0, le=86_400, description="seconds to keep serving after SIGTERM, so that load balancers can react"
    )
    drain_timeout: float = Field(30.0, ge=0, le=86_400, description="seconds to wait after that for calls in flight")
    max_connection_age: float = Field(
        0.0,
        ge=0,
        le=86_400,
        description="seconds after which a connection is closed, so that clients find other servers; 0: never",
    )
    max_connection_age_grace: float = Field(
        0.0, ge=0, le=86_400, description="seconds that calls on such a connection may still take; 0: no limit"
    )
    probe_timeout: float = Field(
        60.0, ge=0.1, le=3600, description="seconds that a model's runs may take when it is tried before it serves"
    )
    probe_memory_bytes: int = Field(
        0,
        ge=0,
        description="resident memory of the process that tries a model, in bytes; 0: three quarters of what is left",
    )
    skip_broken_models: bool = Field(
        False, description="serve the other models when one cannot be loaded, instead of failing the start"
    )
    http_port: int = Field(
        8501,
        ge=-1,
        le=65535,
        description="port of the status page, /metrics, /healthz and /readyz; 0 picks a free one, -1 closes it",
    )
    http_address: str = Field(
        "", description="socket to listen on for HTTP, in place of host and http_port: unix:/path"
    )
    telemetry: bool = Field(True, description="collect metrics of requests and runs, and traces of some")
    otlp_endpoint: str = Field(
        default_factory=lambda: os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        description="collector to push metrics, traces and logs to, by OTLP over gRPC, such as http://localhost:4317",
    )
    otlp_interval: float = Field(15.0, ge=0.1, le=3600, description="seconds between two pushes of metrics")
    trace_ratio: float = Field(
        0.01,
        ge=0,
        le=1,
        description="with --otlp-endpoint, the share of requests to trace among those without a traceparent",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level that is logged, to stderr; debug logs a line per request"
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="console: lines for people; json: one JSON object per line"
    )

    @field_validator("providers", mode="before")
    @classmethod
    def _parse_providers(cls, value: object) -> object:
        return parse_providers(value)

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        if not value:
            return value
        try:
            url = urlsplit(value)
            usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and " " not in value
        except ValueError:  # brackets that do not close, a port that is not a number
            usable = False
        if not usable:
            raise ValueError(
                f"{value!r} is not a valid endpoint; expected a URL such as http://localhost:4317, or https"
            )
        return value

    @field_validator("address", "http_address")
    @classmethod
    def _check_address(cls, value: str) -> str:
        if value and not value.startswith("unix:/"):
            raise ValueError(
                f"{value!r} is not an absolute path of a socket; expected unix:/path, or use host and port"
            )
        return value

    @model_validator(mode="after")
    def _check_addresses(self) -> Self:
        if self.address and self.address == self.http_address:
            raise ValueError(f"address and http_address are both {self.address}; they must differ")
        return self

    @model_validator(mode="after")
    def _check_ports(self) -> Self:
        if self.port == self.http_port and self.port > 0:
            raise ValueError(f"port and http_port are both {self.port}; they must differ")
        return self

    @model_validator(mode="after")
    def _check_ages(self) -> Self:
        if self.max_connection_age_grace and not self.max_connection_age:
            raise ValueError("max_connection_age_grace has no effect without max_connection_age; set both")
        return self

    @property
    def stream_lifetime(self) -> float:
        """Seconds after which a stream ends; inf: never.

        It may open just when its connection's age is reached: then half of the grace is its life, and half its end.
        """
        return min(self.max_connection_age or math.inf, self.max_connection_age_grace / 2 or math.inf)

    @property
    def batching_defaults(self) -> dict[str, object]:
        """The settings for batching, by the keys of model.yaml."""
        names = ("max_rows", "max_delay_us", "max_queue_rows", "max_queue_bytes", "spot_checks")
        return {name: getattr(self, name) for name in names}


def load_settings(file: Path | None = None, **flags: Any) -> Settings:
    """Return the settings.

    Args:
        file: a YAML file of settings, if any.
        flags: those of the command line; None stands for a flag that was not given.

    Raises:
        ConfigurationError: an unknown or bad setting; the message names it and its source.
    """
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and not _is_known(name))
    if unknown:
        raise ConfigurationError(
            f"environment variable {unknown[0]}: unknown setting{_meant(unknown[0])}; see onnxserve serve --help"
        )
    if file is not None and not file.is_file():
        raise ConfigurationError(f"{file}: no such file")
    if file is not None:
        read_mapping(file)
    try:
        return _settings_class(file)(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise ConfigurationError(
            f"settings (flags, {PREFIX}*{f', {file}' if file else ''}): {explain(error)}"
        ) from error


def _is_known(variable: str) -> bool:
    if variable.removeprefix(PREFIX).lower() in Settings.model_fields or variable in _OTHER_VARIABLES:
        return True
    return _is_port_link(variable, os.environ[variable]) or _SERVICE_LINKS.fullmatch(variable) is not None


def _meant(variable: str) -> str:
    """Say which setting a variable's name is close to; "" if none."""
    names = [name.upper() for name in Settings.model_fields]  # without the prefix, which makes all of them alike
    found = difflib.get_close_matches(variable.removeprefix(PREFIX), names, 1, 0.7)
    return "".join(f"; did you mean {PREFIX}{name}?" for name in found)


class _Environment(EnvSettingsSource):
    """The environment without the addresses of Services that Kubernetes puts there."""

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__call__().items() if not _is_port_link(name, value)}


def _is_port_link(name: str, value: object) -> bool:
    return name.lower().endswith("port") and isinstance(value, str) and _PORT_LINK.fullmatch(value) is not None


def _settings_class(file: Path | None) -> type[Settings]:
    class FromSources(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not used, but part of the signature
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            in_file = () if file is None else (YamlConfigSettingsSource(settings_cls, yaml_file=file),)
            return init_settings, _Environment(settings_cls), *in_file

    return FromSources
