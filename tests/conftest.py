"""Settings that hold for every test."""

import gc
import signal

import torch

# Small tensors: a second thread only waits, and test processes run side by side.
torch.set_num_threads(1)

# A background job is deaf to Ctrl-C, one under nohup to SIGHUP, and so would be every process that
# a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what is there for good: the libraries and the tests."""
    gc.collect()
    gc.freeze()
