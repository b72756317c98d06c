"""Depth for every photo of a posed capture, with a confidence, and the first splats on the surfaces that it shows."""
