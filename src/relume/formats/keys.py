"""Which keys a cfg section may hold, and how their values are read.

Every key of AlexeyAB's fork (and of the original) is in exactly one of four tables:
READ has an effect and is converted; INERT has no effect on a detector trained or run here;
NOT_IN_TRAINING and NOT_AT_ALL have an effect that is not supported yet, so they are errors
unless they hold their neutral value (None: there is none).

Deliberate differences from Darknet's atoi and atof: text that is no number is an error, and
so is an integer written `1e3` (atoi: 1); `64.0` is a fine 64.
"""

import math
import re
from collections.abc import Callable, Mapping

Converter = Callable[[str], object]
Neutral = float | str | None

_INTEGER = re.compile(r"[+-]?[0-9]+(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST = 2**31 - 1
_LARGEST_FLOAT = 3.4028234663852886e38
"""Darknet's numbers are float32."""


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text: tables read better without quotes and commas."""
    return tuple(text.split())


ACTIVATIONS = ("linear", "leaky", "logistic", "relu", "mish", "swish")
OTHER_ACTIVATIONS = words(
    "loggy relu6 elu selu gelu relie ramp plse hardtan lhtan stair tanh revleaky hard_mish "
    "normalize_channels normalize_channels_softmax normalize_channels_softmax_maxval"
)
POLICIES = ("constant", "step", "steps", "exp", "poly", "sigmoid", "sgdr", "random")


def integer(low: int = -_LARGEST, high: int = _LARGEST) -> Callable[[str], int]:
    """Return a converter for one integer in low..high."""

    def convert(text: str) -> int:
        # 15 characters hold every allowed number and keep int() cheap on hostile text.
        if len(text) > 15 or not _INTEGER.fullmatch(text):
            raise ValueError("an integer")
        value = int(text.partition(".")[0])
        if not low <= value <= high:
            raise ValueError(_interval("an integer", low, high))
        return value

    return convert


def number(low: float = -_LARGEST_FLOAT, high: float = _LARGEST_FLOAT) -> Callable[[str], float]:
    """Return a converter for one finite number in low..high."""

    def convert(text: str) -> float:
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError(_interval("a number", low, high))
        return value

    return convert


def flag(text: str) -> bool:
    """Convert 0 to False and any other integer to True."""
    return integer()(text) != 0


def several(convert: Converter) -> Converter:
    """Return a converter for values separated by commas, as a tuple."""

    def convert_all(text: str) -> tuple[object, ...]:
        try:
            return tuple(convert(part) for part in text.split(","))
        except ValueError as error:
            raise ValueError(f"for every value {error}, separated by commas") from None

    return convert_all


def word(supported: tuple[str, ...], known: tuple[str, ...] = ()) -> Converter:
    """Return a converter for one of a few words; `known` are Darknet's others."""

    def convert(text: str) -> str:
        if text in known:
            raise ValueError(f"another value: this one is not supported yet, {_any_of(supported)}")
        if text not in supported:
            raise ValueError(_any_of(supported))
        return text

    return convert


def _any_of(words: tuple[str, ...]) -> str:
    return f"one of {', '.join(words)}"


def _interval(what: str, low: float, high: float) -> str:
    if low == _POSITIVE:
        return f"{what} above 0"
    if abs(low) < _LARGEST and abs(high) < _LARGEST:
        return f"{what} from {low} to {high}"
    if abs(low) < _LARGEST:
        return f"{what} of at least {low}"
    return f"{what} that is finite and fits" if what == "a number" else f"{what} of 32 bits"


_POSITIVE = 1e-30
_BELOW_ONE = 0.999999
_ACTIVATION = word(ACTIVATIONS, OTHER_ACTIVATIONS)

READ: Mapping[str, Mapping[str, Converter]] = {
    "net": {
        "batch": integer(1),
        "subdivisions": integer(1),
        "width": integer(1),
        "height": integer(1),
        "channels": integer(1),
        "learning_rate": number(),
        "learning_rate_min": number(),
        "momentum": number(0, 1),
        "decay": number(0),
        "max_batches": integer(0),
        "burn_in": integer(0),
        "power": number(),
        "policy": word(POLICIES),
        "step": integer(1),
        "scale": number(),
        "steps": several(integer(0)),
        "scales": several(number()),
        "gamma": number(),
        "sgdr_cycle": integer(1),
        "sgdr_mult": integer(1),
        "adam": flag,
        "B1": number(0, _BELOW_ONE),
        "B2": number(0, _BELOW_ONE),
        "eps": number(0),
        "saturation": number(_POSITIVE),
        "exposure": number(_POSITIVE),
        "hue": number(0),
        "flip": flag,
        "resize_step": integer(1),
        "letter_box": flag,
        "blur": integer(0),
        "gaussian_noise": integer(0),
        "mixup": integer(0, 4),
        "cutmix": flag,
        "mosaic": flag,
        "mosaic_bound": flag,
    },
    "convolutional": {
        "filters": integer(1),
        "size": integer(1),
        "stride": integer(1),
        "stride_x": integer(1),
        "stride_y": integer(1),
        "groups": integer(1),
        "dilation": integer(1),
        "pad": flag,
        "padding": integer(0),
        "activation": _ACTIVATION,
        "batch_normalize": integer(0, 1),
        "learning_rate": number(),
    },
    "maxpool": {
        "size": integer(1),
        "stride": integer(1),
        "stride_x": integer(1),
        "stride_y": integer(1),
        "padding": integer(0),
    },
    "upsample": {"stride": integer(1)},
    "route": {"layers": several(integer()), "groups": integer(1), "group_id": integer(0)},
    "shortcut": {"from": several(integer()), "activation": _ACTIVATION},
    "dropout": {"probability": number(0, _BELOW_ONE)},
    "yolo": {
        "classes": integer(1),
        "num": integer(1, 1000),
        "mask": several(integer(0)),
        "anchors": several(number(_POSITIVE)),
        "max": integer(1),
        "jitter": number(0, 1),
        "resize": number(0.1, 10),
        "ignore_thresh": number(),
        "truth_thresh": number(),
        "random": number(0, 1000),
        "scale_x_y": number(_POSITIVE),
        "iou_normalizer": number(),
        "obj_normalizer": number(),
        "nms_kind": word(("default", "greedynms", "diounms")),
        "beta_nms": number(),
    },
}

# Keys of the classifier, of displays, of GPU memory, and keys whose master switch is off.
INERT: Mapping[str, tuple[str, ...]] = {
    "net": words(
        "angle aspect max_crop min_crop label_smooth_eps random max_ratio min_ratio center "
        "max_chart_loss show_receptive_field optimized_memory workspace_size_limit_MB "
        "use_cuda_graph loss_scale augment_speed sequential_subdivisions "
        "contrastive_jit_flip contrastive_color"
    ),
    "convolutional": words("angle stream wait_stream"),
    "maxpool": words("out_channels"),
    "route": words("stream wait_stream"),
    "shortcut": words("weights_normalization"),
    "dropout": words("dropblock_size_rel dropblock_size_abs"),
    # cls_normalizer acts with counters_per_class only, max_delta on IoU losses only.
    "yolo": words(
        "show_details cls_normalizer max_delta iou_thresh_kind track_history_size sim_thresh "
        "dets_for_track dets_for_show track_ciou_norm"
    ),
}

NOT_IN_TRAINING: Mapping[str, Mapping[str, Neutral]] = {
    "net": {
        "seq_scales": None,
        "track": 0,
        "contrastive": 0,
        "unsupervised": 0,
        "ema_alpha": 0,
        "weights_reject_freq": 0,
        "equidistant_point": 0,
        "badlabels_rejection_percentage": 0,
        "num_sigmas_reject_badlabels": 0,
        "attention": 0,
        "adversarial_lr": 0,
        "try_fix_nan": 0,
        "dynamic_minibatch": 0,
        "clip": 0,
        "notruth": 0,
    },
    "convolutional": {"cbn": 0, "dot": 0, "grad_centr": 0, "assisted_excitation": 0},
    "dropout": {"dropblock": 0},
    "yolo": {
        "iou_loss": "mse",
        "iou_thresh": 1,
        "objectness_smooth": 0,
        "delta_normalizer": 1,
        "label_smooth_eps": 0,
        "focal_loss": 0,
        "counters_per_class": None,
        "map": None,
    },
    "every layer": {
        "clip": 0,
        "onlyforward": 0,
        "dont_update": 0,
        "burnin_update": 0,
        "stopbackward": 0,
        "train_only_bn": 0,
        "truth": 0,
        "smooth": 0,
    },
}

NOT_AT_ALL: Mapping[str, Mapping[str, Neutral]] = {
    "net": {"time_steps": 1, "inputs": None},
    "convolutional": {
        "binary": 0,
        "xnor": 0,
        "bin_output": 0,
        "antialiasing": 0,
        "flipped": 0,
        "sway": 0,
        "rotate": 0,
        "stretch": 0,
        "stretch_sway": 0,
        "reverse": 0,
        "coordconv": 0,
        "share_index": None,
    },
    "maxpool": {"maxpool_depth": 0, "antialiasing": 0, "maxpool_zero_nonmax": 0},
    "upsample": {"scale": 1},
    "shortcut": {"weights_type": "none", "alpha": 1, "beta": 1},
    "yolo": {"new_coords": 0, "embedding_layer": None},
    "every layer": {"dontload": 0, "dontloadscales": 0, "dontsave": 0, "numload": 0},
}

ALIASES: Mapping[str, str] = {"network": "net", "conv": "convolutional", "max": "maxpool"}

OTHER_SECTIONS = words(
    "local_avgpool local_avg avgpool avg reorg reorg3d reorg_old connected conn softmax soft cost "
    "batchnorm lrn normalization local activation crop detection sam scale_channels crnn rnn gru "
    "lstm conv_lstm history implicit contrastive empty silence deconvolutional logistic l2norm "
    "iseg Gaussian_yolo region flatten extra"
)


def known_keys(kind: str) -> set[str]:
    """Return every key that Darknet reads in a section of this kind."""
    known = {*READ[kind], *INERT.get(kind, ())}
    known |= {*NOT_IN_TRAINING.get(kind, ()), *NOT_AT_ALL.get(kind, ())}
    if kind != "net":
        known |= {*NOT_IN_TRAINING["every layer"], *NOT_AT_ALL["every layer"], "learning_rate"}
    return known


def unsupported_keys(kind: str, training: bool) -> dict[str, Neutral]:
    """Return the keys that are errors in this section unless they hold the value given."""
    tables = [NOT_AT_ALL, NOT_IN_TRAINING] if training else [NOT_AT_ALL]
    kinds = [kind] if kind == "net" else ["every layer", kind]
    found: dict[str, Neutral] = {}
    for table in tables:
        for name in kinds:
            found.update(table.get(name, {}))
    return found


def is_neutral(text: str, neutral: Neutral) -> bool:
    """Tell whether a value changes nothing."""
    if isinstance(neutral, str) or neutral is None:
        return text == neutral
    return bool(_NUMBER.fullmatch(text)) and float(text) == neutral
