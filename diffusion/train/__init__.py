"""Training of the RGB-D video model: shards of clip pairs, losses, trainers. Knows nothing of `genfusion_ns`."""
