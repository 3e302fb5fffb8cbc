"""Settings: environment ``INGESTQ_*`` over ``ingestq.toml`` over defaults, validated once.

Nothing else reads the environment: other modules are passed a frozen config. Secrets have types
that do not show them, and whoever needs one calls ``get_secret_value()``.
"""

import json
import logging
import os
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import unquote

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from ingestq import __version__
from ingestq.app.settings_file import CONFIG, SettingsFile, find_settings_file
from ingestq.app.settings_tables import DropTable, HooksTable, ScheduleTable, WebhookTable
from ingestq.app.settings_values import (
    HEADER_NAME,
    MAX_WEBHOOKS,
    SECRETS_OF_WEBHOOKS,
    WEBHOOK_FROM_URL,
    ApiKey,
    CollectionName,
    HeaderValue,
    HttpUrl,
    JsonObject,
    LanguageCodes,
    ModelOrEndpoint,
    NamedPath,
    OcrLanguages,
    RedisUrl,
    SecretUrl,
    WebhookEvents,
    WebhookSecrets,
    WebhookUrl,
    collection_name,
    not_blank,
)
from ingestq.broker.blobs import open_blob_store
from ingestq.broker.connection import BrokerConfig
from ingestq.core.documents import DEFAULT_COLLECTION
from ingestq.core.errors import UsageError
from ingestq.core.limits import DOCUMENT_BYTES, REMOTE_COPY_BYTES
from ingestq.core.log_setup import LogFormat
from ingestq.core.mailboxes import MailConfig, account_of
from ingestq.core.paths import expanded
from ingestq.core.remote import RemoteAccess
from ingestq.core.search_query import LARGEST_LIMIT
from ingestq.core.urls import HIDDEN, passwords_in, public_url
from ingestq.core.web import DEFAULT_DELAY_SECONDS, DOCS_URL, USER_AGENT, WebConfig
from ingestq.core.webhooks import WebhookEvent, WebhookTarget
from worker.embedding.config import DEFAULT_MODEL, Backend, HttpConfig, Precision, cores
from worker.process_pool.limits import EMBEDDING_LIMITS, PARSE_LIMITS, ProcessLimits
from worker.reranking.config import DEFAULT_CANDIDATES, DEFAULT_SECONDS, RerankerConfig
from worker.store.schema import (
    CHUNK_KEYS,
    SPARSE_NAME,
    TEXT_FIELD,
    Quantization,
    Schema,
    Storage,
)
from worker.text.config import HooksConfig, OcrMode, ReadingConfig

PREFIX: Final = "INGESTQ_"
MEBIBYTE: Final = 1024 * 1024
MIN_TOKEN_CHARACTERS: Final = 16
"""So many random letters and digits cannot be guessed, at any rate at which a server answers."""
URL_SUFFIX: Final = "_url"
RERANKER: Final = "reranker"
"""A setting that may be a URL although it is not named so."""
KEY_SUFFIX: Final = "_api_key"
SENT_SUFFIXES: Final = (KEY_SUFFIX, "_headers")
"""The key that ``x_api_key`` names is sent to ``x_url``, and so are the headers ``x_headers``."""
MAX_SHOWN_CHARACTERS: Final = 200
"""Of a wrong value in a message."""


OTLP_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
OTLP_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
"""Variables of OpenTelemetry, the one that counts first."""


class LogLevel(StrEnum):
    """The least level of the events that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        """The level as `logging` has it."""
        return logging.getLevelNamesMapping()[self.name]


class Settings(BaseSettings):
    """All settings, one field each; docs/configuration.md describes them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True
    )

    redis_url: RedisUrl | None = None
    redis_replicas: Annotated[int | None, Field(ge=0, le=100)] = None
    qdrant_url: HttpUrl | None = None
    qdrant_api_key: ApiKey | None = None
    qdrant_ca_file: NamedPath | None = None
    collection: CollectionName = DEFAULT_COLLECTION
    model: Annotated[str, Field(min_length=1)] = DEFAULT_MODEL
    backend: Backend = Backend.AUTO
    embeddings_url: HttpUrl | None = None
    embeddings_api_key: ApiKey | None = None
    embeddings_query_prompt: str = ""
    embeddings_document_prompt: str = ""
    embeddings_concurrency: Annotated[int, Field(ge=1, le=256)] = 4
    embeddings_ask_dimensions: bool = False
    embeddings_headers: dict[str, HeaderValue] | None = None
    embeddings_body: JsonObject | None = None
    embeddings_tokens_per_minute: Annotated[int | None, Field(ge=1)] = None
    embeddings_price: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    precision: Precision = Precision.EXACT
    dimensions: Annotated[int | None, Field(ge=1, le=65_536)] = None
    reranker: ModelOrEndpoint | None = None
    reranker_api_key: ApiKey | None = None
    reranker_candidates: Annotated[int, Field(ge=1, le=LARGEST_LIMIT)] = DEFAULT_CANDIDATES
    reranker_seconds: Annotated[float, Field(ge=0.05, le=600)] = DEFAULT_SECONDS
    rerank: bool = False
    chunk_tokens: Annotated[int | None, Field(ge=16)] = None
    vector_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]*$")] = ""
    text_field: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] = TEXT_FIELD
    languages: LanguageCodes = ()
    ocr: OcrMode = OcrMode.AUTO
    ocr_languages: OcrLanguages = ("eng",)
    hybrid: bool = True
    quantization: Literal["none", "scalar", "binary"] = "none"
    on_disk: bool = False
    shard_number: Annotated[int | None, Field(ge=1, le=10_000)] = None
    replication_factor: Annotated[int | None, Field(ge=1, le=1_000)] = None
    write_consistency_factor: Annotated[int | None, Field(ge=1, le=1_000)] = None
    hnsw_m: Annotated[int | None, Field(ge=0, le=1_000)] = None
    hnsw_ef_construct: Annotated[int | None, Field(ge=4, le=100_000)] = None
    data_dir: NamedPath = Path(".ingestq")
    blob_url: Annotated[SecretUrl | None, BeforeValidator(not_blank)] = None
    cache_dir: NamedPath = Field(default_factory=lambda: _user_cache() / "ingestq")
    api_host: str = "127.0.0.1"
    api_port: Annotated[int, Field(ge=0, le=65_535)] = 8765
    api_token: SecretStr | None = None
    api_max_connections: Annotated[int, Field(ge=1, le=10_000)] = 512
    metrics_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    metrics_port: Annotated[int | None, Field(ge=0, le=65_535)] = None
    pool_size: Annotated[int, Field(ge=1, le=1024)] = Field(default_factory=cores)
    lease_seconds: Annotated[float, Field(ge=1, le=3600)] = 15
    drain_seconds: Annotated[float, Field(ge=0, le=86_400)] = 30
    max_queue_jobs: Annotated[int, Field(ge=1)] = 100_000
    max_queue_bytes: Annotated[int, Field(ge=1)] = 512 * MEBIBYTE
    max_document_bytes: Annotated[int, Field(ge=1)] = DOCUMENT_BYTES
    remote_copy_bytes: Annotated[int, Field(ge=0)] = REMOTE_COPY_BYTES
    parse_memory_bytes: Annotated[int, Field(ge=256 * MEBIBYTE)] = 2048 * MEBIBYTE
    parse_cpu_seconds: Annotated[int, Field(ge=1, le=1800)] = 60
    embedding_memory_bytes: Annotated[int, Field(ge=512 * MEBIBYTE)] = 4096 * MEBIBYTE
    embedding_cpu_seconds: Annotated[int, Field(ge=1, le=1800)] = 120
    oom_score_adj: Annotated[int, Field(ge=0, le=1000)] = 500
    keep_dead_letters_days: Annotated[float, Field(ge=0, le=36_500)] = 90
    keep_previous_hours: Annotated[float, Field(ge=0)] = 7 * 24
    drop: tuple[DropTable, ...] = ()
    drop_settle_seconds: Annotated[float, Field(ge=0, le=3600)] = 2
    drop_rescan_seconds: Annotated[float, Field(ge=1)] = 300
    drop_poll_seconds: Annotated[float | None, Field(ge=0.1, le=3600)] = None
    schedule: tuple[ScheduleTable, ...] = ()
    webhook: Annotated[tuple[WebhookTable, ...], Field(max_length=MAX_WEBHOOKS)] = ()
    webhook_url: WebhookUrl | None = None
    webhook_secret: WebhookSecrets | None = None
    webhook_events: WebhookEvents = tuple(WebhookEvent)
    webhook_allow_private: bool = False
    hooks: HooksTable = Field(default_factory=HooksTable)
    web_delay_seconds: Annotated[float, Field(ge=0, le=3600)] = DEFAULT_DELAY_SECONDS
    web_user_agent: Annotated[str | None, Field(pattern=r"^[\x20-\x7e]{1,500}$")] = None
    web_allow_private: bool = False
    imap_passwords: dict[str, SecretStr] | None = None
    imap_ca_file: NamedPath | None = None
    imap_allow_plain: bool = False
    log_format: LogFormat = LogFormat.AUTO
    log_level: LogLevel | None = None
    tracing: bool | None = None

    @field_validator("data_dir", "cache_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        try:
            return path.expanduser().absolute()
        except FileNotFoundError as error:
            raise ValueError("the working directory does not exist any more") from error
        except RuntimeError as error:
            raise ValueError(str(error)) from error

    @field_validator("blob_url")
    @classmethod
    def _shared(cls, url: SecretUrl | None) -> SecretUrl | None:
        if url is not None:
            try:
                open_blob_store(url.get_secret_value())
            except UsageError as error:
                raise ValueError(str(error)) from error
        return url

    @field_validator("api_token")
    @classmethod
    def _hard_to_guess(cls, token: SecretStr | None) -> SecretStr | None:
        if token is None:
            return None
        if len(token) < MIN_TOKEN_CHARACTERS:
            raise ValueError(
                f"a token has at least {MIN_TOKEN_CHARACTERS} characters; make one with "
                "`openssl rand -hex 32`"
            )
        value = token.get_secret_value()
        if value.strip() != value:
            raise ValueError("a token cannot start or end with white space")
        return token

    @field_validator("embeddings_headers")
    @classmethod
    def _names_of_headers(cls, headers: dict[str, SecretStr] | None) -> dict[str, SecretStr] | None:
        if not all(map(HEADER_NAME.fullmatch, headers or ())):
            raise ValueError("a name is no name of an HTTP header")
        return headers

    @field_validator("imap_passwords")
    @classmethod
    def _of_accounts(cls, passwords: dict[str, SecretStr] | None) -> dict[str, SecretStr] | None:
        if passwords is None:
            return None
        return {account_of(account): password for account, password in passwords.items()}

    @field_validator("rerank")
    @classmethod
    def _with_a_reranker(cls, rerank: bool, info: ValidationInfo) -> bool:
        if rerank and "reranker" in info.data and info.data["reranker"] is None:
            raise ValueError("set INGESTQ_RERANKER, too")
        return rerank

    @field_validator("vector_name")
    @classmethod
    def _not_the_sparse_one(cls, name: str) -> str:
        if name == SPARSE_NAME:
            raise ValueError("this is the name of the sparse vector; choose another")
        return name

    @field_validator("text_field")
    @classmethod
    def _not_another_key(cls, key: str) -> str:
        if key in CHUNK_KEYS:
            raise ValueError("chunks have something else under this key; choose another")
        return key

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in order of precedence: the environment, then ingestq.toml."""
        return env_settings, init_settings

    def broker(self, url: str) -> BrokerConfig:
        """Return the configuration of the broker, with Redis at ``url``."""
        return BrokerConfig(
            url, self.max_queue_jobs, self.max_queue_bytes, replicas=self.redis_replicas
        )

    def of_collection(self, name: str | None) -> "Settings":
        """Return the settings for the collection ``name``; unchanged if it is None.

        Raises UsageError if that is not a valid name.
        """
        if name is None:
            return self
        try:
            return self.model_copy(update={"collection": collection_name(name)})
        except ValueError as error:
            raise UsageError(f"--collection is {name!r}: {error}") from error

    @property
    def collections(self) -> tuple[str, ...]:
        """Every collection that the settings name, the default one first."""
        of_folders = (table.collection for table in self.drop)
        of_entries = (table.collection for table in self.schedule)
        named = (name for name in (*of_folders, *of_entries) if name is not None)
        return tuple(dict.fromkeys((self.collection, *named)))

    @property
    def remote_access(self) -> RemoteAccess:
        """How remote sources are reached."""
        agent = self.web_user_agent or f"{USER_AGENT}/{__version__} (+{DOCS_URL})"
        passwords = {
            account: password.get_secret_value()
            for account, password in (self.imap_passwords or {}).items()
        }
        ca_file = None if self.imap_ca_file is None else expanded(self.imap_ca_file)
        return RemoteAccess(
            WebConfig(self.web_delay_seconds, agent, self.web_allow_private),
            MailConfig(passwords, ca_file, self.imap_allow_plain),
        )

    @property
    def webhooks(self) -> tuple[WebhookTarget, ...]:
        """Who is told of what: the ``[[webhook]]`` tables, and INGESTQ_WEBHOOK_URL.

        Raises UsageError if one has no secret, or if two have the same name.
        """
        tables = list(self.webhook)
        if self.webhook_url is not None:
            tables.append(
                WebhookTable.model_construct(
                    name=WEBHOOK_FROM_URL,
                    url=self.webhook_url,
                    secret=self.webhook_secret,
                    events=self.webhook_events,
                )
            )
        names = [table.name for table in tables]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"two webhooks are called {name!r}; give each a name of its own")
        return tuple(self._webhook_target(table) for table in tables)

    def _webhook_target(self, table: WebhookTable) -> WebhookTarget:
        secrets = revealed(table.secret) or revealed(self.webhook_secret)
        if secrets is None:
            raise UsageError(
                f"the webhook {table.name!r} has no secret to sign with; set its secret, or "
                "INGESTQ_WEBHOOK_SECRET, to the output of `echo whsec_$(openssl rand -base64 32)`"
            )
        url = table.url.get_secret_value()
        return WebhookTarget(table.name, url, tuple(secrets.split()), table.events)

    @property
    def endpoint(self) -> HttpConfig | None:
        """The embeddings endpoint to use; None if this machine embeds.

        Raises UsageError if the backend is ``http`` and no URL is set.
        """
        if self.backend not in (Backend.AUTO, Backend.HTTP):
            return None
        if self.embeddings_url is None:
            if self.backend is Backend.HTTP:
                raise UsageError(
                    "INGESTQ_BACKEND is 'http'; set INGESTQ_EMBEDDINGS_URL to the endpoint"
                )
            return None
        return HttpConfig(
            self.embeddings_url.get_secret_value(),
            self.model,
            revealed(self.embeddings_api_key),
            self.embeddings_query_prompt,
            self.embeddings_document_prompt,
            self.embeddings_concurrency,
            dimensions=self.dimensions,
            asks_for_dimensions=self.embeddings_ask_dimensions,
            headers={
                name: value.get_secret_value()
                for name, value in (self.embeddings_headers or {}).items()
            },
            body=json.loads(revealed(self.embeddings_body) or "{}"),
            tokens_per_minute=self.embeddings_tokens_per_minute,
        )

    @property
    def reranking(self) -> RerankerConfig | None:
        """The reranker; None if there is none."""
        if self.reranker is None:
            return None
        named = self.reranker.get_secret_value()
        is_endpoint = "://" in named
        return RerankerConfig(
            self.cache_dir,
            "" if is_endpoint else named,
            named if is_endpoint else None,
            revealed(self.reranker_api_key),
            self.reranker_candidates,
            self.reranker_seconds,
            self.embedding_limits,
            self.precision,
        )

    @property
    def blobs(self) -> str:
        """The blob store: the absolute path of a folder, or a URL."""
        if self.blob_url is None:
            return str(self.data_dir / "blobs")
        url = self.blob_url.get_secret_value()
        return url if "://" in url else str(expanded(Path(url)).absolute())

    @property
    def own_folders(self) -> tuple[Path, ...]:
        """The folders in which ingestq keeps its own files, as far as they are on this machine."""
        protocol, separator, place = self.blobs.partition("://")
        if separator and protocol != "file":
            return self.data_dir, self.cache_dir
        return self.data_dir, self.cache_dir, Path(unquote(place) if separator else self.blobs)

    @property
    def secrets(self) -> frozenset[str]:
        """What no line of the log may show: keys, tokens, and the passwords of URLs."""
        found: set[str] = set()
        for name in SECRETS:
            value = getattr(self, name)
            if isinstance(value, dict):
                found.update(one.get_secret_value() for one in value.values())
            elif (secret := revealed(value)) is not None:
                found.update(passwords_in(secret) if _may_be_url(name) else (secret,))
        for table in self.webhook:
            found.update(passwords_in(table.url.get_secret_value()))
            found.add(table.url.get_secret_value())
            found.update((revealed(table.secret) or "").split())
        if self.webhook_url is not None:
            found.add(self.webhook_url.get_secret_value())  # its path may be secret, too
        found.update((revealed(self.webhook_secret) or "").split())
        return frozenset(found)

    @property
    def span_exporter(self) -> str | None:
        """The name of the exporter of spans; None if spans are not wanted.

        By default the ``OTEL_*`` variables decide.
        """
        if self.tracing is False or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return None
        named = os.environ.get("OTEL_TRACES_EXPORTER", "")
        if not named and not self.tracing and not any(map(os.environ.get, OTLP_ENDPOINTS)):
            return None
        if named == "none":
            return None
        if named not in ("", "otlp"):
            return named
        protocol = next(filter(None, map(os.environ.get, OTLP_PROTOCOLS)), "")
        return "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"

    @property
    def reading(self) -> ReadingConfig:
        """How documents are read."""
        named = self.hooks
        hooks = HooksConfig()
        if named != HooksTable():
            hooks = HooksConfig(named.parse, named.chunk, named.enrich, Path.cwd())
        return ReadingConfig(self.languages, self.ocr, self.ocr_languages, _tessdata(), hooks)

    @property
    def parse_limits(self) -> ProcessLimits:
        """What a parse process may use."""
        return replace(
            PARSE_LIMITS,
            memory_bytes=self.parse_memory_bytes,
            cpu_seconds=self.parse_cpu_seconds,
            oom_score_adj=self.oom_score_adj,
        )

    @property
    def embedding_limits(self) -> ProcessLimits:
        """What an embedding process with one thread may use."""
        return replace(
            EMBEDDING_LIMITS,
            memory_bytes=self.embedding_memory_bytes,
            cpu_seconds=self.embedding_cpu_seconds,
            oom_score_adj=self.oom_score_adj,
        )

    @property
    def collection_schema(self) -> Schema:
        """How chunks are stored."""
        quantization = None if self.quantization == "none" else Quantization(self.quantization)
        storage = Storage(
            quantization,
            self.on_disk,
            self.shard_number,
            self.replication_factor,
            self.write_consistency_factor,
            self.hnsw_m,
            self.hnsw_ef_construct,
        )
        return Schema(self.vector_name, self.hybrid, storage, self.text_field)


def _user_cache() -> Path:
    """Return the cache folder of the user (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def _tessdata() -> Path | None:
    """Return the folder that Tesseract's own variable names; None if it is not set."""
    named = os.environ.get("TESSDATA_PREFIX")
    return expanded(Path(named)) if named else None


def runtime_dirs() -> tuple[Path, ...]:
    """Return the user's directory for sockets, if there is one (XDG Base Directory Specification).

    Whoever uses it has to check that it is the user's.
    """
    named = os.environ.get("XDG_RUNTIME_DIR")
    return (Path(named),) if named and Path(named).is_absolute() else ()


def revealed(secret: SecretStr | None) -> str | None:
    """Return the value of ``secret``; None if there is none."""
    return None if secret is None else secret.get_secret_value()


def load_settings() -> Settings:
    """Read and validate the settings.

    Raises UsageError that names every wrong setting, its value and what is allowed.
    """
    file = find_settings_file(os.environ.get(CONFIG))
    if unknown := file.values.keys() - Settings.model_fields.keys():
        raise UsageError(
            "; ".join(f"{file}: there is no setting {name!r}" for name in sorted(unknown))
        )
    if not file.is_named:
        _check_found(file)
    try:
        return Settings(**file.values)
    except ValidationError as error:
        lines = [_explain(dict(problem), file) for problem in error.errors()]
        raise UsageError("; ".join(lines)) from error
    except SettingsError as error:  # a list in the environment is not JSON
        raise UsageError(str(error)) from error


def unknown_variables() -> list[str]:
    """Return the ``INGESTQ_*`` variables that are no settings: most likely misspelt."""
    known = {CONFIG, *(PREFIX + name.upper() for name in Settings.model_fields)}
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)


def _check_found(file: SettingsFile) -> None:
    """Raise UsageError if ``file``, which nobody named, decides what runs or where a key is sent.

    It may be part of something that was downloaded.
    """
    set_outside = {name.upper() for name, value in os.environ.items() if value}
    for name in file.values:
        if not _may_be_url(name) or _variable(name) in set_outside:
            continue
        for suffix in SENT_SUFFIXES:
            sent = _variable(name.removesuffix(URL_SUFFIX) + suffix)
            if sent in set_outside:
                raise file.untrusted(f"it names the {name} to which {sent} would be sent")
    tables = file.values.get("schedule")
    if _variable("schedule") not in set_outside and _any_has(tables, "generator"):
        raise file.untrusted("it names a generator, which is code")
    if file.values.get("hooks"):  # those of the environment are added to them, and replace none
        raise file.untrusted("it names hooks, which are code")


def _any_has(tables: object, key: str) -> bool:
    return isinstance(tables, list) and any(
        isinstance(table, dict) and key in table for table in tables
    )


def _may_be_url(name: str) -> bool:
    return name.endswith(URL_SUFFIX) or name == RERANKER


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _explain(problem: dict[str, Any], file: SettingsFile) -> str:
    name = str(problem["loc"][0])
    inner = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"{file}: there is no setting {inner!r}"
    place = _variable(name) if _variable(name) in os.environ else f"{inner} in {file}"
    if problem["type"] == "missing":  # the input is the whole table
        return f"{place} is missing"
    shown = HIDDEN if _is_hidden(problem["loc"]) else _shown(name, problem["input"])
    return f"{place} is {shown}: {problem['msg']}"


def _is_hidden(loc: tuple[int | str, ...]) -> bool:
    """Return whether the value at ``loc`` may be secret, and has no part that may be shown."""
    if loc[0] == "webhook":
        return any(each in loc for each in SECRETS_OF_WEBHOOKS)
    return loc[0] == "webhook_url"


def _shown(name: str, value: object) -> str:
    """Return the value of a setting for a message, without secrets."""
    if value in ("", None):
        return repr(value)
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    if _may_be_url(name) and isinstance(value, str) and "://" in value:
        return repr(public_url(value)[:MAX_SHOWN_CHARACTERS])
    if name in SECRETS:
        return repr(HIDDEN)
    return repr(value)[:MAX_SHOWN_CHARACTERS]


def _is_secret(annotation: Any) -> bool:
    if isinstance(annotation, type):
        return issubclass(annotation, SecretStr)
    return any(map(_is_secret, get_args(annotation)))


SECRETS: Final = frozenset(
    name for name, field in Settings.model_fields.items() if _is_secret(field.annotation)
)
"""Settings that may hold a secret: no message shows their values."""
