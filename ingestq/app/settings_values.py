"""The kinds of values that settings have: what is allowed, and what is secret."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
)
from pydantic_settings import (
    NoDecode,
)

from ingestq.core.documents import COLLECTION_NAME
from ingestq.core.urls import is_ambiguous, public_url
from ingestq.core.webhooks import WebhookEvent, decode_secret, place_of


class SecretUrl(SecretStr):
    """A URL that may hold a password. Printed, it has no user, password, query and fragment."""

    def _display(self) -> str:
        return public_url(self.get_secret_value())


class SecretPathUrl(SecretUrl):
    """A URL whose path may be secret, too. Printed, it has scheme, host and port."""

    def _display(self) -> str:
        return place_of(self.get_secret_value())


def _with_scheme(*schemes: str) -> Callable[[SecretUrl], SecretUrl]:
    def check(url: SecretUrl) -> SecretUrl:
        if not url.get_secret_value().lower().startswith(schemes):
            raise ValueError(f"write {' or '.join(f'{scheme}…' for scheme in schemes)}")
        if is_ambiguous(url.get_secret_value()):
            raise ValueError(
                "its user or password contains a character that must be percent-encoded: write %2F "
                "for /, %3F for ?, %23 for #, %40 for @"
            )
        return url

    return check


HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token of RFC 9110, section 5.6.2."""
OWN_FIELDS: Final = frozenset({"model", "input", "encoding_format", "dimensions"})
"""Fields of a request to the embeddings endpoint that other settings decide."""


def _header_value(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not (text.isascii() and text.isprintable() and text.strip() == text):
        raise ValueError("use printable ASCII that neither starts nor ends with a space")
    return value


def _key_for_a_header(key: SecretStr) -> SecretStr:
    value = key.get_secret_value()
    if not (value.isascii() and value.isprintable() and " " not in value):
        raise ValueError("use printable ASCII without spaces")
    return key


RedisUrl = Annotated[
    SecretUrl,
    AfterValidator(
        _with_scheme("redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://")
    ),
]


def _model_or_endpoint(named: SecretUrl) -> SecretUrl:
    value = named.get_secret_value()
    if not value.strip() or "\0" in value:
        raise ValueError("write the name or folder of a cross encoder, or the URL of an endpoint")
    return _with_scheme("http://", "https://")(named) if "://" in value else named


HttpUrl = Annotated[SecretUrl, AfterValidator(_with_scheme("http://", "https://"))]
ModelOrEndpoint = Annotated[SecretUrl, AfterValidator(_model_or_endpoint)]


def _json_object(text: SecretStr) -> SecretStr:
    try:
        fields = json.loads(text.get_secret_value())
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ValueError('write a JSON object, such as {"input_type": "document"}')
    if own := sorted(OWN_FIELDS.intersection(fields)):
        raise ValueError(f"other settings decide {', '.join(own)}; leave them out")
    return text


JsonObject = Annotated[SecretStr, AfterValidator(_json_object)]
HeaderValue = Annotated[SecretStr, AfterValidator(_header_value)]
ApiKey = Annotated[SecretStr, Field(min_length=1), AfterValidator(_key_for_a_header)]

OWN_SUFFIXES: Final = ("__previous", "__ledger")
"""ingestq adds these to the name of a collection."""


def collection_name(name: str) -> str:
    if re.fullmatch(COLLECTION_NAME, name) is None:
        raise ValueError("use letters, digits, '_', '.' and '-', starting with a letter or a digit")
    if name.endswith(OWN_SUFFIXES):
        raise ValueError(
            f"names that end with {' or '.join(OWN_SUFFIXES)} are reserved for ingestq"
        )
    return name


def not_blank(value: object) -> object:
    """Refuse what names nothing: `Path` would make it the working directory."""
    if isinstance(value, str) and (not value.strip() or "\0" in value):
        raise ValueError("it names no file or folder; leave it out, or write a path")
    return value


NamedPath = Annotated[Path, BeforeValidator(not_blank)]
CollectionName = Annotated[str, AfterValidator(collection_name)]


def _list(value: object) -> object:
    """Split a list that is written with commas, as in the environment."""
    return (
        [item.strip() for item in value.split(",") if item.strip()]
        if isinstance(value, str)
        else value
    )


LANGUAGE_CODE: Final = r"^[a-z]{2}$"
"""Of ISO 639-1."""
OCR_LANGUAGE: Final = r"^[A-Za-z]+(_[A-Za-z]+)*$"
"""The name of a file with data for Tesseract, without its suffix."""
LanguageCodes = Annotated[
    tuple[Annotated[str, Field(pattern=LANGUAGE_CODE)], ...], NoDecode, BeforeValidator(_list)
]
OcrLanguages = Annotated[
    tuple[Annotated[str, Field(pattern=OCR_LANGUAGE)], ...],
    Field(min_length=1),
    NoDecode,
    BeforeValidator(_list),
]


WEBHOOK_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
WEBHOOK_FROM_URL: Final = "default"
"""The name of the webhook that INGESTQ_WEBHOOK_URL sets."""
MAX_WEBHOOKS: Final = 32
SECRETS_OF_WEBHOOKS: Final = ("url", "secret")
"""Keys of a ``[[webhook]]`` table."""


def _with_host(url: SecretPathUrl) -> SecretPathUrl:
    try:
        parts = urlsplit(url.get_secret_value())
        is_complete = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_complete = False
    if not is_complete:
        raise ValueError("write https://HOST/PATH")
    return url


def _joined(value: object) -> object:
    """Join a list of secrets: several are written with spaces between, as in the environment."""
    is_list = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
    return " ".join(value) if is_list else value  # type: ignore[arg-type]


def _signing_secrets(secrets: SecretStr) -> SecretStr:
    for secret in (given := secrets.get_secret_value().split()):
        decode_secret(secret)
    if not given:
        raise ValueError("it names no secret")
    return secrets


def _not_empty(events: tuple[WebhookEvent, ...]) -> tuple[WebhookEvent, ...]:
    if not events:
        raise ValueError("it names no event; leave it out to be told of all")
    return events


WebhookUrl = Annotated[
    SecretPathUrl, AfterValidator(_with_scheme("http://", "https://")), AfterValidator(_with_host)
]
WebhookSecrets = Annotated[SecretStr, BeforeValidator(_joined), AfterValidator(_signing_secrets)]
WebhookEvents = Annotated[
    tuple[WebhookEvent, ...], NoDecode, BeforeValidator(_list), AfterValidator(_not_empty)
]
