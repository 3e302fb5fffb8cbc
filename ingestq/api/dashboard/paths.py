"""The paths of the dashboard, all of them."""

from typing import Final

PAGE: Final = "/"
EVENTS: Final = "/dashboard/events"
REQUEUE: Final = "/dashboard/requeue"
SIGN_IN: Final = "/dashboard/sign-in"
SIGN_OUT: Final = "/dashboard/sign-out"
STYLE: Final = "/dashboard/style.css"
SCRIPT: Final = "/dashboard/live.js"
ICON: Final = "/dashboard/icon.svg"

ASSETS: Final = {STYLE: "text/css", SCRIPT: "text/javascript", ICON: "image/svg+xml"}
PATHS: Final = frozenset({PAGE, EVENTS, REQUEUE, SIGN_IN, SIGN_OUT, *ASSETS})
OPEN_PATHS: Final = frozenset({SIGN_IN, *ASSETS})
"""Paths that need no session."""
