"""Delimited text becomes a Markdown table, whatever separates and quotes its cells."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.text.config import DEFAULT_READING
from worker.text.formats.delimited import read

cells = st.text(st.sampled_from('ab ,;\t|"\n\\7é'), max_size=6)
tables = st.integers(2, 5).flatmap(
    lambda width: st.lists(
        st.tuples(st.just("x"), *[cells] * (width - 2), st.just("y")), min_size=2, max_size=6
    )
)


def table(text: str | bytes, media_type: str = "text/csv") -> str:
    data = text.encode() if isinstance(text, str) else text
    return read(data, media_type, DEFAULT_READING).text


@given(rows=tables, delimiter=st.sampled_from(",;\t"))
def test_no_cell_adds_a_column_or_a_row(rows: list[tuple[str, ...]], delimiter: str) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(rows)
    lines = table(f"sep={delimiter}\r\n{out.getvalue()}").splitlines()
    assert len(lines) == len(rows) + 1
    for line, row in zip([lines[0], *lines[2:]], rows, strict=True):
        written = line.removeprefix("| ").removesuffix(" |").replace("\\|", "\0").split(" | ")
        assert len(written) == len(row)
        for cell, shown in zip(row, written, strict=True):
            assert "".join(shown.replace("<br>", "").replace("\0", "|").split()) == "".join(
                cell.split()
            )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,2\n", "| a | b |\n| --- | --- |\n| 1 | 2 |\n"),
        ("a;b\n1,5;2,5\n", "| a | b |\n| --- | --- |\n| 1,5 | 2,5 |\n"),
        ("a\tb\n1, 2\t3\n", "| a | b |\n| --- | --- |\n| 1, 2 | 3 |\n"),
        ("a|b\n1|2\n", "| a | b |\n| --- | --- |\n| 1 | 2 |\n"),
        ("sep=;\na;b\n1,2;3\n", "| a | b |\n| --- | --- |\n| 1,2 | 3 |\n"),
        ('a,b\n"x\r\ny",2\n', "| a | b |\n| --- | --- |\n| x<br>y | 2 |\n"),
        ("a,b\r1,2\r3,4\r", "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |\n"),
        ("a,b,,\n1,2,,\n,,,\n", "| a | b |\n| --- | --- |\n| 1 | 2 |\n"),
        (
            "Stock in March\n\na,b,c\n1,2,3\n4,5\n6,7,8\n",
            "Stock in March\n\n| a | b | c |\n| --- | --- | --- |\n| 1 | 2 | 3 |\n| 4 | 5 |\n"
            "| 6 | 7 | 8 |\n",
        ),
    ],
)
def test_tables(text: str, expected: str) -> None:
    assert table(text) == expected


@pytest.mark.parametrize("text", ["one column\n1\n2\n", "prose, with commas.\nMore of it.\n", "x"])
def test_what_is_no_table_stays_as_it_is(text: str) -> None:
    assert table(text) == text


def test_a_stray_quotation_mark_swallows_no_rows() -> None:
    text = table('size,name\n5,"inch\n' + "6,cm\n" * 2000)
    assert text.count("| 6 | cm |") == 2000


def test_a_long_field_is_no_error() -> None:
    assert "b" * 300_000 in table("a,c\n" + "b" * 300_000 + ",1\n")
