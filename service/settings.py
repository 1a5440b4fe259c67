"""What an operator may choose: environment variables `DENSEPOSE_*`, read once."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from model_store.catalogue import ZOO_URL
from model_store.store import default_folder
from service.errors import InvalidSetting
from service.hosts import is_loopback, parse_authority
from service.keys import Key, parse_keys
from service.whole_number import whole_number

Download: TypeAlias = Literal["any", "preload", "never"]
LogFormat: TypeAlias = Literal["json", "text"]

PREFIX = "DENSEPOSE_"
MEBIBYTE = 2**20
# The first must not be above the second.
PAIRS = (
    ("short_side", "long_side"),
    ("max_body_bytes", "max_inflight_bytes"),
    ("drain_delay_ms", "shutdown_timeout_ms"),
)
# Settings of the version before, by what their values are taken as where that is not set.
REPLACED = {"max_answer_bytes": "max_answer_pixels"}
# What no log and no message may show.
SECRETS = {"admin_key", "api_keys"}
# What no message may show: a password may stand in an address.
HIDDEN = SECRETS | {"zoo_url"}
# What is said of a setting whose default follows one that is wrong.
FOLLOWING = frozenset({"default_factory_not_called"})
# In which an empty value says something: none.
EMPTY_IS_NONE = frozenset({"preload"})
# Of pydantic's complaints, by their types; what stands in braces it tells itself.
WORDS = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "too_short": "names nothing",
}


def _log_format() -> LogFormat:
    return "text" if sys.stderr.isatty() else "json"


def _download(values: dict[str, Any]) -> Download:
    has_keys = bool(values["api_keys"]) or values["api_keys_file"] is not None
    return "any" if has_keys or is_loopback(values["host"]) else "preload"


def _split_list(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return [item.strip() for item in value.split(",") if item.strip()]


def _keys(value: Any) -> tuple[Key, ...]:
    try:
        return parse_keys(value) if isinstance(value, str) else value
    except ValueError as error:
        raise _complaint(str(error)) from None


def _host(value: str) -> str:
    """The name as it is compared with `Host`; of `*.example.org` as of a name."""
    authority = parse_authority(value.removeprefix("*."))
    if authority is None or not authority.name or authority.port is not None:
        raise _complaint("has no name of a host: write it without scheme and port")
    if "*" in authority.name and value != "*":
        raise _complaint("has a * that is not the whole name before a dot")
    return f"*.{authority.name}" if value.startswith("*.") else authority.name


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _none_if_auto(value: Any) -> Any:
    return None if isinstance(value, str) and value.lower() == "auto" else value


def _number(value: Any) -> Any:
    try:
        return whole_number(value) if isinstance(value, str) else value
    except ValueError as error:
        raise _complaint(str(error)) from None


def _written_as(pattern: str, complaint: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise _complaint(complaint)
        return value

    return AfterValidator(check)


def _without_tilde(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise _complaint("is in a home folder that this machine does not know") from None


def _mirror(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname)
        is_address &= parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:
        is_address = False
    if not is_address:
        raise _complaint("is not an address as https://mirror.example/zoo")
    # What files' names are put behind; and a token in it would be shown where a password is not.
    if "?" in url or "#" in url:
        raise _complaint("must end with its path: a query or a fragment cannot be used")
    return url


def _complaint(text: str) -> PydanticCustomError:
    return PydanticCustomError("setting", "{text}", {"text": text})


Device = _written_as(
    "auto|cpu|cuda(:[0-9]{1,3})?", "must be auto, cpu, cuda, or a certain one as cuda:1"
)
Digest = _written_as("[0-9a-f]{64}", "is not a SHA-256 in hexadecimal")
Names: TypeAlias = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_list)]
Number: TypeAlias = Annotated[int, BeforeValidator(_number)]
Positive: TypeAlias = Annotated[Number, Field(ge=1)]
NotNegative: TypeAlias = Annotated[Number, Field(ge=0)]
Location: TypeAlias = Annotated[Path, AfterValidator(_without_tilde)]
Hosts: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(_host)], ...], NoDecode, BeforeValidator(_split_list)
]


class Settings(BaseSettings):
    """The settings in effect; each is the environment variable of its name, in upper case."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, validate_default=True)

    # The process.
    host: str = "127.0.0.1"
    port: Annotated[Number, Field(ge=0, le=65535)] = 8000
    # From SIGTERM on: how long new requests are served still, and when the process is gone.
    drain_delay_ms: NotNegative = 5_000
    shutdown_timeout_ms: Positive = 25_000
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = (
        "info"
    )
    log_format: Annotated[LogFormat, BeforeValidator(_lower)] = Field(default_factory=_log_format)

    # Who may ask; without keys, everybody. `name=<SHA-256>`, see service/keys.py.
    api_keys: Annotated[tuple[Key, ...], NoDecode, PlainValidator(_keys)] = ()
    api_keys_file: Location | None = None
    # Who may load and unload models: the SHA-256 of the key, in hexadecimal. None: nobody.
    admin_key: Annotated[str, BeforeValidator(_lower), Digest] | None = None
    # Whose pages may ask from a browser: origins as https://example.org, or *.
    cors_origins: Names = ()
    # What Host may say beside this machine's own names for itself: *.example.org is any name below
    # it, * any at all. Empty: no more for a server that only this machine reaches, without keys, as
    # pages under any name reach it too, and any for all others.
    allowed_hosts: Hosts = ()
    max_connections: Positive = 1000
    # How long a connection may be idle, if no new one needs its place.
    keep_alive_ms: Positive = 75_000

    # Models.
    model_store: Location = Field(default_factory=default_folder)
    zoo_url: Annotated[str, AfterValidator(_mirror)] = ZOO_URL
    offline: bool = False
    # Who may cause a download: any request, by default where only this machine can ask, or keys.
    download: Download = Field(default_factory=_download)
    # The only models that are served; None serves all.
    models: Annotated[Names, Field(min_length=1)] | None = None
    default_model: str = "R_50_FPN_s1x"
    # Loaded before the service is ready; by default the default model.
    preload: Names = Field(default_factory=lambda values: (values["default_model"],))

    # The device. The sides are those of the zoo's models; a model that was made for others, as
    # `demo` and an operator's own may be, keeps them.
    device: Annotated[str, Device] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    short_side: Annotated[Number, Field(ge=128)] = 800
    long_side: Annotated[Number, Field(ge=128)] = 1333
    max_batch: Positive = 8
    max_queue: Positive = 64
    max_delay_ms: NotNegative = 0
    # Bytes that the models on the device may take together; None, or "auto": by what is free.
    device_memory: Annotated[Positive | None, BeforeValidator(_none_if_auto)] = None

    # A request.
    timeout_ms: Positive = 30_000
    upload_timeout_ms: Positive = 15_000
    max_body_bytes: Positive = 20 * MEBIBYTE
    max_pixels: Positive = 40_000_000
    max_inflight_bytes: Positive = 512 * MEBIBYTE
    # Of an answer: the samples of its maps, and once more what is written of them.
    max_answer_bytes: Positive = 256 * MEBIBYTE

    @model_validator(mode="before")
    @classmethod
    def _take_replaced(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name, replaced in REPLACED.items():
            if value := os.environ.get(_variable(replaced)):
                values.setdefault(name, value)
        return values

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, values: Any) -> Any:
        """An empty value is an unset one, as `DENSEPOSE_HOST=` in a file of variables."""
        return {
            name: value
            for name, value in values.items()
            if name in EMPTY_IS_NONE or not (isinstance(value, str) and not value.strip())
        }

    @model_validator(mode="after")
    def _check_pairs(self) -> "Settings":
        for low, high in PAIRS:
            if getattr(self, high) < getattr(self, low):
                raise _complaint(f"{_variable(high)} is less than {_variable(low)}")
        return self

    @property
    def is_open(self) -> bool:
        """Whether anybody may ask who reaches this machine, without a key."""
        return not (self._has_keys or is_loopback(self.host))

    @property
    def known_hosts(self) -> tuple[str, ...]:
        """The names of the service, as `allowed_hosts` has them, or follow from its being empty."""
        is_private = is_loopback(self.host) and not self._has_keys
        return self.allowed_hosts if self.allowed_hosts or is_private else ("*",)

    @property
    def _has_keys(self) -> bool:
        return bool(self.api_keys) or self.api_keys_file is not None

    def public(self) -> dict[str, Any]:
        """The settings as they may be logged: without passwords and keys."""
        settings = self.model_dump(mode="json", exclude=SECRETS)
        return settings | {"zoo_url": _without_password(self.zoo_url)}


def read_settings() -> Settings:
    """The settings of this process' environment.

    Raises:
        InvalidSetting: a value cannot be used; one line names every such variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [_describe(detail) for detail in error.errors() if detail["type"] not in FOLLOWING]
        raise InvalidSetting("; ".join(lines)) from None
    except RuntimeError as error:
        # Of a user without HOME and without an entry in the password database.
        raise InvalidSetting(
            "there is no home folder: set DENSEPOSE_MODEL_STORE, or HOME, and begin no path with ~"
        ) from error


def replaced_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables of the version before, each with the one that its value is taken as."""
    pairs = {_variable(replaced): _variable(name) for name, replaced in REPLACED.items()}
    return {replaced: name for replaced, name in pairs.items() if replaced in environment}


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like settings but are none: misspelt, or of another version."""
    known = {_variable(name) for name in (*Settings.model_fields, *REPLACED.values())}
    return sorted(name for name in environment if name.startswith(PREFIX) and name not in known)


def _variable(field: str) -> str:
    return PREFIX + field.upper()


def _describe(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Input ")
    if detail["type"] in WORDS:
        message = WORDS[detail["type"]].format_map(detail.get("ctx", {}))
    if not detail["loc"]:
        return message
    field = str(detail["loc"][0])
    if field in HIDDEN:
        return f"{_variable(field)} {message}"
    return f"{_variable(field)} {message} (it is {str(detail['input'])!a:.80})"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
