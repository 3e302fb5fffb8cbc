"""Document ids in paths: any text, with slashes and line breaks in it."""

from typing import Final

from starlette.convertors import PathConvertor, register_url_convertor

DOC_ID: Final = "{doc_id:doc_id}"
"""What stands for an id in the path of a route."""


class _AnyText(PathConvertor):
    """Starlette's own ends at a line break, and the request at 404."""

    regex = "(?s:.*)"


register_url_convertor("doc_id", _AnyText())
