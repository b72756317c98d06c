"""The splats: their parameters, edits and growth, what trains them, where they come from, and meshes made of them."""
