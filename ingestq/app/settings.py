"""Settings: environment ``INGESTQ_*`` over ``ingestq.toml`` over defaults, validated once.

Nothing else reads the environment: other modules are passed a frozen config.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from ingestq.broker.blobs import open_blob_store
from ingestq.broker.connection import BrokerConfig
from ingestq.core.documents import COLLECTION_NAME, DEFAULT_COLLECTION, Lane
from ingestq.core.errors import UsageError, public_url
from producers.schedule.entry import Action
from worker.embedding.config import DEFAULT_MODEL, Backend, HttpConfig, Precision, cores
from worker.store.schema import SPARSE_NAME, Quantization, Schema, Storage

PREFIX: Final = "INGESTQ_"
FILE: Final = Path("ingestq.toml")
MEBIBYTE: Final = 1024 * 1024
SECRET_SUFFIXES: Final = ("_key", "_token")
"""Settings whose names end like this are never printed."""


OWN_SUFFIXES: Final = ("__previous", "__ledger")
"""ingestq adds these to the name of a collection."""


def _collection_name(name: str) -> str:
    if re.fullmatch(COLLECTION_NAME, name) is None:
        raise ValueError("use letters, digits, '_', '.' and '-', starting with a letter or a digit")
    if name.endswith(OWN_SUFFIXES):
        raise ValueError(
            f"names that end with {' or '.join(OWN_SUFFIXES)} are reserved for ingestq"
        )
    return name


CollectionName = Annotated[str, AfterValidator(_collection_name)]


class DropTable(BaseModel):
    """A ``[[drop]]`` table: one folder to watch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    collection: CollectionName | None = None
    source: Annotated[str | None, Field(min_length=1)] = None
    tenant: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    metadata: dict[str, JsonValue] = {}
    mode: Literal["mirror", "hot"] = "mirror"


class ScheduleTable(BaseModel):
    """A ``[[schedule]]`` table: what to do, and when."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    cron: str
    timezone: str = "UTC"
    action: Action = Action.RESCAN
    path: Path | None = None
    glob: Annotated[str | None, Field(min_length=1)] = None
    jsonl: Path | None = None
    generator: str | None = None
    collection: CollectionName | None = None
    source: Annotated[str | None, Field(min_length=1)] = None
    tenant: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    metadata: dict[str, JsonValue] = {}
    delete_missing: bool = False
    lane: Lane = Lane.BULK


class Settings(BaseSettings):
    """All settings, one field each; docs/configuration.md describes them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, toml_file=FILE, extra="forbid", frozen=True, env_ignore_empty=True
    )

    redis_url: str | None = None
    qdrant_url: str | None = None
    qdrant_api_key: str | None = None
    collection: CollectionName = DEFAULT_COLLECTION
    model: Annotated[str, Field(min_length=1)] = DEFAULT_MODEL
    backend: Backend = Backend.AUTO
    embeddings_url: str | None = None
    embeddings_api_key: Annotated[str | None, Field(min_length=1)] = None
    embeddings_query_prompt: str = ""
    embeddings_document_prompt: str = ""
    embeddings_concurrency: Annotated[int, Field(ge=1, le=256)] = 4
    precision: Precision = Precision.EXACT
    chunk_tokens: Annotated[int | None, Field(ge=16)] = None
    vector_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]*$")] = ""
    hybrid: bool = True
    quantization: Literal["none", "scalar", "binary"] = "none"
    on_disk: bool = False
    data_dir: Path = Path(".ingestq")
    blob_url: str | None = None
    cache_dir: Path = Field(default_factory=lambda: _user_cache() / "ingestq")
    api_host: str = "127.0.0.1"
    api_port: Annotated[int, Field(ge=0, le=65_535)] = 8765
    api_token: Annotated[str | None, Field(min_length=1)] = None
    pool_size: Annotated[int, Field(ge=1, le=1024)] = Field(default_factory=cores)
    lease_seconds: Annotated[float, Field(ge=1, le=3600)] = 15
    drain_seconds: Annotated[float, Field(ge=0, le=86_400)] = 30
    max_queue_jobs: Annotated[int, Field(ge=1)] = 100_000
    max_queue_bytes: Annotated[int, Field(ge=1)] = 512 * MEBIBYTE
    max_document_bytes: Annotated[int, Field(ge=1)] = 64 * MEBIBYTE
    keep_previous_hours: Annotated[float, Field(ge=0)] = 7 * 24
    drop: tuple[DropTable, ...] = ()
    drop_settle_seconds: Annotated[float, Field(ge=0, le=3600)] = 2
    drop_rescan_seconds: Annotated[float, Field(ge=1)] = 300
    drop_poll_seconds: Annotated[float | None, Field(ge=0.1, le=3600)] = None
    schedule: tuple[ScheduleTable, ...] = ()

    @field_validator("data_dir", "cache_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @field_validator("blob_url")
    @classmethod
    def _shared(cls, url: str | None) -> str | None:
        if url is not None:
            try:
                open_blob_store(url)
            except UsageError as error:
                raise ValueError(str(error)) from error
        return url

    @field_validator("vector_name")
    @classmethod
    def _not_the_sparse_one(cls, name: str) -> str:
        if name == SPARSE_NAME:
            raise ValueError("this is the name of the sparse vector; choose another")
        return name

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
        return env_settings, TomlConfigSettingsSource(settings_cls)

    def broker(self, url: str) -> BrokerConfig:
        """Return the configuration of the broker, with Redis at ``url``."""
        return BrokerConfig(url, self.max_queue_jobs, self.max_queue_bytes)

    def of_collection(self, name: str | None) -> "Settings":
        """Return the settings for the collection ``name``; unchanged if it is None.

        Raises UsageError if that is not a valid name.
        """
        if name is None:
            return self
        try:
            return self.model_copy(update={"collection": _collection_name(name)})
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
            self.embeddings_url,
            self.model,
            self.embeddings_api_key,
            self.embeddings_query_prompt,
            self.embeddings_document_prompt,
            self.embeddings_concurrency,
        )

    @property
    def blobs(self) -> str:
        """The blob store: the absolute path of a folder, or a URL."""
        if self.blob_url is None:
            return str(self.data_dir / "blobs")
        if "://" in self.blob_url:
            return self.blob_url
        return str(Path(self.blob_url).expanduser().absolute())

    @property
    def collection_schema(self) -> Schema:
        """How chunks are stored."""
        quantization = None if self.quantization == "none" else Quantization(self.quantization)
        return Schema(self.vector_name, self.hybrid, Storage(quantization, self.on_disk))


def _user_cache() -> Path:
    """Return the cache folder of the user (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def load_settings() -> Settings:
    """Read and validate the settings.

    Raises UsageError that names every wrong setting, its value and what is allowed.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [_explain(dict(problem)) for problem in error.errors()]
        raise UsageError("; ".join(lines)) from error
    except SettingsError as error:  # a list in the environment is not JSON
        raise UsageError(str(error)) from error
    except ValueError as error:  # not TOML
        raise UsageError(f"{FILE}: {error}") from error


def unknown_variables() -> list[str]:
    """Return the ``INGESTQ_*`` variables that are no settings: most likely misspelt."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)


def _explain(problem: dict[str, Any]) -> str:
    name = str(problem["loc"][0])
    inner = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"{FILE}: there is no setting {inner!r}"
    variable = PREFIX + name.upper()
    place = variable if variable in os.environ else f"{inner} in {FILE}"
    return f"{place} is {_shown(name, problem['input'])}: {problem['msg']}"


def _shown(name: str, value: object) -> str:
    """Return the value of a setting for a message, without secrets."""
    if name.endswith(SECRET_SUFFIXES):
        return "'***'" if value else repr(value)
    return repr(public_url(value) if isinstance(value, str) else value)
