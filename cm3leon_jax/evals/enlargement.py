"""What a super-resolution network adds over bicubic interpolation.

Letters: N pictures, Y and X rows and columns, C colours.
"""

import numpy as np

from cm3leon_jax.evals import reconstruction
from cm3leon_jax.scenes import judge, scores
from cm3leon_jax.scenes.world import WorldConfig


def evaluate(
    originals_NYXC: np.ndarray, enlarged_NYXC: np.ndarray, bicubic_NYXC: np.ndarray
) -> dict[str, float]:
    """Compares enlarged pictures with the large originals, and bicubic ones likewise.

    Args:
      originals_NYXC: uint8[N, Y, X, 3].
      enlarged_NYXC: uint8[N, Y, X, 3], the network's.
      bicubic_NYXC: uint8[N, Y, X, 3], of the same small pictures.

    Returns:
      `psnr` (decibels, mean over pictures) and `ssim`; the same with `_bicubic`.
    """
    found = {}
    for name, pictures in (("", enlarged_NYXC), ("_bicubic", bicubic_NYXC)):
        psnr = reconstruction.psnr(originals_NYXC, pictures)
        found[f"psnr{name}"] = float(psnr.mean())
        found[f"ssim{name}"] = float(
            reconstruction.ssim(originals_NYXC, pictures).mean()
        )
    return found


def judged(
    originals_NYXC: np.ndarray,
    enlarged_NYXC: np.ndarray,
    bicubic_NYXC: np.ndarray,
    world: WorldConfig,
) -> dict[str, float]:
    """Returns what share of the objects the judge still reads as in the originals.

    Args:
      originals_NYXC: uint8[N, Y, X, 3], of the built-in world.
      enlarged_NYXC: uint8[N, Y, X, 3].
      bicubic_NYXC: uint8[N, Y, X, 3].
      world: whose judge reads them.

    Returns:
      `objects` and `objects_bicubic`, over the pictures in which the judge finds any.
    """
    true = judge.read_all(originals_NYXC, world)
    shown = [i for i, scene in enumerate(true) if scene.things]
    found = {}
    for name, pictures in (("", enlarged_NYXC), ("_bicubic", bicubic_NYXC)):
        read = judge.read_all(pictures, world)
        each = [scores.objects(true[i], read[i]) for i in shown]
        found[f"objects{name}"] = float(np.mean(each)) if each else 0.0
    return found
