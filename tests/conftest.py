"""Settings that hold for every test."""

import torch

# Small tensors: a second thread only waits, and test processes run side by side.
torch.set_num_threads(1)
