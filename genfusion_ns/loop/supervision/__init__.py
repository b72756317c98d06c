"""What repaired frames may teach: alignment, agreement with the photos, the gate on rounds, the loss."""
