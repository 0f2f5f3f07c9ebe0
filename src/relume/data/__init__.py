"""A sample is a function of (recipe, position). NumPy and OpenCV; no torch."""
