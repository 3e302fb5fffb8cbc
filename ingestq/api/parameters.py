"""Parameters that several routes share: document ids in paths, and the collection."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

from fastapi import HTTPException, Query
from starlette.convertors import PathConvertor, register_url_convertor


class Collections:
    """The collections ``names``, of which the first is meant by who names none."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def named(self, name: str | None) -> str:
        """The collection that is meant by ``name``. Raises ValueError if there is none."""
        if name is None:
            return self.names[0]
        if name not in self.names:
            known = ", ".join(self.names)
            raise ValueError(f"collection: {name!r} is none of this server's collections: {known}")
        return name

    @property
    def schema(self) -> dict[str, Any]:
        """The names as JSON Schema, for openapi.json."""
        return {"enum": [*self.names, None]}

    @property
    def parameter(self) -> Callable[[str | None], str]:
        """A dependency: the collection that the query of a request means; 422 if there is none."""

        def of_query(
            collection: Annotated[
                str | None,
                Query(
                    description="One of this server's collections; by default the first of them.",
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
"""What stands for an id in the path of a route."""


class _AnyText(PathConvertor):
    """Starlette's own ends at a line break, and the request at 404."""

    regex = "(?s:.*)"


register_url_convertor("doc_id", _AnyText())
