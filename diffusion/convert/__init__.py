"""Official checkpoints -> a diffusers pipeline folder. The one place of this package that reads pickles."""
