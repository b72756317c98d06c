"""From what a caller has to what the networks take: clips on disk, checks, warped photos, filled holes."""
