"""The run: read `loop.py` first."""
