"""Mend a CUDA build of torchvision that sits beside a CPU build of torch, in this virtual environment only.

PyPI carries torchvision for linux/x86_64 as a CUDA build. Beside a CPU torch, `import torchvision`, and with it every
`ns-*` command, stops at two operators (`nms`, `qnms`) whose schema is missing. Nerfstudio calls neither, so declaring
the schemas is enough. It must happen before anything imports torchvision: a start-up line (`.pth`) of the environment.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

_HOOK = '''"""Declares torchvision's nms and qnms schemas where its compiled operators cannot be loaded (see genfusion's
scripts/mend_torchvision.py). Costs nothing until torchvision is imported; removes itself then."""
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

_libraries = []  # torch drops the schemas when the Library object dies


class _Finder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "torchvision.extension":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            if not module._has_ops():
                import torch

                library = torch.library.Library("torchvision", "FRAGMENT")
                for op in ("nms", "qnms"):
                    library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                _libraries.append(library)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Finder())
'''


def torchvision_imports() -> bool:
    """True if a fresh interpreter of this environment can import torchvision."""
    return subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode == 0


def main() -> int:
    if sys.prefix == sys.base_prefix:
        print("mend_torchvision: refused: this Python is no virtual environment; run scripts/setup, which makes one.")
        return 2
    if torchvision_imports():
        print("torchvision: imports, nothing to mend")
        return 0
    site = Path(sysconfig.get_paths()["purelib"])
    (site / "_mend_torchvision.py").write_text(_HOOK)
    (site / "_mend_torchvision.pth").write_text("import _mend_torchvision\n")
    if torchvision_imports():
        print("torchvision: a CUDA build beside a CPU torch; mended in this virtual environment")
        return 0
    print("torchvision: still cannot be imported; run `python -c 'import torchvision'` here to see why.")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
