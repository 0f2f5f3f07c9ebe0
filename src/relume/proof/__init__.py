"""`relume prove`: a run on the user's own machine, killed, against one left alone. No torch."""
