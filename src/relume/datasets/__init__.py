"""Data sets made, changed and described: lists, labels, anchors, and a cfg for them."""
