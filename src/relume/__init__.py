"""relume: a Darknet-compatible YOLO trainer that can be stopped anywhere and goes on exactly."""

__version__ = "0.1.0"
