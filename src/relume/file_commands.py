"""The commands on weights files and on the files of a run."""

from relume.command import Command, Flag

FORCE = Flag(bool, "replace OUT if it is there")

FILE_COMMANDS = (
    Command(
        "export",
        ("CFG", "WEIGHTS", "OUT"),
        "Write a trained net as an ONNX model: boxes and probabilities of every cell and anchor, "
        "or as the flags say. Batch norm is folded.",
        "relume export yolov3-tiny.cfg backup/yolov3-tiny_final.weights yolov3-tiny.onnx -nms .45",
        "relume.commands.export:export",
        {
            "-raw": Flag(bool, "give what the heads see, before any activation"),
            "-nms": Flag(
                float,
                "give detections: class by class, what overlaps a more probable one by more than F "
                "is dropped; Darknet's is .45",
                "F",
            ),
            "-thresh": Flag(float, "with -nms: smallest confidence (default .25)", "F"),
            "-max_boxes": Flag(int, "with -nms: of a class in a picture (default: all)", "N"),
            "-batch": Flag(int, "pictures at once (default 1); 0: any number", "N"),
            "-width": Flag(int, "of the input (default as in CFG)", "W"),
            "-height": Flag(int, "of the input (default as in CFG)", "H"),
            "-names": Flag(str, "names of the classes, kept in the model", "NAMES"),
            "-opset": Flag(int, "of ONNX, for older runtimes: from 18 (default: newest)", "N"),
            "-force": FORCE,
        },
        more="The input is RGB, 0 to 1, [pictures, channels, height, width], stretched to that "
        "size (letter-boxed if CFG says letter_box=1). Boxes are centre x, centre y, width, "
        "height, relative to it; probabilities are objectness * class. Needs the package onnx: "
        "pip install onnx.",
    ),
    Command(
        "partial",
        ("CFG", "WEIGHTS", "OUT", "N"),
        "Write the first N layers of WEIGHTS to OUT: a start for training another net.",
        "relume partial yolov3-tiny.cfg yolov3-tiny.weights yolov3-tiny.conv.15 15",
        "relume.commands.files:partial",
        {"-force": FORCE},
    ),
    Command(
        "strip",
        ("WEIGHTS", "OUT"),
        "Write the plain weights of a checkpoint, without its training state: what Darknet would "
        "write.",
        "relume strip backup/yolov3_1000.weights yolov3_1000.weights",
        "relume.commands.weights_files:strip",
        {"-force": FORCE},
        more="Only the weights are read, so they can be had of a checkpoint that is damaged "
        "behind them.",
    ),
    Command(
        "average",
        ("CFG", "OUT", "WEIGHTS", "[...]"),
        "Write the mean of several weights files of one net, batch-norm statistics included, as "
        "plain weights; the images seen are those of the first.",
        "relume average yolov3.cfg mean.weights backup/yolov3_9000.weights "
        "backup/yolov3_10000.weights",
        "relume.commands.weights_files:average",
        {"-force": FORCE},
    ),
    Command(
        "statistics",
        ("CFG", "WEIGHTS"),
        "Tell of every array of every convolutional layer the root of the mean square (MSE, as "
        "Darknet calls it), the mean and the variance.",
        "relume statistics yolov3.cfg backup/yolov3_final.weights",
        "relume.commands.weights_files:statistics",
    ),
    Command(
        "compare",
        ("A", "B", "[CFG]"),
        "Compare two weights files or checkpoints and name the first tensor that differs; "
        "between plain files that takes the CFG. Of two files of -tensor_digests, name the first "
        "iteration too. Exit status 0: same; 1: different; 2: trouble.",
        "relume compare backup/yolov3_last.weights other/yolov3_last.weights",
        "relume.commands.files:compare",
    ),
    Command(
        "inspect",
        ("FILE|BACKUP", "[CFG]"),
        "Say what is in a weights file, and whether it is intact. A plain file needs its CFG.",
        "relume inspect backup/yolov3_last.weights",
        "relume.commands.files:inspect",
        {
            "-finished": Flag(
                bool,
                "say whether the run in the folder BACKUP (that of CFG, where there are several) "
                "is finished. Exit status 0: it is; 75: the same command goes on; 2: trouble",
            )
        },
    ),
    Command(
        "verify",
        ("FILE|FOLDER", "[...]"),
        "Check every byte of checkpoints; of a folder, say which one a start would take. Exit "
        "status 0: all intact; 1: some damaged, but a good one is there; 2: nothing usable.",
        "relume verify backup",
        "relume.commands.verify:verify",
        {"-json": Flag(bool, "print the findings as JSON")},
    ),
    Command(
        "reset",
        ("DATA", "CFG"),
        "Move the files of a run aside, so that the next start is a new run.",
        "relume reset data/obj.data yolov3.cfg",
        "relume.commands.files:reset",
    ),
    Command(
        "rewind",
        ("FILE",),
        "Go back to a checkpoint: move the newer ones of its run aside.",
        "relume rewind backup/yolov3_1000.weights",
        "relume.commands.files:rewind",
    ),
)
