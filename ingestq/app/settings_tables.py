"""The tables of ``ingestq.toml``: watched folders, scheduled entries, webhooks, hooks."""

from typing import Annotated, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

from ingestq.app.settings_values import (
    WEBHOOK_NAME,
    CollectionName,
    NamedPath,
    WebhookEvents,
    WebhookSecrets,
    WebhookUrl,
    not_blank,
)
from ingestq.core.documents import Lane
from ingestq.core.webhooks import WebhookEvent
from producers.schedule.entry import Action


class SourceTable(BaseModel):
    """What tables that name a source have in common: the folder, and what its documents get.

    The folder is at a ``path`` or a ``url``. Several URLs are those of web pages.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: NamedPath | None = None
    url: str | tuple[str, ...] | None = None
    collection: CollectionName | None = None
    source: Annotated[str | None, Field(min_length=1)] = None
    tenant: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    metadata: dict[str, JsonValue] = {}


class DropTable(SourceTable):
    """A ``[[drop]]`` table: one folder to watch."""

    mode: Literal["mirror", "hot"] = "mirror"

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("set exactly one of path and url")
        return self


class ScheduleTable(SourceTable):
    """A ``[[schedule]]`` table: what to do, and when."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    cron: str
    timezone: str = "UTC"
    action: Action = Action.RESCAN
    glob: Annotated[str | None, BeforeValidator(not_blank)] = None
    jsonl: NamedPath | None = None
    generator: str | None = None
    delete_missing: bool = False
    lane: Lane = Lane.BULK


class WebhookTable(BaseModel):
    """A ``[[webhook]]`` table: who is told of what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=WEBHOOK_NAME)]
    url: WebhookUrl
    secret: WebhookSecrets | None = None
    events: WebhookEvents = tuple(WebhookEvent)


HOOK_NAME: Final = r"^[^\s:,]+(:[^\s:,]+)?$"
HookName = Annotated[str, Field(pattern=HOOK_NAME, max_length=256)]


class HooksTable(BaseModel):
    """The ``[hooks]`` table: functions of the user that parse, chunk and enrich documents."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parse: HookName | None = None
    chunk: HookName | None = None
    enrich: HookName | None = None
