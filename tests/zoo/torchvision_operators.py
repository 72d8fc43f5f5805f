"""Has torchvision, which timm imports and transformers too if it is there, be imported without its compiled part."""

import pytest

torch = pytest.importorskip("torch", reason="the PyTorch backend needs expunge[torch]", exc_type=ImportError)


def declared() -> torch.library.Library | None:
    """Declare the operators that torchvision describes even where its compiled part is missing.

    They are never called. The library must be kept for as long as torchvision is used.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # operator torchvision::nms does not exist
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    except ImportError:
        pass
    return None


LIBRARY = declared()
