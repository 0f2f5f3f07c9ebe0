"""Files <-> frozen values: Darknet's cfg, data, names, lists, labels and weights. No torch."""
