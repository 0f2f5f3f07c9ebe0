"""Benchmarks: one command each; they print ratios measured within one run."""
