"""Several processes that train one run together, and come to the same bits as one alone."""
