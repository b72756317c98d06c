"""GenFusion for Nerfstudio: sparse photos in, a clean 2D Gaussian splat out."""

__version__ = "0.1.0"
