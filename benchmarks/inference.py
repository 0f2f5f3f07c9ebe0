"""Speed of detection, against onnxruntime and OpenCV's DNN on the same weights and picture.

    python -m benchmarks.inference [PART ...]      (or `make bench`; PARTS below)

forward     the net alone: a batch of one picture in, what the heads see out
picture     a picture in memory in, boxes out; all three prepare it and read the boxes alike
one_thread  forward on one thread, by processor time: also of use on a machine that is busy

The net is yolov3-tiny 416, of `shared` if it is there, else of random weights. Runs alternate
within one process; a ratio is that of the fastest runs of each, which what else the machine
does disturbs least. Each is followed by a pause, in which the others' threads fall asleep.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from relume.data.image import Pixels, read_picture
from relume.data.loaders import available_processors
from relume.detector import load_network
from relume.export.form import OLDEST_OPSET, Form
from relume.export.model import onnx_model
from relume.formats.cfg import read_cfg
from relume.formats.weights import format_weights
from relume.model.detect import decode, nms_sort, prepare_image
from relume.model.inference import run_fused
from relume.model.network import Network
from tests.cfg_texts import yolov3_tiny_cfg

SHARED = Path(__file__).resolve().parents[2] / "shared"
SIDE, CLASSES, THRESH = 416, 80, 0.25
PAUSE_S, ROUNDS, RUNS = 0.02, 40, 3
LIMIT = 1.03
Arrays = list[npt.NDArray[np.float32]]
Forward = Callable[[npt.NDArray[np.float32]], Arrays]
"""A batch of pictures -> what the heads see."""


def write_net(folder: Path) -> tuple[Path, Path]:
    """Return the paths of a cfg and of weights for it, written if need be."""
    model = SHARED / "models" / "yolov3-tiny" / "yolov3-tiny"
    if SHARED.is_dir():
        return model.with_suffix(".cfg"), model.with_suffix(".weights")
    cfg, weights = folder / "net.cfg", folder / "net.weights"
    cfg.write_text(yolov3_tiny_cfg(SIDE, SIDE, classes=CLASSES))
    read = read_cfg(str(cfg), "detect")
    tensors = Network(read, seed=1).darknet_arrays()
    arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
    for name, array in arrays.items():
        if name.endswith("rolling_variance"):
            array[...] = 1
    weights.write_bytes(format_weights(arrays, read, seen=0))
    return cfg, weights


def picture() -> Pixels:
    """Return a picture of 768x576."""
    path = SHARED / "images" / "dog.jpg"
    if path.is_file():
        return read_picture(path, 3).pixels
    return np.random.default_rng(0).integers(0, 256, (576, 768, 3), np.uint8)


def engines(folder: Path, threads: int) -> tuple[Network, Mapping[str, Forward]]:
    """Return the network, and by name what runs it; all give the same."""
    cfg_path, weights = write_net(folder)
    cfg = read_cfg(str(cfg_path), "detect")
    plain = load_network(cfg, str(weights))
    arrays = {name: tensor.numpy().copy() for name, tensor in plain.darknet_arrays().items()}
    # OpenCV reads no newer opset.
    model = onnx_model(plain.cfg, arrays, Form(raw=True, opset=OLDEST_OPSET))
    network = run_fused(plain)

    torch.set_num_threads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    cv2.setNumThreads(threads)
    dnn = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))
    heads = [output.name for output in session.get_outputs()]

    @torch.no_grad()
    def ours(images: npt.NDArray[np.float32]) -> Arrays:
        return [raw.numpy() for raw in network(torch.from_numpy(images))]

    def opencv(images: npt.NDArray[np.float32]) -> Arrays:
        dnn.setInput(images)
        return list(dnn.forward(heads))

    return network, {
        "relume": ours,
        "onnxruntime": lambda images: session.run(None, {name: images}),
        "OpenCV": opencv,
    }


def measure(
    what: str, runs: Mapping[str, Callable[[], object]], clock: Callable[[], float]
) -> None:
    """Run all in turns and print how long each takes, and ours against the faster other."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            time.sleep(PAUSE_S)
            for _ in range(RUNS):
                began = clock()
                run()
                times[name].append(1e3 * (clock() - began))
    best = {name: min(taken) for name, taken in times.items()}
    other = min((name for name in best if name != "relume"), key=best.__getitem__)
    shown = ", ".join(
        f"{name} {best[name]:.1f} ms (median {statistics.median(taken):.1f})"
        for name, taken in times.items()
    )
    ratio = best["relume"] / best[other]
    print(f"{what}: {shown}; {ratio:.3f} of {other} (to be at most {LIMIT})", flush=True)


def forward(threads: int = 0) -> None:
    """Measure the net alone."""
    threads = threads or available_processors()
    with tempfile.TemporaryDirectory(prefix="relume-bench-") as name:
        network, by_name = engines(Path(name), threads)
        images = prepare_image(picture(), network.cfg.net.width, network.cfg.net.height, False)
        batch = np.ascontiguousarray(images.numpy())
        check_same({name: run(batch) for name, run in by_name.items()})
        clock = time.process_time if threads == 1 else time.perf_counter
        runs = {name: partial(run, batch) for name, run in by_name.items()}
        measure(f"forward, {threads} threads" if threads > 1 else "forward, 1 thread", runs, clock)


def one_thread() -> None:
    """Measure the net alone on one thread."""
    forward(1)


def whole_picture() -> None:
    """Measure from a picture in memory to boxes."""
    pixels = picture()
    threads = available_processors()
    with tempfile.TemporaryDirectory(prefix="relume-bench-") as name:
        network, by_name = engines(Path(name), threads)
        net, heads = network.cfg.net, network.cfg.heads

        def boxes(run: Forward) -> int:
            images = prepare_image(pixels, net.width, net.height, False).numpy()
            raws = [torch.from_numpy(raw) for raw in run(images)]
            (found,) = decode(raws, heads, net.width, net.height, THRESH)
            return int(np.count_nonzero(nms_sort(found).probabilities))

        assert len({boxes(run) for run in by_name.values()}) == 1
        runs = {name: partial(boxes, run) for name, run in by_name.items()}
        measure(f"picture to boxes, {threads} threads", runs, time.perf_counter)


def check_same(by_name: Mapping[str, Arrays]) -> None:
    """Raise an error if one computes something else."""
    for name, raws in by_name.items():
        for one, other in zip(raws, by_name["relume"], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-2, err_msg=name)


PARTS: Mapping[str, Callable[[], None]] = {
    "forward": forward,
    "picture": whole_picture,
    "one_thread": one_thread,
}


def main() -> None:
    """Run the parts named on the command line, or all."""
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()


if __name__ == "__main__":
    main()
