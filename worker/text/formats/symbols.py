"""The characters of symbol fonts in Unicode."""

from typing import Final

PRIVATE: Final = range(0xF000, 0xF100)
"""Where Office puts the characters of symbol fonts."""
UNKNOWN_SYMBOL: Final = "\N{REPLACEMENT CHARACTER}"

# ruff: noqa: RUF001 - signs that look like others are what this is about

_GREEK: Final = "ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ[∴]⊥_\N{OVERLINE}αβχδεφγηιϕκλμνοπθρστυϖωξψζ{|}∼"
_MATHS: Final = "€ϒ′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…⏐⎯↵ℵℑℜ℘⊗⊕∅∩∪⊃⊇⊄⊂⊆∈∉∠∇®©™∏√⋅¬∧∨⇔⇐⇑⇒⇓◊〈®©™∑"
SYMBOL: Final = (
    {code: chr(code) for code in range(0x20, 0x41)}
    | {0x22: "∀", 0x24: "∃", 0x27: "∋", 0x2A: "∗", 0x2D: "−", 0x40: "≅"}
    | {0x41 + place: sign for place, sign in enumerate(_GREEK)}
    | {0xA0 + place: sign for place, sign in enumerate(_MATHS)}
    | {0xF1: "〉", 0xF2: "∫"}
)
WINGDINGS: Final = {
    0x21: "✏",
    0x22: "✂",
    0x28: "☎",
    0x29: "✆",
    0x2A: "✉",
    0x4A: "☺",
    0x4C: "☹",
    0x6C: "●",
    0x6E: "■",
    0x6F: "□",
    0x71: "❑",
    0x75: "◆",
    0x76: "❖",
    0x77: "◆",
    0x9F: "•",
    0xA7: "▪",
    0xA8: "☐",
    0xD8: "➢",
    0xDF: "←",
    0xE0: "→",
    0xE1: "↑",
    0xE2: "↓",
    0xE8: "➔",
    0xF0: "⇨",
    0xFB: "✗",
    0xFC: "✓",
    0xFD: "☒",
    0xFE: "☑",
}
FONTS: Final = {"symbol": SYMBOL, "wingdings": WINGDINGS}


def symbol(code: int, font: str) -> str:
    """Return the character ``code`` of ``font``; UNKNOWN_SYMBOL if it is not known."""
    known = FONTS.get(font.casefold())
    if known is None:
        return UNKNOWN_SYMBOL if code in PRIVATE or code <= 0 else _character(code)
    return known.get(code & 0xFF, UNKNOWN_SYMBOL)


def with_symbols(text: str, font: str) -> str:
    """Return ``text`` in ``font`` with the characters of symbol fonts in Unicode."""
    return "".join(symbol(ord(each), font) if ord(each) in PRIVATE else each for each in text)


def _character(code: int) -> str:
    try:
        return chr(code).encode().decode()
    except (ValueError, OverflowError):  # beyond Unicode, or half a pair
        return UNKNOWN_SYMBOL
