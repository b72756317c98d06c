"""What a run costs in memory, found from shapes alone."""
