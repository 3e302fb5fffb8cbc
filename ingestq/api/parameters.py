"""Parameters that several routes share: document ids in paths, and the collection."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

from fastapi import HTTPException, Query
from starlette.convertors import PathConvertor, register_url_convertor


class Collections:
    """The collections of a server; the first of ``names`` is the default."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def named(self, name: str | None) -> str:
        """Return ``name``, or the default if it is None. Raises ValueError if it is unknown."""
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
    def parameter(self) -> Callable[[str | None], str]:
        """A FastAPI dependency: the collection of a request, from its query; 422 if unknown."""

        def of_query(
            collection: Annotated[
                str | None,
                Query(
                    description="A collection of this server; the first one by default.",
                    json_schema_extra=self.schema,
                ),
            ] = None,
        ) -> str:
            try:
                return self.named(collection)
            except ValueError as error:
                raise HTTPException(422, f"query.{error}") from error

        return of_query


DOC_ID: Final = "{doc_id:doc_id}"
"""The placeholder for a document id in the path of a route."""


class _AnyText(PathConvertor):
    """Matches any text. Starlette's own converter stops at a line break: 404."""

    regex = "(?s:.*)"


register_url_convertor("doc_id", _AnyText())
