"""Where a run's numbers go beside `metrics.jsonl`: TensorBoard, Weights & Biases.

Both packages are extras, imported where they are used. TensorBoard's files are written
by tensorboardX: it needs NumPy and protobuf only, no TensorFlow and no PyTorch, and
writes scalars, pictures and texts; TensorBoard itself is needed by whoever looks.
"""

import importlib
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from cm3leon_jax import storage

_EXTRAS = {"tensorboardX": "watch", "wandb": "wandb"}


class TensorBoard:
    """Event files in a folder; every start of a run adds one."""

    def __init__(self, folder: str):
        """Writes nothing yet.

        Args:
          folder: of the event files.

        Raises:
          ValueError: if tensorboardX is not installed.
        """
        package = _imported("tensorboardX", "watch.tensorboard", off=False)
        self._make = package.SummaryWriter
        self._folder = folder
        self._purge_step: int | None = None
        self._writer: Any = None

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds scalars; they reach the disk within seconds, and at `close`."""
        for name, value in numbers.items():
            self._open().add_scalar(name, value, step)

    def show(
        self, step: int, pictures: Mapping[str, np.ndarray], texts: Mapping[str, str]
    ) -> None:
        """Adds pictures and texts."""
        for name, picture in pictures.items():
            self._open().add_image(name, picture, step, dataformats="HWC")
        for name, text in texts.items():
            self._open().add_text(name, text, step)

    def rewind(self, step: int) -> None:
        """Makes TensorBoard hide what earlier files hold of the steps after `step`."""
        self._purge_step = step + 1 if step else None

    def close(self) -> None:
        """Writes what is still in memory."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> Any:
        if self._writer is None:
            self._writer = self._make(self._folder, purge_step=self._purge_step)
        return self._writer


class WeightsAndBiases:
    """A run of Weights & Biases that goes on under its name after a restart."""

    def __init__(
        self, project: str, *, name: str, folder: str, config: Mapping[str, Any]
    ):
        """Logs in and opens the run.

        Args:
          project: of Weights & Biases.
          name: of the run; the same name is the same run.
          folder: for its own files.
          config: the resolved config, which it shows.

        Raises:
          ValueError: if wandb is not installed.
        """
        wandb = _imported("wandb", "watch.wandb_project", off="")
        if storage.is_in_bucket(folder):  # the service has it all
            folder = tempfile.mkdtemp(prefix="wandb-")
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        self._run = wandb.init(
            project=project,
            id=name,
            name=name,
            dir=folder,
            config=dict(config),
            resume="allow",
        )

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Sends scalars; steps that it has already are left out by the service."""
        self._run.log(dict(numbers), step=step)

    def show(
        self, step: int, pictures: Mapping[str, np.ndarray], texts: Mapping[str, str]
    ) -> None:
        """Sends pictures, with texts as HTML beside them."""
        images = {name: self._wandb.Image(x) for name, x in pictures.items()}
        written = {
            n: self._wandb.Html(f"<pre>{_escaped(t)}</pre>") for n, t in texts.items()
        }
        self._run.log({**images, **written}, step=step)

    def rewind(self, step: int) -> None:
        """Does nothing: the service keeps the first value of every step."""

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


def _imported(package: str, field: str, *, off: Any) -> Any:
    """The package of an extra that a config field asks for."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        extra = _EXTRAS[package]
        raise ValueError(
            f"{field} needs the package {package}; install cm3leon-jax[{extra}], or set"
            f" it to {off!r}"
        ) from error


def _escaped(text: str) -> str:
    """Text that a model wrote, safe to stand in HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
