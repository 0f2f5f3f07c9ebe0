"""The numbers of a small run are pinned: who changes one must raise NUMERICS.

The digests hold for one environment only, in which bits are promised; elsewhere the test is
skipped and says why.
"""

from pathlib import Path

import pytest
import torch

from relume.train.environment import declare, differences
from tests.contract.small_runs import CPU, adam_cfg, sgd_cfg, train_until, write_run

ENVIRONMENT = {
    "numerics": "3",
    "torch": "2.13.0+cpu",
    "numpy": "2.4.6",
    "opencv": "4.14.0",
    "libc": "glibc 2.36",
    "processor": "AMD EPYC",
    "kernels": "AVX512",
    "threads": "1",
}
DIGESTS = {
    "sgd": "ad1393e63275ef04a2c751cc5bd4fcc8",
    "adam": "4a38a2ca619aaaf964cb3323b4e183aa",
    "mixup": "627cab6d39cefef422bf51b1de357c35",
    "mosaic": "2d91f868ca820284974e6f13f0ddd3e7",
}
EFFECTS = {"blur": 3, "gaussian_noise": 20}
CFGS = {
    "sgd": sgd_cfg(),
    "adam": adam_cfg(),
    "mixup": sgd_cfg(mixup=1, letter_box=1, **EFFECTS),
    "mosaic": sgd_cfg(mosaic=1, mosaic_bound=1, **EFFECTS),
}


@pytest.mark.parametrize("name", DIGESTS)
def test_the_state_after_six_iterations_is_pinned(tmp_path: Path, name: str) -> None:
    if other := differences(ENVIRONMENT, declare(torch.get_num_threads(), CPU)):
        pytest.skip(f"pinned for another environment: {', '.join(other)}")
    folder = write_run(tmp_path / "run", CFGS[name])

    assert train_until(folder, 6).digest().hex() == DIGESTS[name]
