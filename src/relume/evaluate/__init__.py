"""How good a network is: detections against truths, average precision."""
