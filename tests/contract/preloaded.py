"""What the server of `processes.py` does once, for all the processes that it forks."""

from relume.train.chart import draw_chart
from tests.checkpoint.states import history_of

# The first chart of a process fills caches of Matplotlib's; that takes longer than the chart.
draw_chart(history_of(5), "net", 10)
