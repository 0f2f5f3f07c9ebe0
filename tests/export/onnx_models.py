"""Exported models beside our own network: the same weights, the same pictures."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor

from relume.export.form import Form
from relume.export.model import onnx_model
from relume.formats.sections import Cfg
from relume.model.network import Network, fold_batch_norm

Arrays = dict[str, npt.NDArray[np.float32]]
Outputs = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Both:
    """One set of weights, as our network and as what a model is made of."""

    network: Network
    cfg: Cfg
    arrays: Arrays

    def model(self, form: Form) -> bytes:
        """Return the bytes of the model, after ONNX's own checks."""
        data = onnx_model(self.cfg, self.arrays, form)
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        return data

    def raws(self, images: Tensor) -> list[npt.NDArray[np.float32]]:
        """Return what our heads see."""
        with torch.no_grad():
            return [raw.numpy() for raw in self.network(images)]


def both(network: Network) -> Both:
    """Fold a network's batch norm and take its arrays."""
    folded = fold_batch_norm(network.eval())
    arrays = {name: tensor.numpy() for name, tensor in folded.darknet_arrays().items()}
    return Both(folded, folded.cfg, arrays)


def run(data: bytes, images: Tensor) -> Outputs:
    """Return what onnxruntime makes of a model; it must not warn."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 2
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images.numpy()}), strict=True))
