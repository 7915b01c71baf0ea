"""Whether a picture shows what its caption says: reading and scoring in one call."""

import numpy as np
from numpy.typing import NDArray

from pipeline.embedded.evaluation.captions import HeldOutCaption
from pipeline.embedded.evaluation.reading import read_scene
from pipeline.embedded.evaluation.scoring import PictureScore, score


def judge(caption: HeldOutCaption, pixels: NDArray[np.uint8]) -> PictureScore:
    """Read [H, W, 3] sRGB bytes, of any size of the domain, and score them."""
    return score(caption.scene, read_scene(pixels), side=min(pixels.shape[:2]))
