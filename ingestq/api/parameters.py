"""Parameters that several routes share: document ids, the collection, the tenant, the caller."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

from fastapi import Depends, HTTPException, Query, Request
from starlette.convertors import PathConvertor, register_url_convertor

from ingestq.api.authenticator import principal_of
from ingestq.core.errors import NotPermitted
from ingestq.core.tokens import Principal


async def _caller(request: Request) -> Principal:
    return principal_of(request)


Caller = Annotated[Principal, Depends(_caller)]
"""Who sends the request."""


class Collections:
    """The collections of a server; the first of ``names`` is the default.

    ``principal`` is who asks: the others do not exist for them.
    """

    def __init__(self, names: Sequence[str], principal: Principal | None = None) -> None:
        self.names = names
        self._principal = principal

    def seen_by(self, principal: Principal) -> "Collections":
        """Return those that exist for ``principal``."""
        if principal.collections is None:
            return self
        seen = [name for name in self.names if name in principal.collections]
        return Collections(seen, principal)

    def named(self, name: str | None) -> str:
        """Return ``name``, or the default if it is None.

        Raises ValueError if it is unknown, and NotPermitted if a token is not for it: then it also
        does not say whether there is such a collection.
        """
        if self._principal is not None and name is not None:
            self._principal.check_collection(name)
        if name is None and not self.names:
            raise NotPermitted("this token is for no collection of this server")
        if name is None:
            return self.names[0]
        if name not in self.names:
            known = ", ".join(self.names)
            raise ValueError(
                f"collection: {name!r} is not one of this server's collections: {known}"
            )
        return name

    @property
    def schema(self) -> dict[str, Any]:
        """The names as JSON Schema, for openapi.json."""
        return {"enum": [*self.names, None]}

    @property
    def parameter(self) -> Callable[..., str]:
        """A FastAPI dependency: the collection of a request, from its query; 422 if unknown."""

        def of_query(
            caller: Caller,
            collection: Annotated[
                str | None,
                Query(
                    description="A collection of this server; the first one by default.",
                    json_schema_extra=self.schema,
                ),
            ] = None,
        ) -> str:
            try:
                return self.seen_by(caller).named(collection)
            except ValueError as error:
                raise HTTPException(422, f"query.{error}") from error

        return of_query


DOC_ID: Final = "{doc_id:doc_id}"
"""The placeholder for a document id in the path of a route."""


class _AnyText(PathConvertor):
    """Matches any text. Starlette's own converter stops at a line break: 404."""

    regex = "(?s:.*)"


register_url_convertor("doc_id", _AnyText())
