"""What the errors of remote stores mean: fsspec passes on what the package of each store raises."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from ingestq.core.errors import (
    DocumentRejected,
    IngestqError,
    RemoteUnavailable,
    SourceChanged,
    UsageError,
    in_one_line,
)
from ingestq.core.remote import EXTRAS, SERVERS_OF_FILES, scheme_of
from ingestq.core.urls import public_url, without_secrets

CHANGED: Final = "the object was changed while it was read"
NO_CREDENTIALS: Final = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "TokenRetrievalError",
        "DefaultCredentialsError",
        "RefreshError",
        "ClientAuthenticationError",
        "CredentialUnavailableError",
        "AccessDenied",
        "LogonFailure",
        "SMBAuthenticationError",
    }
)
"""Errors of the stores' packages that are no PermissionError, and mean one."""
WHERE_CREDENTIALS_ARE: Final = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of this machine",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS, or the account of this machine",
    "azure": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "sftp": "the keys in ~/.ssh, an SSH agent, or FSSPEC_SFTP_USERNAME and FSSPEC_SFTP_PASSWORD",
}
"""By extra."""
UNAUTHORIZED: Final = frozenset({401, 403})
PRECONDITION_FAILED: Final = 412
EXPIRED: Final = frozenset({"FileExpired", "FileExistsError"})
"""Errors of the stores' packages that mean the same: of s3fs, and of gcsfs."""
NOT_FOUND: Final = frozenset({404, 410})
RETRYABLE: Final = frozenset({408, 409, 425, 429})
"""Statuses of HTTP by which the store says that the request may succeed later."""
CLIENT_ERRORS: Final = range(400, 500)
STATUS_ACCESS_DENIED: Final = 0xC0000022
STATUS_DELETE_PENDING: Final = 0xC0000056
"""Of SMB ([MS-ERREF] 2.3.1), for which smbprotocol has no number of an OSError. The second is that
of a file that was deleted while somebody has it open."""


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Raise what a store's package raises as `ingestq.client.object_store.ObjectStore` says."""
    try:
        yield
    except IngestqError:
        raise
    except Exception as error:  # every package has its own
        raise of_store(error, url) from error


@contextmanager
def of_one_object(url: str) -> Iterator[None]:
    """Like `translated`, but what concerns only the object at ``url`` raises DocumentRejected."""
    try:
        yield
    except IngestqError:
        raise
    except Exception as error:
        status = _status_of(error)
        if status == PRECONDITION_FAILED or type(error).__name__ in EXPIRED:
            raise SourceChanged(CHANGED) from error
        if is_missing(error):
            reason = "the object is gone, or its bucket"
        elif _is_denied(error):
            reason = _denied(error, url)
        elif status in CLIENT_ERRORS and status not in RETRYABLE:
            reason = f"the store refuses to send it: {_said(error)}"
        else:
            failure = of_store(error, url)
            if not isinstance(failure, UsageError):
                raise failure from error
            reason = str(failure)  # one document must not stop a worker
        raise DocumentRejected(reason) from error


def of_store(error: Exception, url: str) -> IngestqError:
    """Return the error to raise for one of a store's package."""
    place = public_url(url)
    if isinstance(error, ImportError):  # fsspec, or the package for the scheme
        reason = f"this needs a package that is not installed: {error}"
        extra = EXTRAS.get(scheme_of(url), "blobs")
        return UsageError(f"{place}: {reason}; run: pip install 'ingestq[{extra}]'")
    if _is_denied(error):
        return UsageError(f"{place}: {_denied(error, url)}. Nothing was deleted from the index")
    if is_missing(error):
        return UsageError(
            f"{place}: there is no such bucket or folder ({_said(error)}); check the name. Nothing "
            "was deleted from the index"
        )
    is_of_network = any(isinstance(one, OSError) for one in _chain(error))
    if isinstance(error, TypeError | ValueError) and not is_of_network:
        return UsageError(f"{place}: {_said(error)}")
    return RemoteUnavailable(f"{place} cannot be reached: {_said(error)}")


def is_missing(error: Exception) -> bool:
    """Return whether ``error`` says that an object, a folder or a bucket is not there."""
    is_no_file = isinstance(error, OSError) and error.errno == errno.ENOENT  # as smbprotocol says
    is_no_file |= getattr(error, "ntstatus", None) == STATUS_DELETE_PENDING
    return is_no_file or isinstance(error, FileNotFoundError) or _status_of(error) in NOT_FOUND


def _is_denied(error: BaseException) -> bool:
    named = {type(one).__name__ for one in _chain(error)}
    is_denied = isinstance(error, PermissionError) or _status_of(error) in UNAUTHORIZED
    is_denied |= getattr(error, "ntstatus", None) == STATUS_ACCESS_DENIED
    is_denied |= type(error) is OSError and str(error).startswith("Forbidden")  # as gcsfs says
    is_refused_by_ftp = "error_perm" in named and str(error).startswith("530")  # RFC 959
    return is_denied or is_refused_by_ftp or not named.isdisjoint(NO_CREDENTIALS)


def _denied(error: Exception, url: str) -> str:
    scheme = scheme_of(url)
    of_fsspec = (
        f"FSSPEC_{scheme.upper()}_USERNAME and FSSPEC_{scheme.upper()}_PASSWORD"
        if scheme in SERVERS_OF_FILES
        else "the settings of the store's package or of fsspec"
    )
    where = WHERE_CREDENTIALS_ARE.get(EXTRAS.get(scheme, ""), of_fsspec)
    return f"access is denied ({_said(error)}); check the credentials: {where}"


def _said(error: Exception) -> str:
    return without_secrets(in_one_line(error))


def _status_of(error: BaseException) -> int | None:
    """Return the status of the answer that ``error`` is about, as the packages name it."""
    for one in _chain(error):
        if type(one).__module__ == "aiohttp.http_exceptions":
            continue  # their code is that of a cut connection
        response = getattr(one, "response", None)
        if isinstance(response, Mapping):
            response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if isinstance(response, int):
                return response
        for name in ("status_code", "status", "code"):
            value = getattr(one, name, None)
            with suppress(TypeError, ValueError):
                return int(value)  # type: ignore[arg-type]
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and the errors that caused it."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
