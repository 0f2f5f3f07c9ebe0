"""A small cfg that uses every supported section, for the tests of formats/."""

NET = """\
[net]
batch=4
subdivisions=2
width=64
height=32
channels=3
learning_rate=.001
max_batches=10
"""

LAYERS = """\
[convolutional]
batch_normalize=1
filters=6
size=3
stride=2
pad=1
activation=leaky

[convolutional]
filters=6
groups=3
size=3
pad=1
activation=mish

[shortcut]
from=-2

[dropout]
probability=.5

[maxpool]
size=2
stride=2

[upsample]
stride=2

[route]
layers=-1,2
groups=2
group_id=1

[convolutional]
filters=14
size=1
activation=linear

[yolo]
mask=0,1
anchors=10,14, 23,27
classes=2
num=2
"""

TEXT = NET + LAYERS
FILTERS_LINE = 1 + TEXT[: TEXT.index("filters=14")].count("\n")
