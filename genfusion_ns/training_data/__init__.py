"""Training pairs by masked reconstruction: what a 2DGS fit to part of a scene shows, and what it should show."""
