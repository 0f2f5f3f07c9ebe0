"""relume: a Darknet-compatible YOLO trainer that can be stopped anywhere and goes on exactly.

import relume
detector = relume.load("net.cfg", "backup/net_best.weights", "obj.names")
found = detector.detect("dog.jpg")
drawn = relume.draw("dog.jpg", found)  # RGB pixels
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relume.detection import Detection
    from relume.detector import Detector, draw, load

__version__ = "0.1.0"
__all__ = ["Detection", "Detector", "__version__", "draw", "load"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import what detects when it is first asked for: PyTorch takes seconds."""
        if name in __all__:
            return getattr(importlib.import_module("relume.detector"), name)
        raise AttributeError(f"module 'relume' has no attribute '{name}'")

    def __dir__() -> list[str]:
        """Name what there is, for whoever completes `relume.` in a shell."""
        return sorted(__all__)
