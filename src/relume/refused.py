"""What of Darknet's command line is refused."""

REFUSED_FLAGS = {
    "-mjpeg_port": (
        "relume serves nothing on the network",
        "demo writes a video with -out_filename, train the curve into chart.png beside the weights",
    ),
    "-json_port": (
        "relume serves nothing on the network",
        "-json_file_output FILE writes the detections, and every frame's are printed",
    ),
    "-http_post_host": (
        "relume sends nothing over the network",
        "-json_file_output FILE writes the detections, for a program of yours to send",
    ),
    "-avgframes": (
        "it averages no detections in Darknet either, for nets of [yolo]",
        "leave it out",
    ),
    "-s": ("it skips no frame in Darknet either", "leave it out"),
    "-benchmark": (
        "it repeats a frame without reading or drawing",
        "demo ends with frames per second; with -dont_show alone it draws and writes none",
    ),
    "-benchmark_layers": ("relume times no layers", "leave it out"),
    "-show_imgs": (
        "relume opens no window",
        "relume replay DATA CFG -iteration N draws what is trained on",
    ),
    "-chart": ("the curve is always drawn", "see chart.png in the folder 'backup' of DATA"),
    "-hier": ("it is for the trees of [region], which relume does not have", "leave it out"),
}
"""Flags of Darknet's detector that are refused: why, and what to do instead."""
REFUSED_COMMANDS = {
    "detect": "relume detector test DATA CFG WEIGHTS IMAGE finds objects in pictures",
    **dict.fromkeys((
        "draw", "normalize", "denormalize", "rescale", "rgbgr", "ops", "speed", "oneoff",
        "visualize", "classifier",
    ), ""),
}  # fmt: skip
"""Darknet's commands that relume does not have, and what to do instead."""
