"""Writes numbers as a spreadsheet shows them: 7.5 %, 00042, 07:45, 1,234.50 €.

Reads the format codes of Excel, as files of Excel and charts hold them. Names of months and days
are in English, and decimal signs as in the code, because those of the reader are not known.
"""

import calendar
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Final

GENERAL: Final = "General"
ISO_DATE: Final = "yyyy-mm-dd"
BUILT_IN: Final = {
    1: "0",
    2: "0.00",
    3: "#,##0",
    4: "#,##0.00",
    9: "0%",
    10: "0.00%",
    11: "0.00E+00",
    12: "# ?/?",
    13: "# ??/??",
    14: ISO_DATE,
    15: "d-mmm-yy",
    16: "d-mmm",
    17: "mmm-yy",
    18: "h:mm AM/PM",
    19: "h:mm:ss AM/PM",
    20: "h:mm",
    21: "h:mm:ss",
    22: f"{ISO_DATE} h:mm",
    37: "#,##0;(#,##0)",
    38: "#,##0;(#,##0)",
    39: "#,##0.00;(#,##0.00)",
    40: "#,##0.00;(#,##0.00)",
    41: "#,##0",
    42: "#,##0",
    43: "#,##0.00",
    44: "#,##0.00",
    45: "mm:ss",
    46: "[h]:mm:ss",
    47: "mm:ss.0",
    48: "##0.0E+0",
    49: "@",
    **dict.fromkeys((*range(27, 32), 36, *range(50, 55), 57, 58), ISO_DATE),
    **dict.fromkeys((32, 33, 55, 56), "h:mm:ss"),
}
"""Formats that files name by number only. Those whose look depends on the country are as in ISO."""
MAX_CACHED: Final = 1024
"""Formats; a workbook has some dozens."""
MAX_VALUES: Final = 16_384
"""Formatted numbers; dates and small numbers come again and again."""
MAX_CODE: Final = 255
"""Characters of a format code: what Excel allows."""
MAX_DIGITS: Final = 400
"""More than the largest number has."""
SIGNIFICANT: Final = 15
"""Digits that a spreadsheet keeps of a number."""
MAX_EXPONENT: Final = 15
"""Larger whole numbers are written with an exponent."""
MAX_DATE: Final = 2_958_466
"""The first day after 9999, counted as Excel does."""
LEAP_DAY: Final = 60
"""Excel counts a 29th of February 1900, as Lotus did."""
EPOCH: Final = datetime(1899, 12, 30)
EPOCH_1904_DAYS: Final = 1462
DAY_MILLISECONDS: Final = 86_400_000

TOKEN: Final = re.compile(
    r'"(?P<quoted>[^"]*+)"?|\\(?P<escaped>.)|_(?P<space>.)|\*(?P<fill>.)|\[(?P<bracket>[^\]]*+)\]'
    r"|(?P<general>General)|(?P<noon>AM/PM|A/P|上午/下午|오전/오후|午前/午後)"
    r"|(?P<exponent>E[+-])|(?P<date>y+|m+|d+|h+|s+(?:\.0+)?|e+|g+|a{3,4})|(?P<digits>[0#?.,]+)"
    r"|(?P<percent>%)|(?P<text>@)|(?P<next>;)|(?P<other>.)",
    re.IGNORECASE | re.DOTALL,
)
CONDITION: Final = re.compile(r"(<=|>=|<>|<|>|=)\s*(-?\d+(?:\.\d+)?)")
ELAPSED: Final = re.compile(r"(?:h+|m+|s+)", re.IGNORECASE)
LITERALS: Final = ("quoted", "escaped", "other", "currency", "percent")
DATES: Final = ("date", "elapsed", "noon")
ZEROS: Final = "0.,"
_exact: Final = Context(prec=MAX_DIGITS, rounding=ROUND_HALF_UP)


@dataclass(frozen=True)
class Token:
    """A piece of a format code: its kind, the name of a group of `TOKEN`, and its text."""

    kind: str
    text: str


@dataclass(frozen=True)
class Section:
    """One of up to four formats in a code: for which numbers it is, and what it consists of."""

    tokens: tuple[Token, ...]
    condition: tuple[str, float] | None = None

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The kinds of all tokens."""
        return frozenset(token.kind for token in self.tokens)

    @cached_property
    def digits(self) -> "Digits":
        """How a number is written."""
        return Digits(self.tokens)


class Digits:
    """The digits of a section, and what stands before and after them."""

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        places = [index for index, token in enumerate(tokens) if token.kind == "digits"]
        first, last = (places[0], places[-1] + 1) if places else (len(tokens), len(tokens))
        self.body = tokens[first:last]
        self.before = "".join(map(_literal, tokens[:first]))
        self.after = "".join(map(_literal, tokens[last:]))
        self.factor = 100 ** sum(token.kind == "percent" for token in tokens)
        pattern = "".join(token.text for token in self.body if token.kind == "digits")
        whole, point, decimals = pattern.partition(".")
        self.thousands = "," in whole.strip(",")
        self.divisions = len(pattern) - len(pattern.rstrip(","))
        if point:
            self.divisions += len(whole) - len(whole.rstrip(","))
        decimals = decimals.replace(",", "").replace(".", "")
        self.required = len(whole.replace(",", "").lstrip("#?"))
        self.required_decimals = len(decimals.rstrip("#?"))
        self.step = Decimal(1).scaleb(-len(decimals))
        self.is_divided = any(token.kind != "digits" for token in _whole(self.body))
        self.is_exponent = any(token.kind == "exponent" for token in self.body)
        self.is_fraction = any(token.text == "/" for token in self.body)


@lru_cache(MAX_VALUES)
def formatted(value: float, code: str, *, from_1904: bool = False) -> str:
    """Return ``value`` as the format ``code`` shows it.

    Dates are counted from 1900, or ``from_1904``. A value that the format cannot show, such as a
    negative date, is written without it.
    """
    if code in (GENERAL, "", "@"):
        return general(value)
    section, shown = _chosen(value, _sections(code[:MAX_CODE]))
    if section is None:
        return general(value)
    if not section.kinds.isdisjoint(DATES):
        return _date(shown, section, from_1904) or general(value)
    if not section.kinds.isdisjoint(("general", "text")):
        return "".join(
            general(shown) if token.kind in ("general", "text") else _literal(token)
            for token in section.tokens
        ).strip()
    return _number(shown, section.digits).strip()


def general(value: float) -> str:
    """Return ``value`` without a format, with the digits that a spreadsheet keeps."""
    if value == int(value) and abs(value) < 10**MAX_EXPONENT:
        return str(int(value))
    return f"{value:.{SIGNIFICANT}g}"


@lru_cache(MAX_CACHED)
def _sections(code: str) -> tuple[Section, ...]:
    sections: list[Section] = []
    tokens: list[Token] = []
    condition = None
    for found in TOKEN.finditer(code):
        kind = str(found.lastgroup)
        text = found[kind]
        if kind == "next":
            sections.append(Section(tuple(_with_minutes(tokens)), condition))
            tokens, condition = [], None
        elif kind != "bracket":
            tokens.append(Token(kind, text))
        elif matched := CONDITION.fullmatch(text):
            condition = (matched[1], float(matched[2]))
        elif ELAPSED.fullmatch(text):
            tokens.append(Token("elapsed", text.lower()))
        elif text.startswith("$"):
            tokens.append(Token("currency", text[1:].partition("-")[0]))
    return (*sections, Section(tuple(_with_minutes(tokens)), condition))


def _with_minutes(tokens: list[Token]) -> Iterable[Token]:
    """Yield ``tokens``, with those m that mean minutes as tokens ``n``."""
    units = [
        index
        for index, token in enumerate(tokens)
        if token.kind in ("date", "elapsed") and token.text[0].lower() in "ymdhs"
    ]
    minutes = set()
    for before, index, after in zip([None, *units], units, [*units[1:], None], strict=False):
        token = tokens[index]
        if token.kind == "date" and token.text[0] in "mM" and len(token.text) <= len("mm"):
            after_hours = before is not None and tokens[before].text[0] in "hH"
            before_seconds = after is not None and tokens[after].text[0] in "sS"
            if after_hours or before_seconds:
                minutes.add(index)
    for index, token in enumerate(tokens):
        yield Token("date", "n" * len(token.text)) if index in minutes else token


def _chosen(value: float, sections: tuple[Section, ...]) -> tuple[Section | None, float]:
    """Return the section for ``value``, and the value that it shows."""
    numeric = sections[:3]
    if any(section.condition for section in numeric):
        for section in numeric:
            if section.condition is None or _meets(value, section.condition):
                return section, value
        return None, value
    if value < 0 and len(numeric) > 1:
        return numeric[1], -value
    if value == 0 and len(numeric) > 2:
        return numeric[2], value
    return numeric[0], value


def _meets(value: float, condition: tuple[str, float]) -> bool:
    sign, limit = condition
    return {
        "<": value < limit,
        "<=": value <= limit,
        ">": value > limit,
        ">=": value >= limit,
        "=": value == limit,
        "<>": value != limit,
    }[sign]


def _literal(token: Token) -> str:
    if token.kind == "space":
        return " "
    return token.text if token.kind in LITERALS else ""


def _number(value: float, digits: Digits) -> str:
    """Return ``value`` in ``digits``."""
    value *= digits.factor
    if not digits.body:
        shown = ""
    elif digits.is_fraction and abs(value) < 10**MAX_EXPONENT:
        shown = _fraction(value, digits.body)
    elif digits.is_exponent:
        shown = _exponent(value, digits.body)
    else:
        shown = _decimal(value, digits)
    written = f"{digits.before}{shown}{digits.after}"
    has_sign = value < 0 and bool(written.strip()) and (not shown or shown.strip(ZEROS) != "")
    return f"-{written}" if has_sign else written


def _fraction(value: float, body: tuple[Token, ...]) -> str:
    """Return ``value`` as a fraction, in a format such as ``# ??/??``."""
    texts = [token.text for token in body]
    below = texts[texts.index("/") + 1 :]
    places = len(below[0]) if below else 1
    fraction = Fraction(abs(value)).limit_denominator(10 ** min(places, 4) - 1)
    whole, rest = divmod(fraction.numerator, fraction.denominator)
    shown = [str(whole)] if whole or not rest else []
    return " ".join([*shown, f"{rest}/{fraction.denominator}"] if rest else shown)


def _exponent(value: float, body: tuple[Token, ...]) -> str:
    """Return ``value`` with an exponent, in a format such as ``0.00E+00``."""
    kinds = [token.kind for token in body]
    places = body[0].text.partition(".")[2]
    mantissa, _, power = f"{abs(value):.{len(places)}E}".partition("E")
    width = len(body[kinds.index("exponent") + 1].text) if body[-1].kind == "digits" else 1
    sign = "-" if power.startswith("-") else "+" * (body[kinds.index("exponent")].text[1] == "+")
    return f"{mantissa}E{sign}{abs(int(power)):0{width}d}"


def _decimal(value: float, digits: Digits) -> str:
    """Return the digits of ``value``, with the literals that stand between them."""
    exact = Decimal(f"{abs(value):.{SIGNIFICANT}g}").scaleb(-3 * digits.divisions, _exact)
    whole, _, decimals = str(exact.quantize(digits.step, context=_exact)).partition(".")
    kept = digits.required_decimals
    decimals = decimals[:kept] + decimals[kept:].rstrip("0")
    whole = whole.lstrip("0")
    if digits.thousands and whole:
        whole = f"{int(whole):,}"
    whole = whole.rjust(digits.required, "0")
    if digits.is_divided:
        whole = _with_literals(whole, digits.body)
    return f"{whole}.{decimals}" if decimals else whole


def _with_literals(digits: str, body: tuple[Token, ...]) -> str:
    """Return ``digits``, divided as in ``body``, for numbers of telephones and the like."""
    out: list[str] = []
    rest = digits
    for index, token in reversed(list(enumerate(_whole(body)))):
        if token.kind == "digits":
            width = len(rest) if index == 0 else len(token.text.replace(",", ""))
            out.append(rest[len(rest) - width :] if width else "")
            rest = rest[: len(rest) - width]
        else:
            out.append(_literal(token))
    return rest + "".join(reversed(out))


def _whole(body: tuple[Token, ...]) -> list[Token]:
    """Return the tokens of ``body`` before the decimal point."""
    tokens = []
    for token in body:
        before, point, _ = token.text.partition(".")
        tokens.append(Token(token.kind, before) if token.kind == "digits" else token)
        if token.kind == "digits" and point:
            break
    return tokens


def _date(value: float, section: Section, from_1904: bool) -> str:
    """Return the date or time ``value``; "" if there is no such date."""
    elapsed = "elapsed" in section.kinds
    days = value + EPOCH_1904_DAYS * from_1904
    if not elapsed and not 0 <= days < MAX_DATE:
        return ""
    if elapsed and not abs(days) < MAX_DATE:
        return ""
    fine = any(token.kind == "date" and "." in token.text for token in section.tokens)
    unit = 1 if fine else 1000
    milliseconds = round(abs(days if not elapsed else value) * DAY_MILLISECONDS / unit) * unit
    shift = 1 if days < LEAP_DAY and not from_1904 else 0
    moment = EPOCH + timedelta(days=shift, milliseconds=milliseconds)
    half_day = "noon" in section.kinds
    shown = "".join(
        _piece(token, moment, milliseconds, half_day=half_day) for token in section.tokens
    )
    return ("-" if elapsed and value < 0 else "") + shown.strip()


def _piece(token: Token, moment: datetime, milliseconds: int, *, half_day: bool) -> str:
    width = len(token.text)
    if token.kind == "elapsed":
        unit = {"h": 3_600_000, "m": 60_000, "s": 1000}[token.text[0]]
        return f"{milliseconds // unit:0{width}d}"
    if token.kind == "noon":
        return "AM" if moment.hour < 12 else "PM"
    if token.kind == "digits":
        return token.text  # a point or comma between the parts of a date
    if token.kind != "date":
        return _literal(token)
    if token.text[0] in "sS":
        seconds, point, places = token.text.partition(".")
        fraction = f"{moment.microsecond:06d}"[: len(places)]
        return f"{moment.second:0{min(len(seconds), 2)}d}{point}{fraction}"
    return _calendar(token.text.lower(), moment, half_day=half_day)


def _calendar(code: str, moment: datetime, *, half_day: bool) -> str:
    """Return the part of ``moment`` that ``code``, such as ``mm``, stands for."""
    hour = (moment.hour - 1) % 12 + 1 if half_day else moment.hour
    match code[0], len(code):
        case "y", 1 | 2:
            return f"{moment.year % 100:02d}"
        case (("y" | "e"), _):
            return f"{moment.year:04d}"
        case "g", _:
            return ""  # the era of a Japanese year, which is written as a common one
        case "m", width if width > 2:
            month = calendar.month_name[moment.month]
            return {3: month[:3], 5: month[0]}.get(width, month)
        case (("d" | "a"), width) if width > 2:
            day = calendar.day_name[moment.weekday()]
            return day[:3] if width == 3 else day
        case unit, width:
            number = {"m": moment.month, "d": moment.day, "h": hour, "n": moment.minute}[unit]
            return f"{number:0{min(width, 2)}d}"
