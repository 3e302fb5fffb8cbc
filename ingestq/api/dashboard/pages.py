"""What is shown, as HTML: pages, and the parts of them that change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ingestq.api.dashboard import paths, wording
from ingestq.api.dashboard.board import View
from ingestq.api.dashboard.plots import plots
from ingestq.api.dashboard.wording import excerpt, marked

REGIONS: Final = ("numbers", "plots", "submissions", "workers", "ended", "letters", "entries")
"""The parts of the page that change; each is a template, and an event of the stream."""
REQUEUED: Final = "requeued"
GONE: Final = "gone"


@dataclass(frozen=True)
class Searched:
    """What was asked, and what was found or why nothing could be."""

    question: str
    collection: str = ""
    hits: Sequence[object] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Requeuing:
    """What became of dead letters that were to be tried again; or what was in the way."""

    requeued: int = 0
    gone: int = 0
    problem: str | None = None


class Pages:
    """Renders templates, each of them read once. Everything that is filled in is escaped.

    If there are several ``collections``, one is chosen for each search.
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
            "excerpt": excerpt,
            "iso": wording.iso,
            "marked": marked,
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
        """The parts of the page that change, by their names; none if nothing is known yet."""
        if self._rendered is None or self._rendered[0] is not view:
            self._rendered = view, self._render_regions(view)
        return self._rendered[1]

    def notice(self, view: View) -> Markup:
        """Why what is shown is not how things are."""
        return self._render("notice", view=view)

    def page(
        self, view: View, searched: Searched | None, requeuing: Requeuing | None, signed_in: bool
    ) -> Markup:
        """The whole page."""
        return self._render(
            "page",
            once=REQUEUED,
            view=view,
            notice=self.notice(view),
            regions=self.regions(view),
            searched=searched,
            requeuing=requeuing,
            signed_in=signed_in,
        )

    def sign_in(self, *, failed: bool) -> Markup:
        """The page that asks for the token."""
        return self._render("sign_in", failed=failed)

    def _render_regions(self, view: View) -> Mapping[str, Markup]:
        if view.standing is None:
            return {}
        known: dict[str, Any] = {"now": view.standing, "plots": plots(view.samples)}
        return {name: self._render(name, **known) for name in REGIONS}

    def _render(self, template: str, **known: Any) -> Markup:
        return Markup(self._templates.get_template(f"{template}.html").render(known))  # noqa: S704 - escaped there
