"""Renders the pages of the dashboard, and the parts of them that change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ingestq.api.dashboard import paths, wording
from ingestq.api.dashboard.board import View
from ingestq.api.dashboard.plots import plots

REGIONS: Final = ("numbers", "plots", "submissions", "workers", "ended", "dead_letters", "entries")
"""The parts of the page that change; each is a template, and an event of the stream."""
REQUEUED: Final = "requeued"
GONE: Final = "gone"


@dataclass(frozen=True)
class SearchPanel:
    """A query and its hits, or the ``problem`` that made the search fail."""

    query: str
    collection: str = ""
    hits: Sequence[object] = ()
    problem: str | None = None


@dataclass(frozen=True)
class RequeueResult:
    """How many dead letters were requeued, and how many were ``gone``; or why it failed."""

    requeued: int = 0
    gone: int = 0
    problem: str | None = None


class Pages:
    """Renders templates, which are read once. All values are escaped.

    If there are several ``collections``, the search form offers a choice.
    """

    def __init__(self, collections: Sequence[str]) -> None:
        self._templates = Environment(
            loader=PackageLoader("ingestq.api.dashboard"),
            autoescape=True,
            auto_reload=False,
            lstrip_blocks=True,
            trim_blocks=True,
            undefined=StrictUndefined,
        )
        self._templates.globals |= {"paths": paths, "collections": collections}
        self._templates.filters |= {
            "age": wording.age,
            "duration": wording.duration,
            "excerpt": wording.excerpt,
            "highlighted": wording.highlighted,
            "iso": wording.iso,
            "moment": wording.moment,
            "number": wording.number,
            "quoted": lambda key: quote(key, safe=""),
            "rate": wording.rate,
            "tail": wording.tail,
            "until": wording.until,
        }
        for name in self._templates.list_templates():
            self._templates.get_template(name)
        self._rendered: tuple[View, Mapping[str, Markup]] | None = None

    def regions(self, view: View) -> Mapping[str, Markup]:
        """Return the parts of the page that change, by name; empty without a snapshot."""
        if self._rendered is None or self._rendered[0] is not view:
            self._rendered = view, self._render_regions(view)
        return self._rendered[1]

    def notice(self, view: View) -> Markup:
        """Return the notice that says why the page is not current; empty if it is."""
        return self._render("notice", view=view)

    def page(
        self,
        view: View,
        search: SearchPanel | None,
        requeue: RequeueResult | None,
        signed_in: bool,
    ) -> Markup:
        """Return the whole page."""
        return self._render(
            "page",
            once=REQUEUED,
            view=view,
            notice=self.notice(view),
            regions=self.regions(view),
            search=search,
            requeue=requeue,
            signed_in=signed_in,
        )

    def sign_in(self, *, failed: bool) -> Markup:
        """Return the page that asks for the token."""
        return self._render("sign_in", failed=failed)

    def _render_regions(self, view: View) -> Mapping[str, Markup]:
        if view.snapshot is None:
            return {}
        known: dict[str, Any] = {"now": view.snapshot, "plots": plots(view.samples)}
        return {name: self._render(name, **known) for name in REGIONS}

    def _render(self, template: str, **known: Any) -> Markup:
        return Markup(self._templates.get_template(f"{template}.html").render(known))  # noqa: S704 - escaped there
