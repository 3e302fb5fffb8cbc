"""Writes formulas of Office (OMML) and OpenDocument (MathML) on one line: (b·h)/2, x^2, √(a+b)."""

from collections.abc import Callable
from typing import Final

from lxml import etree

MATH: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
MATH_ML: Final = "{http://www.w3.org/1998/Math/MathML}"
VALUE: Final = f"{MATH}val"
PROPERTIES: Final = "Pr"
"""The names of elements that say how something looks end so."""


def linear(element: etree._Element) -> str:
    """Return the formula ``element``, of either kind, on one line."""
    name = _name(element)
    if name.endswith(PROPERTIES) or name in ("annotation", "annotation-xml", "delText"):
        return ""
    if name in ("t", "mi", "mn", "mo", "mtext", "ms"):
        return (element.text or "") if name == "t" else (element.text or "").strip()
    write = WRITERS.get(name)
    return write(element) if write else _joined(element)


def _name(element: etree._Element) -> str:
    return etree.QName(element).localname


def _joined(element: etree._Element) -> str:
    return "".join(linear(child) for child in element.iterchildren("*"))


def _operands(element: etree._Element) -> list[str]:
    """Return the parts of ``element``, such as base and exponent, each on one line."""
    return [
        linear(child)
        for child in element.iterchildren("*")
        if not _name(child).endswith(PROPERTIES)
    ]


def _grouped(text: str) -> str:
    """Return ``text`` in parentheses if it is more than one word."""
    return text if text.isalnum() or len(text) <= 1 else f"({text})"


def _between(sign: str) -> Callable[[etree._Element], str]:
    """Return a function that writes ``sign`` between the parts of an element."""
    return lambda element: sign.join(map(_grouped, _operands(element)))


def _scripts(element: etree._Element) -> str:
    """Write a base with a subscript and a superscript."""
    base, *scripts = map(_grouped, _operands(element))
    below = f"_{scripts[0]}" if scripts and scripts[0] else ""
    return base + below + "".join(f"^{above}" for above in scripts[1:] if above)


def _root(element: etree._Element) -> str:
    operands = _operands(element)
    if _name(element) == "rad":  # the degree comes first, and may be empty
        operands.reverse()
    base, *degree = operands or [""]
    return f"{''.join(degree)}√({base})"


def _property(element: etree._Element, name: str, default: str) -> str:
    """Return the value of a property of ``element``; ``default`` if it has none."""
    found = element.find(f"{MATH}{_name(element)}Pr/{MATH}{name}")
    return default if found is None else found.get(VALUE, "")


def _delimited(element: etree._Element) -> str:
    begin, end = _property(element, "begChr", "("), _property(element, "endChr", ")")
    return begin + _property(element, "sepChr", "|").join(_operands(element)) + end


def _sum(element: etree._Element) -> str:
    below, above, *rest = _operands(element)
    sign = _property(element, "chr", "∫")
    limits = (f"_{_grouped(below)}" if below else "") + (f"^{_grouped(above)}" if above else "")
    return f"{sign}{limits} {''.join(rest)}"


def _rows(element: etree._Element) -> str:
    rows = (", ".join(_operands(row)) for row in element.iterchildren(f"{MATH}mr", f"{MATH_ML}mtr"))
    return f"[{'; '.join(rows)}]"


def _accent(element: etree._Element) -> str:
    return _joined(element) + _property(element, "chr", "\u0302")


WRITERS: Final[dict[str, Callable[[etree._Element], str]]] = {
    "acc": _accent,
    "d": _delimited,
    "f": _between("/"),
    "func": lambda element: " ".join(_operands(element)),
    "m": _rows,
    "mfrac": _between("/"),
    "mroot": _root,
    "msqrt": lambda element: f"√({_joined(element)})",
    "msub": _between("_"),
    "msubsup": _scripts,
    "msup": _between("^"),
    "mtable": _rows,
    "munderover": _scripts,
    "nary": _sum,
    "rad": _root,
    "sSub": _between("_"),
    "sSubSup": _scripts,
    "sSup": _between("^"),
}
