"""cfg.py, keys.py, lexer.py and layer_shapes.py."""

import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relume.control_characters import escape_controls
from relume.errors import CfgError
from relume.formats import keys
from relume.formats.cfg import layer_sizes, parse_cfg, read_cfg, recipe_keys
from relume.formats.sections import (
    Cfg,
    Convolutional,
    Dropout,
    Maxpool,
    Route,
    Shortcut,
    Upsample,
    Yolo,
)
from tests.cfg_texts import small_cfg
from tests.formats.nets import FILTERS_LINE, LAYERS, NET, TEXT
from tests.shared import SHARED, needs_shared


def train(text: str) -> Cfg:
    return parse_cfg(text, "x.cfg", "train")


def refusal(text: str) -> str:
    with pytest.raises(CfgError) as error:
        train(text)
    return str(error.value)


def test_every_section_becomes_its_typed_value() -> None:
    cfg = train(TEXT)
    assert cfg.net.mini_batch == 2
    assert [type(layer) for layer in cfg.layers] == [
        Convolutional,
        Convolutional,
        Shortcut,
        Dropout,
        Maxpool,
        Upsample,
        Route,
        Convolutional,
        Yolo,
    ]
    assert cfg.layers[0] == Convolutional(
        line=9,
        filters=6,
        size=3,
        stride_x=2,
        stride_y=2,
        padding=1,
        activation="leaky",
        batch_normalize=True,
    )
    assert cfg.layers[2] == Shortcut(line=24, sources=(0,), activation="linear")
    assert cfg.layers[4] == Maxpool(line=30, size=2, stride_x=2, stride_y=2, padding=1)
    assert cfg.layers[6] == Route(line=37, layers=(5, 2), groups=2, group_id=1)
    assert cfg.heads[0].anchors_px == ((10, 14), (23, 27))
    assert cfg.channels == (6, 6, 6, 6, 6, 6, 6, 14, 14)


def test_sizes_of_layers_follow_the_input() -> None:
    sizes = layer_sizes(train(TEXT), 128, 96)
    assert sizes[0] == (6, 48, 64)
    assert sizes[4] == (6, 24, 32)
    assert sizes[8] == (14, 48, 64)


@pytest.mark.parametrize(
    ("section", "size"),
    [
        ("size=2\nstride=1", (20, 20)),
        ("size=2\nstride=2", (10, 10)),
        ("size=8\nstride=2", (10, 10)),
        ("size=13\nstride=1", (20, 20)),
        ("stride=2", (10, 10)),
        ("size=3\nstride=2\npadding=0", (9, 9)),
        ("size=3\nstride_x=2\nstride_y=1", (20, 10)),
    ],
)
def test_maxpool_sizes_are_darknets(section: str, size: tuple[int, int]) -> None:
    head = "[conv]\nfilters=6\nsize=1\n[yolo]\nclasses=1\nanchors=1,1\n"
    text = f"[net]\nwidth=20\nheight=20\nchannels=3\n[maxpool]\n{section}\n{head}"
    cfg = parse_cfg(text, "x.cfg", "detect")
    assert layer_sizes(cfg, 20, 20)[0][1:] == size


def test_spaces_comments_crlf_bom_and_aliases_change_nothing() -> None:
    rewritten = "\ufeff# a comment\r\n; another\r\n" + "".join(
        f"  {line.replace('=', ' =  ')} \t# said so\r\n" if line else "\r\n"
        for line in TEXT.replace("convolutional", "conv").replace("[net]", "[network]").split("\n")
    )
    rewritten = rewritten.replace("maxpool", "max")
    assert recipe_keys(train(rewritten)) == recipe_keys(train(TEXT))


def test_the_first_of_two_equal_keys_counts() -> None:
    assert train(TEXT.replace("batch=4\n", "batch=4\nbatch=8\n", 1)).net.batch == 4


def test_batch_is_rounded_down_to_whole_subdivisions() -> None:
    net = train(TEXT.replace("batch=4", "batch=7").replace("subdivisions=2", "subdivisions=3")).net
    assert (net.batch, net.written_batch, net.mini_batch) == (6, 7, 2)


@pytest.mark.parametrize("written", ["64", "64.", "64.0", "+64"])
def test_an_integer_may_be_written_with_a_point(written: str) -> None:
    assert train(TEXT.replace("width=64", f"width={written}")).net.width == 64


@pytest.mark.parametrize("written", ["6e1", "64px", "64.5", "x", "99999999999", "1_0", "٣", "nan"])
def test_a_value_that_is_no_integer_is_refused(written: str) -> None:
    message = refusal(TEXT.replace("width=64", f"width={written}"))
    assert message.startswith(f"x.cfg:4: [net] width={written}; width needs an integer")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "filters=14",
            "filters=15",
            f"x.cfg:{FILTERS_LINE}: [convolutional] filters=15, but the [yolo] below needs"
            " 14 = 2 masks * (2 classes + 5)",
        ),
        ("batch=4", "bacth=4", "x.cfg:2: [net] has no key 'bacth'; did you mean 'batch'?"),
        ("batch=4", "savelast=4", "x.cfg:2: [net] has no key 'savelast'; it is a key of the data"),
        ("[yolo]", "[yollo]", "[yollo] is no section of Darknet; did you mean 'yolo'?"),
        ("[yolo]", "[region]", "[region] is not supported yet"),
        ("[yolo]", "[yolo", "'[yolo' is no section"),
        ("mask=0,1", "mask=0,2", "mask=2; num=2: the anchors are 0..1"),
        ("mask=0,1", "mask=1,1", "twice"),
        ("mask=0,1", "mask=0,1,", "mask needs for every value an integer"),
        ("23,27", "23", "num=2, but anchors has 3 values; 4 are needed"),
        ("14, 23", "14  23", "a space stands inside the value of anchors"),
        ("from=-2", "from=-3", "[shortcut] from=-3 is no layer before this one (layer 2)"),
        ("from=-2", "from=2", "0..1 is"),
        ("from=-2", "activation=linear", "[shortcut] has no 'from'"),
        ("layers=-1,2", "layers=-1,4", "joins 32x16 with 16x8 (layer 4)"),
        ("layers=-1,2", "layers=7", "is no layer before"),
        ("groups=2\n", "groups=5\n", "equal groups are needed"),
        ("group_id=1", "group_id=2", "group_id=2 of groups=2"),
        ("groups=3", "groups=4", "groups=4 does not divide the 6 channels before it"),
        ("activation=mish", "activation=mich", "activation needs one of linear, leaky"),
        ("activation=mish", "activation=selu", "not supported yet"),
        ("subdivisions=2", "subdivisions=5", "batch=4 is less than subdivisions=5"),
        ("max_batches=10\n", "", "max_batches=0; training needs at least 1"),
        ("channels=3", "channels=4", "channels=4; pictures have 3"),
        ("width=64\n", "", "[net] has no width"),
        ("height=32", "height=0", "height needs an integer of at least 1"),
        ("batch=4", "batch", "'batch' has no value"),
        ("batch=4", "batch= # 4", "'batch=' has no value"),
        ("batch=4", "batch=4\npolicy=random", "policy=random is not supported"),
        ("batch=4", "batch=4\npolicy=often", "policy needs one of constant"),
        ("batch=4", "batch=4\npolicy=steps\nsteps=1,2\nscales=.1", "with 2 steps and 1 scales"),
        ("batch=4", "batch=4\nema_alpha=.9", "ema_alpha=.9 is not supported yet in training"),
        ("batch=4", "batch=4\nmosaic=1\nletter_box=1", "x.cfg:4: [net] letter_box=1 with mosaic=1"),
        ("batch=4", "batch=4\nletter_box=1\nmixup=3", "letter_box=1 with mosaic=1; one of the two"),
        ("batch=4", "batch=4\nmixup=5", "mixup needs an integer from 0 to 4"),
        ("batch=4", "batch=4\nblur=-1", "blur needs an integer of at least 0"),
        ("batch=4", "batch=4\ngaussian_noise=.5", "gaussian_noise needs an integer"),
        ("num=2", "num=2\nnew_coords=1", "new_coords=1 is not supported yet; only new_coords=0"),
        ("num=2", "num=2\niou_loss=ciou", "only iou_loss=mse is; remove the line"),
        ("num=2", "num=2\ncounters_per_class=1,2", "counters_per_class=1,2 is not supported yet"),
        ("num=2", "num=2\nrandom=.5", "random=0.5; 0 (one size)"),
        ("[dropout]\nprobability=.5", "[net]", "a second [net]"),
        ("probability=.5", "probability=1", "a number from 0 to 0.999999"),
        ("size=2\nstride=2", "size=99\nstride=2\npadding=1", "finds only 32x16 pixels"),
        (NET, "", "the first section is [convolutional]; a cfg begins with [net]"),
        (TEXT, NET, "x.cfg: holds no [yolo]"),
        (TEXT, "batch=1", "x.cfg:1: 'batch=1' stands before the first section"),
        (
            TEXT,
            "classes=3",
            "before the first section; a cfg begins with [net]; is it the data file",
        ),
        (TEXT, "", "x.cfg: holds no section"),
    ],
)
def test_a_mistake_is_named_with_its_line(old: str, new: str, message: str) -> None:
    assert message in refusal(TEXT.replace(old, new, 1))


def test_keys_of_training_are_no_obstacle_to_detection() -> None:
    text = TEXT.replace("num=2", "num=2\niou_loss=ciou\niou_thresh=.2\nmap=x")
    text = text.replace("batch=4", "batch=4\nmosaic=1\nletter_box=1\npolicy=random\nmax_batches=0")
    assert parse_cfg(text, "x.cfg", "detect").net.letter_box
    assert "not supported" in refusal(text)


@pytest.mark.parametrize(
    ("lines", "mixup", "mosaic", "ignored"),
    [
        ("mixup=1", True, False, ()),
        ("mixup=2", False, False, ("cutmix",)),
        ("mixup=3", False, True, ()),
        ("mixup=4", False, True, ("cutmix",)),
        ("mosaic=1", False, True, ()),
        ("cutmix=1", False, False, ("cutmix",)),
        ("cutmix=1\nmosaic=1", False, True, ("cutmix",)),
        ("mixup=1\nmosaic=1", False, True, ("mixup",)),
        ("mixup=1\ncutmix=1", False, False, ("cutmix", "mixup")),
        ("mixup=0\ncutmix=0\nmosaic=0", False, False, ()),
    ],
)
def test_the_keys_that_mix_pictures_mean_what_they_mean_to_a_detector_of_darknet(
    lines: str, mixup: bool, mosaic: bool, ignored: tuple[str, ...]
) -> None:
    cfg = train(TEXT.replace("batch=4", f"batch=4\n{lines}\nmosaic_bound=1"))

    net = cfg.net
    assert (net.mixup, net.mosaic, net.ignored) == (mixup, mosaic, ignored)
    assert net.mosaic_bound == mosaic
    keys = {key for key in recipe_keys(cfg) if "mix" in key or "mosaic" in key}
    expected = {"net.mosaic", "net.mosaic_bound"} if mosaic else {"net.mixup"} if mixup else set()
    assert keys == expected


def test_keys_without_effect_are_accepted_with_any_value() -> None:
    text = TEXT.replace("batch=4", "batch=4\nangle=7.5\nmax_crop=x").replace(
        "num=2", "num=2\ncls_normalizer=.25\nmax_delta=5\nlearning_rate=1"
    )
    assert recipe_keys(train(text)) == recipe_keys(train(TEXT))


def test_neutral_values_of_unsupported_keys_are_accepted() -> None:
    extra = "num=2\niou_loss=mse\nfocal_loss=0\niou_thresh=1.0\nstopbackward=0\nnew_coords=0"
    assert recipe_keys(train(TEXT.replace("num=2", extra))) == recipe_keys(train(TEXT))


def test_heads_of_different_classes_are_refused() -> None:
    second = "[route]\nlayers=6\n[conv]\nfilters=16\nsize=1\n[yolo]\nclasses=3\nnum=2\n"
    text = TEXT + second + "anchors=1,1,2,2\n"
    assert "classes=3, but the first [yolo] has 2" in refusal(text)


def test_a_shortcut_adds_sources_of_no_more_channels() -> None:
    text = TEXT.replace("filters=6\ngroups", "filters=9\ngroups")
    text = text.replace("layers=-1,2\ngroups=2", "layers=-1,2\ngroups=3")
    assert train(text).channels[2] == 9
    message = refusal(text.replace("filters=9", "filters=3"))
    assert "x.cfg:24: [shortcut] adds the 6 channels of layer 0 to 3" in message


def test_a_layer_may_not_take_the_output_of_a_head() -> None:
    assert "begin anew with [route]" in refusal(TEXT + "[upsample]\n")
    assert "takes the output of [yolo] (layer 8)" in refusal(TEXT + "[route]\nlayers=-1\n")


def test_a_size_that_does_not_fit_names_the_total_stride() -> None:
    deeper = "[maxpool]\nsize=2\nstride=2\npadding=0\n[upsample]\n[upsample]"
    text = TEXT.replace("[upsample]\nstride=2", deeper)
    train(text)
    assert "make width and height multiples of 8" in refusal(text.replace("width=64", "width=68"))


def test_multi_scale_sizes_must_fit_too() -> None:
    text = TEXT.replace("num=2", "num=2\nrandom=1").replace("width=64", "width=32")
    assert train(text).heads[-1].random == 1
    message = refusal(text.replace("batch=4", "batch=4\nresize_step=1"))
    assert "resize_step=1 with random lets the input be 33x33" in message


def test_a_dilated_convolution_must_keep_its_size() -> None:
    dilated = TEXT.replace("groups=3\n", "groups=3\ndilation=2\n")
    assert train(dilated).channels == train(TEXT).channels
    assert "dilation=2 with size=3 and padding=0" in refusal(
        dilated.replace("dilation=2\nsize=3\npad=1", "dilation=2\nsize=3")
    )


def test_recipe_keys_tell_what_differs_and_nothing_else() -> None:
    here = recipe_keys(train("\n\n" + TEXT))
    there = recipe_keys(
        train(
            TEXT.replace("filters=6\ngroups", "filters=12\ngroups", 1).replace("from=-2", "from=-1")
        )
    )
    assert here == recipe_keys(train(TEXT))
    assert {key for key in here if here[key] != there[key]} == {
        "1.convolutional.filters",
        "2.shortcut.sources",
    }
    assert here["net.batch"] == "4"


def test_a_message_is_one_short_line_whatever_the_file_holds() -> None:
    for hostile in ("k" * 9999 + "=1", "batch=" + "1" * 9999, "\v\u2028=\x1b[1m", "[" + "x" * 9999):
        message = refusal(TEXT.replace("batch=4", hostile, 1))
        assert len(message) < 250
        assert escape_controls(message) == message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CfgError, match="cannot be read"):
        read_cfg(tmp_path / "none.cfg", "train")


def test_a_weights_file_in_place_of_the_cfg_is_called_no_text(tmp_path: Path) -> None:
    path = tmp_path / "net.weights"
    path.write_bytes(bytes([0, 0, 0, 0, 2, 0, 0, 0]) + bytes(range(1, 256)))
    with pytest.raises(CfgError, match=r"net\.weights: is no text file; a cfg, .* in the order"):
        read_cfg(path, "detect")


def test_no_key_is_in_two_tables() -> None:
    for kind, read in keys.READ.items():
        tables = [read, keys.INERT.get(kind, ())]
        tables += [table.get(kind, ()) for table in (keys.NOT_IN_TRAINING, keys.NOT_AT_ALL)]
        if kind != "net":
            tables += [keys.NOT_IN_TRAINING["every layer"], keys.NOT_AT_ALL["every layer"]]
        assert sum(len(table) for table in tables) == len(set().union(*tables))


PIECES = st.sampled_from([*TEXT.split("\n"), "from=9", "layers=-9,0", "size=99", "groups=0", "="])


@given(st.lists(PIECES | st.text(max_size=20), max_size=40).map("\n".join))
def test_hostile_text_is_parsed_or_refused(text: str) -> None:
    for whole in (text, NET + text, NET + LAYERS + text):
        with suppress(CfgError):
            train(whole)


@given(st.binary(max_size=200))
def test_hostile_bytes_are_parsed_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("cfg") / "x.cfg"
    path.write_bytes(data)
    with pytest.raises(CfgError):
        read_cfg(path, "detect")


@needs_shared
@pytest.mark.parametrize("name", ["yolov3-tiny", "yoloface-50k", "yolo-fastest-1.1"])
def test_published_models_can_be_used_for_detection(name: str) -> None:
    cfg = read_cfg(SHARED / "models" / name / f"{name}.cfg", "detect")
    assert len(cfg.layers) == {"yolov3-tiny": 24, "yoloface-50k": 34, "yolo-fastest-1.1": 131}[name]


@needs_shared
def test_golden_nets_can_be_trained() -> None:
    paths = sorted((SHARED / "golden" / "train").glob("*.cfg"))
    assert [len(read_cfg(path, "train").layers) for path in paths] == [32, 23, 23]


DEBIAN = Path("/usr/share/darknet/cfg")


@pytest.mark.darknet
@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package darknet")
@pytest.mark.parametrize(
    ("name", "layers", "last"),
    [
        ("yolov3-spp", 114, (255, 76, 76)),
        ("yolov3-tiny", 24, (255, 26, 26)),
    ],
)
def test_darknets_own_cfgs_can_be_trained(
    name: str, layers: int, last: tuple[int, int, int]
) -> None:
    cfg = read_cfg(DEBIAN / f"{name}.cfg", "train")
    assert len(cfg.layers) == layers
    sizes = layer_sizes(cfg, cfg.net.width, cfg.net.height)
    assert sizes[-1] == last
    # "  2 conv     32  3 x 3 / 1   208 x 208 x  16   ->   208 x 208 x  32  0.399 BFLOPs"
    printed = subprocess.run(
        ["darknet", "ops", DEBIAN / f"{name}.cfg"], check=True, capture_output=True, text=True
    ).stderr
    rows = re.findall(r"^ *(\d+) .*-> *(\d+) x *(\d+) x *(\d+)", printed, re.MULTILINE)
    assert len(rows) > 0.8 * layers
    for layer, width, height, channels in (map(int, row) for row in rows):
        assert sizes[layer] == (channels, height, width)


def test_batch_norm_over_a_single_value_cannot_be_trained() -> None:
    text = small_cfg(size=16, batch=1, subdivisions=1)

    with pytest.raises(CfgError, match=r"batch_normalize=1 over one picture of 1x1; more than one"):
        parse_cfg(text, "net.cfg", "train")

    assert parse_cfg(text, "net.cfg", "detect").net.batch == 1


@pytest.mark.parametrize("resize", ["1e9", "11", ".01"])
def test_a_resize_whose_border_fits_no_memory_is_refused(resize: str) -> None:
    message = refusal(small_cfg(yolo={"resize": resize}))

    assert f"resize={resize}; resize needs a number from 0.1 to 10" in message
