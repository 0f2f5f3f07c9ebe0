"""The state of a run as one value, its bytes, and how they reach the disk. No torch."""
