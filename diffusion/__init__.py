"""RGB-D video diffusion: artifact-ridden renderings in, repaired RGB-D frames out. Knows nothing of Nerfstudio."""
