"""Procedural scenes: exact photos, depths and poses from a seed, made of parts that can be combined freely.

`shapes` gives meshes, `textures` solid colour functions, `poses` camera paths, `render` puts them under light and
takes photos, `demo` composes the room that `scripts/demo` trains on, `write` stores a Nerfstudio folder. `families`
makes any number of random scenes: `looks` draws their materials, `things` their objects, `staging` films them.
"""
