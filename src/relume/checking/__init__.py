"""What would stop or spoil a run, found before its first iteration: all of it, not the first."""
