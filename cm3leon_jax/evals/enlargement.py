"""What a super-resolution network adds over bicubic interpolation.

Letters: N pictures, Y and X rows and columns, C colours.
"""

import numpy as np

from cm3leon_jax.evals import crowd, reconstruction
from cm3leon_jax.models import lpips as lpips_lib
from cm3leon_jax.scenes import judge, scores
from cm3leon_jax.scenes.world import WorldConfig


def evaluate(
    originals_NYXC: np.ndarray,
    enlarged_NYXC: np.ndarray,
    bicubic_NYXC: np.ndarray,
    network: lpips_lib.Lpips | None = None,
) -> dict[str, float]:
    """Compares enlarged pictures with the large originals, and bicubic ones likewise.

    Args:
      originals_NYXC: uint8[N, Y, X, 3].
      enlarged_NYXC: uint8[N, Y, X, 3], the network's.
      bicubic_NYXC: uint8[N, Y, X, 3], of the same small pictures.
      network: of LPIPS; None for the stand-in.

    Returns:
      `psnr` (decibels, mean over pictures) and `ssim`; `lpips`, or `gradient_pyramid`
      without its network; of two pictures at least `frechet_blocks`; all of these again
      with `_bicubic`. The first two are best for the mean of all that a picture may have
      been, which is blurred; the others see whether it is as sharp as pictures are.
    """
    found = {}
    for name, pictures in (("", enlarged_NYXC), ("_bicubic", bicubic_NYXC)):
        each = _compared((originals_NYXC, pictures), network)
        found |= {f"{kind}{name}": value for kind, value in each.items()}
    return found


def _compared(
    pair: tuple[np.ndarray, np.ndarray], network: lpips_lib.Lpips | None
) -> dict[str, float]:
    """The numbers of one kind of enlarged pictures beside the originals."""
    found = {
        "psnr": float(reconstruction.psnr(*pair).mean()),
        "ssim": float(reconstruction.ssim(*pair).mean()),
    }
    if network is not None:
        found["lpips"] = reconstruction.lpips(*pair, network)
    else:
        found["gradient_pyramid"] = reconstruction.gradient_pyramid(*pair)
    if len(pair[0]) > 1:  # one picture has no spread
        found |= reconstruction.frechet(*pair, crowd.from_blocks())
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
