"""One function per command; what it says goes through `screen.py`."""
