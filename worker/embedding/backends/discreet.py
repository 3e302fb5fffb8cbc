"""OpenVINO, kept from telling Intel that it was imported.

It would send an event for each import and conversion, unless its telemetry module is missing.
"""

import importlib
import sys
from typing import Any

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

openvino: Any = importlib.import_module("openvino")
