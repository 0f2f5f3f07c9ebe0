"""Every command of the command line.

Not covered: how a command line is read (cli.py).
"""

from relume.command import Command, Flag, Kind, Value, Values
from relume.file_commands import FILE_COMMANDS

__all__ = [
    "COMMANDS", "Command", "Flag", "Kind", "Value", "Values",
]  # fmt: skip

IMPORT_FLAGS = {
    "-images": Flag(str, "where the pictures are, if not where the form has them", "FOLDER"),
    "-names": Flag(str, "names of the classes in the order wanted, one a line", "NAMES"),
    "-sizes": Flag(str, "where a picture's size differs: that of picture or annotation", "WHICH"),
    "-out": Flag(str, "folder of lists, names and data file (default: that given)", "FOLDER"),
    "-force": Flag(bool, "replace files that are there"),
}
SEED = Flag(int, "random seed of the run; goes before seed= of the data file", "N")
CLEAR = Flag(bool, "take WEIGHTS as a start: iteration 0, no momentum")
ALLOW_CHANGE = Flag(bool, "go on although settings differ from the checkpoint's")
THREADS = Flag(int, "compute threads, part of the run (default: all)", "N")
WORKERS = Flag(int, "loading threads (default 2); changes no number", "N")
PORTABLE = Flag(bool, "begin a run that goes on exactly on any x86-64-v3 processor")
DONT_SHOW = Flag(bool, "accepted for Darknet's sake; relume opens no window")
EVALUATION = {
    "-map": Flag(
        bool,
        "measure the mean average precision on DATA's list 'valid' now and then; NAME_best.weights "
        "is the state with the best",
    ),
    "-mAP_epochs": Flag(
        int, "with -map: every so many epochs, but at least 100 iterations (4)", "N"
    ),
    "-thresh": Flag(
        float, "with -map: confidence above which TP and FP are counted (.25), not mAP", "F"
    ),
    "-iou_thresh": Flag(float, "with -map: overlap by which a truth is found (.5)", "F"),
}
GPU = Flag(int, "GPU to use (default 0, where PyTorch finds one)", "N")
NOGPU = Flag(bool, "use the CPU even where there is a GPU")
JSON = Flag(bool, "print the result as JSON")
EVALUATION_FLAGS = {
    "-letter_box": Flag(bool, "keep the pictures' shape instead of stretching them"),
    "-workers": WORKERS,
    "-dont_show": DONT_SHOW,
    "-i": GPU,
    "-nogpu": NOGPU,
}

COMMANDS = (
    Command(
        "detector train",
        ("DATA", "CFG", "[WEIGHTS]"),
        "Train a detector. The same command again goes on where the last one stopped.",
        "relume detector train data/obj.data yolov3-tiny.cfg yolov3-tiny.conv.15",
        "relume.commands.train:train",
        {
            "-clear": Flag(bool, CLEAR.text + "; a run in backup goes on all the same"),
            "-resume": Flag(bool, "go on from the newest good checkpoint, whatever WEIGHTS says"),
            "-allow-change": ALLOW_CHANGE,
            "-exact": Flag(bool, "refuse to go on where the same bits cannot be promised"),
            "-seed": SEED,
            "-threads": THREADS,
            "-workers": WORKERS,
            "-max_time": Flag(
                str,
                "stop after T seconds, or H:MM:SS, from the command's start: ends the subdivision "
                "under way, saves, exit status 75",
                "T",
            ),
            "-tensor_digests": Flag(
                str, "add a line per iteration with the digest of every tensor", "FILE"
            ),
            "-portable": PORTABLE,
            **EVALUATION,
            "-dont_show": DONT_SHOW,
            "-i": GPU,
            "-gpus": Flag(
                str,
                "train with a process on each of these GPUs (with -nogpu: as many processes on the "
                "processor); the same bits as with one",
                "0,1,2",
            ),
            "-peer_timeout": Flag(
                int,
                "of several machines: one that gives no sign of life for S seconds counts as lost "
                "(60)",
                "S",
            ),
            "-nogpu": NOGPU,
        },
        more="Keys of DATA for saving: savelast = auto, or N iterations; "
        "savebudget = gigabytes a day at most, with auto (100); saveweights = iterations from one "
        "milestone to the next; keepstate = K, milestones that a run can go on from (all). For "
        "pictures: bad = stop, or skip those that cannot be decoded; sampling = epoch, or "
        "replacement; max_pixels = of a picture (268435456), more is an error; "
        "cache = folder of what can be had again; cache_gb = of remote files (20). "
        "For -map: valid = the list to measure on (train); patience = evaluations without a better "
        "mAP after which the run is finished (none). "
        "Exit status 0: finished; 75: stopped, the same command goes on; 2: a mistake in the "
        "input; 1: not finite.",
        before="relume.kernels:recreate",
    ),
    Command(
        "detector test",
        ("DATA", "CFG", "WEIGHTS", "[IMAGE|LIST|FOLDER]", "[...]"),
        "Find objects in a picture (or in those named on standard input) and draw them into "
        "predictions.jpg; of several, of a list (*.txt) or a folder, into predictions/NAME.jpg. "
        "Exit status 0: done; 2: a mistake in the input, or a picture that cannot be read.",
        "relume detector test data/obj.data yolov3-tiny.cfg backup/yolov3-tiny_last.weights a.jpg",
        "relume.commands.detect:test",
        {
            "-thresh": Flag(float, "smallest confidence (default .25)", "F"),
            "-ext_output": Flag(bool, "print the boxes too"),
            "-out": Flag(str, "write the detections as JSON; replaces only such", "FILE"),
            "-out_folder": Flag(str, "draw each picture into this folder, as NAME.jpg", "FOLDER"),
            "-dont_draw": Flag(bool, "draw no picture"),
            "-save_labels": Flag(bool, "write NAME.txt beside each picture, as labels to train on"),
            "-force": Flag(bool, "replace labels, and pictures not drawn by relume"),
            "-letter_box": Flag(bool, "keep the picture's shape instead of stretching it"),
            "-dont_show": DONT_SHOW,
            "-i": GPU,
            "-nogpu": NOGPU,
        },
    ),
    Command(
        "detector demo",
        ("DATA", "CFG", "WEIGHTS", "[VIDEO]"),
        "Find objects in the frames of a video file, a stream (rtsp://...) or a camera. It opens "
        "no window: give where the frames go. Ctrl-C ends it and finishes the video.",
        "relume detector demo obj.data net.cfg net.weights in.mp4 -out_filename out.mp4",
        "relume.commands.demo:demo",
        {
            "-out_filename": Flag(str, "write a video: .avi, .mp4, .m4v, .mov or .mkv", "FILE"),
            "-prefix": Flag(str, "write each frame to PREFIX_00000001.jpg and so on", "PREFIX"),
            "-json_file_output": Flag(
                str, "write the detections as JSON; replaces only such", "FILE"
            ),
            "-c": Flag(int, "number of the camera, if there is no VIDEO (default 0)", "N"),
            "-thresh": Flag(float, "smallest confidence (default .25)", "F"),
            "-ext_output": Flag(bool, "print the boxes too"),
            "-dontdraw_bbox": Flag(bool, "write the frames as they are"),
            "-time_limit_sec": Flag(float, "end after T seconds", "T"),
            "-force": Flag(bool, "replace a video, or pictures of PREFIX, that are there"),
            "-letter_box": Flag(bool, "keep the frame's shape instead of stretching it"),
            "-dont_show": Flag(bool, "print the lines even if nothing is written"),
            "-i": GPU,
            "-nogpu": NOGPU,
        },
    ),
    Command(
        "detector map",
        ("DATA", "CFG", "WEIGHTS"),
        "Measure how well the objects in the pictures of DATA's list 'valid' are found: average "
        "precision of every class, true and false positives, precision, recall, F1, IoU. Exit "
        "status 2 if a picture cannot be read; the others are measured.",
        "relume detector map data/obj.data yolov3-tiny.cfg backup/yolov3-tiny_final.weights",
        "relume.commands.measure:measure_map",
        {
            "-thresh": Flag(
                float,
                "confidence above which TP, FP and what follows from them are counted (.25); "
                "average precision takes all above .005",
                "F",
            ),
            "-iou_thresh": Flag(float, "overlap above which an object is found (.5)", "F"),
            "-points": Flag(
                int, "0: area under the curve (default); 11: as VOC 2007; 101: as COCO", "N"
            ),
            "-coco": Flag(bool, "COCO's twelve figures instead (pip install faster-coco-eval)"),
            "-json": JSON,
            **EVALUATION_FLAGS,
        },
        more="'difficult' in DATA names a list of as many pictures, whose labels are objects that "
        "may be found or not.",
    ),
    Command(
        "detector valid",
        ("DATA", "CFG", "WEIGHTS"),
        "Detect in the pictures of DATA's list 'valid' and write what is found for other programs "
        "into the folder 'results' of DATA: comp4_det_test_CLASS.txt as PASCAL VOC has it, or "
        "with eval = coco in DATA coco_results.json: all above a confidence of .001.",
        "relume detector valid data/obj.data yolov3-tiny.cfg backup/yolov3-tiny_final.weights",
        "relume.commands.valid:valid",
        {
            "-out": Flag(str, "in place of comp4_det_test_ or coco_results", "NAME"),
            "-force": Flag(bool, "replace files of these names that hold something else"),
            **EVALUATION_FLAGS,
        },
    ),
    Command(
        "detector recall",
        ("DATA", "CFG", "WEIGHTS"),
        "Count how many objects in the pictures of DATA's list 'valid' some box covers, whatever "
        "its class: a line after every picture, of all so far. Boxes of an objectness "
        "above .001 count; they cover what they overlap with an IoU above .5.",
        "relume detector recall data/obj.data yolov3-tiny.cfg backup/yolov3-tiny_final.weights",
        "relume.commands.measure:recall",
        {"-json": JSON, **EVALUATION_FLAGS},
    ),
    Command(
        "detector calc_anchors",
        ("DATA",),
        "Find anchors that fit the boxes of DATA's train list: k-means by IoU, from several "
        "starts of k-means++. Writes anchors.txt, counters_per_class.txt and a picture of the "
        "clusters, cloud.png, into the current folder.",
        "relume detector calc_anchors data/obj.data -num_of_clusters 9 -width 416 -height 416",
        "relume.commands.anchors:calc_anchors",
        {
            "-num_of_clusters": Flag(int, "anchors (default 5)", "N"),
            "-width": Flag(int, "of the network's input, as in the cfg; needed", "W"),
            "-height": Flag(int, "of the network's input, as in the cfg; needed", "H"),
            "-seed": Flag(int, "seed of the starts; goes before seed= of the data file", "N"),
            "-force": Flag(bool, "replace files of these names that hold something else"),
            "-show": Flag(bool, "accepted for Darknet's sake; the picture is written anyway"),
            "-dont_show": DONT_SHOW,
        },
        more="Put the anchors into every [yolo] of the cfg, with num = N; relume make-cfg does "
        "that by itself.",
    ),
    Command(
        "split",
        ("DATA|FOLDER|LIST", "[...]"),
        "Write train.txt and valid.txt, beside the first of the given, for all pictures of data "
        "files, folders or lists: by content, with the same fraction of every class.",
        "relume split data/img -fraction .2",
        "relume.commands.split:split",
        {
            "-fraction": Flag(float, "of the pictures, for valid.txt (default .2)", "F"),
            "-out": Flag(str, "folder of the two lists", "FOLDER"),
            "-force": Flag(
                bool, "lists are there: their pictures stay on their sides, others are added"
            ),
        },
        more="A picture belongs to the rarest class in it, and of each class those with the "
        "lowest hash of their bytes become valid. Copies of a picture are on one side. Adding "
        "pictures with -force moves none from one side to the other.",
    ),
    Command(
        "make-cfg",
        (),
        "Write a cfg for classes of your own, NET-NAME.cfg, and its data file, NAME.data, beside "
        "NAME.names: filters, anchors for the listed boxes, max_batches and steps are right.",
        "relume make-cfg -like yolov3-tiny -names data/obj.names -images data/train.txt",
        "relume.commands.make_cfg:make_cfg",
        {
            "-like": Flag(str, "yolov3-tiny, yolov3 or yolov3-spp", "NET"),
            "-names": Flag(str, "names of the classes, one a line", "NAMES"),
            "-images": Flag(str, "list to train on (default train.txt beside)", "LIST"),
            "-valid": Flag(str, "list to validate on (default valid.txt beside)", "LIST"),
            "-data": Flag(str, "take names and list from this data file; write the cfg", "DATA"),
            "-width": Flag(int, "of the network's input (default as in NET's own cfg)", "W"),
            "-height": Flag(int, "of the network's input (default as in NET's own cfg)", "H"),
            "-batch": Flag(int, "pictures per iteration (default 64)", "N"),
            "-subdivisions": Flag(int, "parts of it that fit in memory (16; tiny: 2)", "N"),
            "-max_batches": Flag(int, "iterations of the run (default: as below)", "N"),
            "-seed": Flag(int, "seed of anchors and new data file (that of DATA, or 0)", "N"),
            "-out": Flag(str, "folder of the two files (default that of NAMES)", "FOLDER"),
            "-force": Flag(bool, "replace files that are there"),
        },
        more="max_batches is 2000 per class, but at least 6000 and the number of pictures; the "
        "rate falls at 80 and 90 percent of it. burn_in is 1000, of a short run a fifth.",
    ),
    Command(
        "import voc",
        ("FOLDER",),
        "Write Darknet's labels where it looks for them, with lists, obj.names and obj.data, from "
        "the XML files of PASCAL VOC.",
        "relume import voc VOCdevkit/VOC2012",
        "relume.commands.import_labels:import_voc",
        {"-keep_difficult": Flag(bool, "take difficult objects too"), **IMPORT_FLAGS},
    ),
    Command(
        "import coco",
        ("FOLDER|JSON",),
        "Write Darknet's labels where it looks for them, with lists, obj.names and obj.data, from "
        "COCO's annotations. Classes are numbered in the order of the category ids.",
        "relume import coco coco -images coco/images",
        "relume.commands.import_labels:import_coco",
        {"-keep_crowds": Flag(bool, "take the boxes of crowds (iscrowd) too"), **IMPORT_FLAGS},
    ),
    Command(
        "export-labels",
        ("DATA", "OUT"),
        "Write the boxes of DATA's lists below OUT, as COCO's annotations/instances_*.json or "
        "VOC's Annotations/*.xml. Pictures are not copied.",
        "relume export-labels data/obj.data exported -form coco",
        "relume.commands.export_labels:export_labels",
        {
            "-form": Flag(str, "coco or voc; needed", "FORM"),
            "-force": Flag(bool, "replace files that are there"),
        },
    ),
    Command(
        "prove",
        ("DATA", "CFG", "[WEIGHTS]"),
        "Train the first iterations of a run twice, once left alone and once killed at random "
        "moments, each time as `detector train` with these arguments, and compare every file. "
        "Exit status 0: same; 1: different; 2: trouble.",
        "relume prove data/obj.data yolov3-tiny.cfg yolov3-tiny.conv.15 -iterations 30 -kills 5",
        "relume.commands.prove:prove",
        {
            "-iterations": Flag(int, "iterations of each of the two (default 30)", "N"),
            "-kills": Flag(int, "how often one is killed (default 5)", "N"),
            "-seed": Flag(int, "random seed of the run, and of the moments of the kills", "N"),
            "-folder": Flag(str, "where both are trained (default NAME.prove beside backup)", "F"),
            "-keep": Flag(bool, "keep that folder; it is kept anyway where something differs"),
            "-clear": CLEAR,
            "-allow-change": ALLOW_CHANGE,
            "-threads": THREADS,
            "-workers": WORKERS,
            "-portable": PORTABLE,
            **EVALUATION,
            "-i": GPU,
            "-nogpu": NOGPU,
        },
    ),
    Command(
        "replay",
        ("DATA", "CFG"),
        "Write a contact sheet of exactly the pictures, crops, colours and boxes that iteration N "
        "was or will be trained on, without running the others.",
        "relume replay data/obj.data yolov3-tiny.cfg -iteration 1200",
        "relume.commands.replay:replay",
        {
            "-iteration": Flag(int, "which one, from 1", "N", needed=True),
            "-page": Flag(int, "144 pictures go on a sheet; which of them (default 1)", "P"),
            "-out": Flag(str, "where the PNG goes (default replay_NAME_N.png)", "FILE"),
            "-force": Flag(bool, "replace a file there that is no sheet"),
            "-seed": SEED,
            "-workers": WORKERS,
            "-dont_show": DONT_SHOW,
        },
        before="relume.spec:check_settings",
    ),
    Command(
        "check",
        ("DATA", "CFG", "[WEIGHTS]"),
        "Find everything that would stop or spoil a training before its first iteration: settings, "
        "lists, pictures, labels, boxes, WEIGHTS, memory, time. Exit status 0: nothing; 1: "
        "warnings, it would train; 2: errors, it would stop.",
        "relume check data/obj.data yolov3-tiny.cfg yolov3-tiny.conv.15",
        "relume.commands.check:check",
        {
            "-json": Flag(bool, "print the findings as JSON, with every place"),
            "-fix": Flag(
                str,
                "write corrected copies of lists, labels and data file into a new folder; pictures "
                "are linked, no other file is touched",
                "FOLDER",
            ),
            "-clear": CLEAR,
            "-map": Flag(bool, "as for a training with -map: the list 'valid' must be in order"),
            "-mAP_epochs": EVALUATION["-mAP_epochs"],
            "-i": GPU,
            "-nogpu": NOGPU,
        },
        more="What is known of pictures is kept in the cache folder of the run (cache= in DATA), "
        "by the digest of their bytes; training looks there for pictures that cannot be decoded.",
    ),
    *FILE_COMMANDS,
)
