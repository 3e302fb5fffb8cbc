"""Public class names are unique in the product."""

import ast
from collections import defaultdict
from pathlib import Path
from typing import Final

PACKAGES: Final = ("ingestq", "producers", "worker")
ROOT: Final = Path(__file__).parents[2]


def test_no_public_class_name_is_defined_twice() -> None:
    places = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(str(path.relative_to(ROOT)))
    assert places, "no class was found"
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert twice == {}
