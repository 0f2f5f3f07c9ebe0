"""The numbers of a small run are pinned: who changes one must raise NUMERICS.

The digests hold for one set of libraries, and for some processors and kernels, of which each has
its own; elsewhere the test is skipped and says why.
"""

from pathlib import Path

import pytest
import torch

from relume.kernels import PORTABLE
from relume.train.environment import declare, differences
from tests.contract.small_runs import CPU, adam_cfg, sgd_cfg, train_until, write_run

LIBRARIES = {
    "numerics": "3",
    "torch": "2.13.0+cpu",
    "numpy": "2.4.6",
    "opencv": "4.14.0",
    "libc": "glibc 2.36",
    "threads": "1",
}
DIGESTS = {
    ("AMD EPYC", "AVX512"): {
        "sgd": "ad1393e63275ef04a2c751cc5bd4fcc8",
        "adam": "4a38a2ca619aaaf964cb3323b4e183aa",
        "mixup": "627cab6d39cefef422bf51b1de357c35",
        "mosaic": "2d91f868ca820284974e6f13f0ddd3e7",
    },
    ("AMD EPYC", "AVX2"): {
        "sgd": "4f051082519ec3e3919fdb02fb927b1c",
        "adam": "63e842b68e7a445dc79182a7186e1cfa",
        "mixup": "b759c9f6a56cae60f4115b1c035e6381",
        "mosaic": "0f6d75f64487319c6ab5d5c9a134734a",
    },
    ("any of x86-64-v3", PORTABLE): {
        "sgd": "ecac9079e9e4b0f4f71cab5a5cdc0ea3",
        "adam": "43ff673fbb812ec0b6df97bcd28183af",
        "mixup": "4700336c724a1c809862673a44296726",
        "mosaic": "05b8f2d6156d2e55ebd6404b400f1e35",
    },
}
"""By processor and kernels: the bits are theirs."""
EFFECTS = {"blur": 3, "gaussian_noise": 20}
CFGS = {
    "sgd": sgd_cfg(),
    "adam": adam_cfg(),
    "mixup": sgd_cfg(mixup=1, letter_box=1, **EFFECTS),
    "mosaic": sgd_cfg(mosaic=1, mosaic_bound=1, **EFFECTS),
}


@pytest.mark.parametrize("name", CFGS)
def test_the_state_after_six_iterations_is_pinned(tmp_path: Path, name: str) -> None:
    environment = declare(torch.get_num_threads(), CPU)
    machine = (environment.pop("processor"), environment.pop("kernels"))
    if other := differences(LIBRARIES, environment):
        pytest.skip(f"pinned for another environment: {', '.join(other)}")
    if machine not in DIGESTS:
        pytest.skip(f"pinned for other processors than {', '.join(machine)}")
    folder = write_run(tmp_path / "run", CFGS[name])

    assert train_until(folder, 6).digest().hex() == DIGESTS[machine][name]
