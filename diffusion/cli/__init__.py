"""The command line `genfusion-repair`."""
