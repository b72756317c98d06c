"""The networks, one per file. Each is a diffusers or transformers class, or a thin subclass of one."""
