"""Training of the stereo network: scenes with depth, batches of views, the loop."""
