"""The sampling loop: the guided denoiser, its context tokens, its start and its end."""
