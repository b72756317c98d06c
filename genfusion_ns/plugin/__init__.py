"""Nerfstudio's classes. Its registry imports this package before the modules that warn."""

from genfusion_ns import quiet

quiet.third_parties()
