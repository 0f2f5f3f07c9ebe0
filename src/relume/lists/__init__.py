"""Image lists of any length: lines, labels and sizes behind them, on a disk or an object store."""
