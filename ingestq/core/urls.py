"""URLs in messages: without user, password, query and fragment, any of which may be secret."""

import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote_plus

SCHEME: Final = re.compile(r"(?:[a-z][a-z0-9+.-]*::?)*//", re.IGNORECASE)
"""Also that of a chain of fsspec, such as ``simplecache::s3://``."""
URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
QUERY: Final = re.compile("[?#]")
SENTINELS: Final = "+sentinel://"
"""End of the scheme of a URL that names several hosts."""
HOST: Final = re.compile(r"([^:\[\]]*|\[[0-9a-f:.%]*\])(:\d*)?", re.IGNORECASE)
"""Host and port. Where something else is, a password may have lost its "@"."""
AFTER_SCHEME: Final = re.compile(r"(?<=:)//[^\s\"'`<>]+")
"""A URL in a text, from the end of its scheme: matching the scheme would take quadratic time."""
MISLEADING: Final = re.compile(r"[\s\"'`<>/?#@\[\]\\]")
"""Characters that end a user or password, for one program or another."""
HIDDEN: Final = "***"
SHORTEST_SECRET: Final = 4
"""Replacing a shorter text everywhere would garble messages."""


def is_url(text: str) -> bool:
    """Return whether ``text`` begins with the scheme of a URL, as no path does."""
    return URL.match(text) is not None


def public_url(url: str) -> str:
    """Return ``url``, absolute or relative, without what may be secret.

    That is user, password, query and fragment, and a host or port that is none. Everything before
    the last "@" counts as user and password, even if it is not well-formed: an unescaped password
    may contain any character.
    """
    start = _end_of_scheme(url)
    if not start and url.startswith("/"):
        return QUERY.split(url, maxsplit=1)[0]
    place = QUERY.split(url[start:].rpartition("@")[2], maxsplit=1)[0]
    host, slash, path = place.partition("/")
    hosts = host.split(",") if url[:start].lower().endswith(SENTINELS) else [host]
    return url[:start] + (host if all(map(HOST.fullmatch, hosts)) else HIDDEN) + slash + path


def without_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` with every URL as `public_url` shows it, and ``***`` for each of ``secrets``.

    ``text`` is a message of another program or library, which may repeat what it was sent.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, HIDDEN)
    return AFTER_SCHEME.sub(_public, text)


def secrets_in(url: str) -> Iterator[str]:
    """Yield user, password and the values of the query of ``url``, as written and decoded."""
    credentials, _, place = url[_end_of_scheme(url) :].rpartition("@")
    options = re.split("[?#&]", place)[1:]
    values = [option.partition("=")[2] or option for option in options]
    for part in (*credentials.split(":", maxsplit=1), *values):
        yield part
        yield unquote_plus(part)


def passwords_in(url: str) -> Iterator[str]:
    """Yield the password of ``url``, as written and decoded, if it has one."""
    credentials, _, _ = url[_end_of_scheme(url) :].rpartition("@")
    password = credentials.partition(":")[2]
    if password:
        yield password
        yield unquote_plus(password)


def is_ambiguous(url: str) -> bool:
    """Return whether a program may take a part of the user or password of ``url`` for its host.

    So it is if they contain characters that have to be written as "%" and two hex digits.
    """
    credentials = url[_end_of_scheme(url) :].rpartition("@")[0]
    return MISLEADING.search(credentials) is not None


def _public(found: re.Match[str]) -> str:
    url = found[0].rstrip(":")  # with which messages go on after a URL
    return public_url(url) + found[0][len(url) :]


def _end_of_scheme(url: str) -> int:
    scheme = SCHEME.match(url)
    return scheme.end() if scheme else 0
