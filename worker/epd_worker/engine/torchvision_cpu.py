"""Make PyPI's CUDA build of torchvision importable beside a CPU build of torch.

Its C extension links CUDA libraries, so a CPU torch cannot load it. torchvision tolerates that, but
then registers shape functions for two operators which only the extension defines, and its import
fails with "operator torchvision::nms does not exist". Declaring the two operators first is enough:
everything written in Python works, the image transforms of the Hugging Face processors included;
calling one of the C operators still fails, as it does in any torch build without them.

torch is imported inside the functions: its own import may be what loads this module.
"""

import importlib.util
from pathlib import Path
from typing import Any, Final

_NMS_ARGUMENTS: Final = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS: Final = ("nms", "qnms")
_declared: Final[list[Any]] = []
"""The library of our declarations, once made: it takes them with it when it goes."""


def apply() -> None:
    """Declare torchvision's missing operators in this process, before torchvision wants them.

    Does nothing where torchvision is absent, or where its extension loads (a torchvision that was
    built for this torch). Calling it again does nothing.
    """
    import torch  # may call us again, through `autoload`, before it returns

    if not (missing := _operators_without_extension()):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in missing:
        library.define(operator + _NMS_ARGUMENTS)
    _declared.append(library)


def autoload() -> None:
    """Be torch's `torch.backends` entry point: `apply` in every process, on a CPU torch only."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        apply()


def _operators_without_extension() -> list[str]:
    """Return the operators that torchvision's import will want and nothing defines."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return []
    for extension in Path(spec.submodule_search_locations[0]).glob("_C*.so"):
        try:
            torch.ops.load_library(extension)
        except OSError:
            continue
        return []
    return [name for name in _OPERATORS if not hasattr(torch.ops.torchvision, name)]
