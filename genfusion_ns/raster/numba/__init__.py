"""The CPU rasteriser: numba kernels, and the pool of threads that runs them."""
