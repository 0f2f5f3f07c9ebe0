"""The flags of a training that belong to the run itself, for every command that reads a run."""

from relume.command_table import Values
from relume.commands.fractions import fraction_of
from relume.errors import UsageError
from relume.spec import Flags

OF_EVALUATIONS = ("-map", "-mAP_epochs", "-thresh", "-iou_thresh")


def flags_of(flags: Values) -> Flags:
    """Return what a command line says about the run itself.

    Raises:
        UsageError: a number that cannot be used.
    """
    seed, workers = flags.get("-seed"), flags.get("-workers")
    epochs = int(flags.get("-mAP_epochs", 4))
    if epochs < 1:
        raise UsageError("-mAP_epochs", str(epochs), "1 or more")
    thresh = fraction_of(flags, "-thresh", 0.25)
    iou_thresh = fraction_of(flags, "-iou_thresh", 0.5)
    if not flags.get("-map"):
        for name in OF_EVALUATIONS:
            if name in flags:
                raise UsageError(name, "without -map", "-map, which measures while it trains")
    return Flags(
        seed=None if seed is None else int(seed),
        workers=None if workers is None else int(workers),
        map=bool(flags.get("-map")),
        map_epochs=epochs,
        thresh=thresh,
        iou_thresh=iou_thresh,
    )
