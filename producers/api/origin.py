"""Whether a page of somebody else has a browser send a request.

A browser asks a server before it sends it JSON for a page of another site, but forms it sends at
once. Where no token is needed, they are told by what every browser says of such a request.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

OWN_SITES: Final = frozenset({"same-origin", "none"})
"""Of ``Sec-Fetch-Site``: a page of this server, or the user (an address that was typed)."""


def is_of_another_site(headers: Mapping[str, str]) -> bool:
    """Whether a browser says so; other programs say nothing."""
    site = headers.get("sec-fetch-site")
    if site is not None and site not in OWN_SITES:
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
