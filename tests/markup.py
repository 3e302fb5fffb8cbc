"""Parses HTML pages."""

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Element:
    """An element, with all text inside it."""

    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """The elements of a page, in document order."""

    html: str
    elements: list[Element] = field(default_factory=list)
    _open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.html)
        self.close()

    def all(self, tag: str, **wanted: str) -> list[Element]:
        """Return the elements with this tag and these attributes."""
        return [
            element
            for element in self.elements
            if element.tag == tag and wanted.items() <= element.attributes.items()
        ]

    @property
    def text(self) -> str:
        """The text of the page, with single spaces."""
        return " ".join("".join(e.text for e in self.elements if e.tag == "html").split())

    def links(self) -> list[str]:
        """Return every address on the page."""
        names = ("action", "data", "data-events", "href", "src", "srcset")
        return [e.attributes[name] for e in self.elements for name in names if name in e.attributes]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop().tag != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data
