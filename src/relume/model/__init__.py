"""Tensors in, tensors out: the network, its loss, its detections. No files, no clock."""
