"""Renders the pages of the dashboard, and the parts of them that change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ingestq.api.dashboard import paths, wording
from ingestq.api.dashboard.board import View
from ingestq.api.dashboard.plots import plots
from ingestq.core.tokens import Principal, Right

REGIONS: Final = (
    "numbers",
    "plots",
    "submissions",
    "workers",
    "folders",
    "ended",
    "dead_letters",
    "stale",
    "warnings",
    "entries",
)
"""The parts of the page that change; each is a template, and an event of the stream."""
OF_EVERYBODY: Final = frozenset({"plots", "workers", "entries"})
"""Those that are left out for a token of a tenant or of some collections."""
REQUEUED: Final = "requeued"
GONE: Final = "gone"


@dataclass(frozen=True)
class SearchPanel:
    """A query and its hits, or the ``problem`` that made the search fail.

    ``filters`` are the conditions as they were typed. ``warnings`` say what could not be done.
    """

    query: str
    collection: str = ""
    filters: Sequence[str] = ()
    group: bool = False
    hits: Sequence[object] = ()
    warnings: Sequence[str] = ()
    problem: str | None = None


@dataclass(frozen=True)
class RequeueResult:
    """How many dead letters were requeued, and how many were ``gone``; or why it failed."""

    requeued: int = 0
    gone: int = 0
    problem: str | None = None


@cache
def compiled_templates() -> Environment:
    """Return all templates, compiled once in a process. They escape all values."""
    templates = Environment(
        loader=PackageLoader("ingestq.api.dashboard"),
        autoescape=True,
        auto_reload=False,
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    templates.globals |= {"paths": paths}
    templates.filters |= {
        "age": wording.age,
        "duration": wording.duration,
        "highlighted": wording.highlighted,
        "iso": wording.iso,
        "moment": wording.moment,
        "number": wording.number,
        "quoted": lambda key: quote(key, safe=""),
        "rate": wording.rate,
        "tail": wording.tail,
        "until": wording.until,
    }
    for name in templates.list_templates():
        templates.get_template(name)
    return templates


class Pages:
    """Renders the templates.

    If there are several ``collections``, the search form offers a choice.
    """

    def __init__(self, collections: Sequence[str]) -> None:
        self._templates = compiled_templates()
        self._collections = collections
        self._rendered: tuple[View, Principal, Mapping[str, Markup]] | None = None

    def regions(self, view: View, principal: Principal) -> Mapping[str, Markup]:
        """Return the parts of the page that change, by name; empty without a snapshot.

        They are for ``principal``, who may lack the right to requeue.
        """
        last = self._rendered
        if last is None or last[0] is not view or last[1] != principal:
            last = view, principal, self._render_regions(view, principal)
            self._rendered = last
        return last[2]

    def notice(self, view: View) -> Markup:
        """Return the notice that says why the page is not current; empty if it is."""
        return self._render("notice", view=view)

    def page(
        self,
        view: View,
        principal: Principal,
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
            regions=self.regions(view, principal),
            collections=self._seen_by(principal),
            search=search,
            requeue=requeue,
            signed_in=signed_in,
        )

    def sign_in(self, problem: str | None = None) -> Markup:
        """Return the page that asks for the token, again if there was a ``problem`` with it."""
        return self._render("sign_in", problem=problem)

    def _seen_by(self, principal: Principal) -> Sequence[str]:
        known = principal.collections
        return [name for name in self._collections if known is None or name in known]

    def _render_regions(self, view: View, principal: Principal) -> Mapping[str, Markup]:
        if view.snapshot is None:
            return {}
        counts = [collection.warned for collection in view.index.collections]
        stale = [collection.stale for collection in view.index.collections]
        known: dict[str, Any] = {
            "now": view.snapshot,
            "plots": plots(view.samples),
            "warned": sum(filter(None, counts)) if any(n is not None for n in counts) else None,
            "warned_documents": view.index.warned,
            "stale": sum(filter(None, stale)) if any(n is not None for n in stale) else None,
            "stale_documents": view.index.stale,
            "is_part": view.is_part,
            "may_requeue": principal.may(Right.WRITE),
            "collections": self._seen_by(principal),
        }
        names = [name for name in REGIONS if not (view.is_part and name in OF_EVERYBODY)]
        return {name: self._render(name, **known) for name in names}

    def _render(self, template: str, **known: Any) -> Markup:
        page = self._templates.get_template(f"{template}.html")
        return Markup(page.render(known))  # noqa: S704 - escaped there
