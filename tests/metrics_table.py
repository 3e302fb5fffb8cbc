"""The table of metrics in docs/monitoring.md. Run this module to write it there."""

from pathlib import Path
from typing import Final

from ingestq.core.metrics import CATALOGUE, Metric

PAGE: Final = Path(__file__).parents[1] / "docs" / "monitoring.md"
BEGIN: Final = "<!-- metrics: written by `python -m tests.metrics_table` -->\n"
END: Final = "<!-- end of metrics -->\n"


def table() -> str:
    """Return the table as the page has it."""
    rows = (f"| `{m.name}` | {m.kind} | {m.unit} | {_labels(m)} | {m.help} |\n" for m in CATALOGUE)
    return "| metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n" + "".join(rows)


def _labels(metric: Metric) -> str:
    return "; ".join(
        f"`{name}`: {values if isinstance(values, str) else ', '.join(values)}"
        for name, values in metric.labels.items()
    )


def written() -> str:
    """Return the table that the page has."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
