"""What a model makes while it is trained: the same few held-out documents every time.

    previews/00001000.png    held-out pictures above, beneath each what the model draws
                             from its caption
    previews/00001000.json   the captions, and what the model writes about each picture

The pictures are as the image tokenizer gives them back, so that a drawing is compared
with the best that can be drawn. Seeds are fixed: two previews differ by the model alone.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib

import numpy as np
from PIL import Image

from cm3leon_jax import storage
from cm3leon_jax.data import shards
from cm3leon_jax.decoding import engine, grammar, prompts
from cm3leon_jax.decoding.sampling import Sampling
from cm3leon_jax.documents.document import Document, Modality
from cm3leon_jax.models import transformer
from cm3leon_jax.tasks import caption
from cm3leon_jax.tokenizers import image as image_tokenizers
from cm3leon_jax.tokenizers import text as text_tokenizers
from cm3leon_jax.train import hosts, metrics

FOLDER = "previews"
_MAX_TEXT = 47  # ids of a caption
_DRAWN = Sampling()
_WRITTEN = Sampling(temperature=0.0)  # the likeliest text


@dataclasses.dataclass(frozen=True)
class Preview:
    """Fixed requests, and what turns the answers into pictures and words.

    Attributes:
      vocab_info: Of the shards.
      texts: Text tokenizer.
      images: Image tokenizer.
      documents: Held-out documents of a text and a picture.
      is_tuned: Whether captions are asked for by the words of the instruction tuning,
        else by infilling the text before the picture.
    """

    vocab_info: shards.SetInfo
    texts: text_tokenizers.AbstractTextTokenizer
    images: image_tokenizers.ImageTokenizer
    documents: tuple[Document, ...]
    is_tuned: bool

    def draw(
        self,
        step: int,
        model: transformer.Transformer,
        workdir: str,
        writer: metrics.Writer,
    ) -> None:
        """Draws and captions, writes the files, and shows them to the writer's sinks.

        Args:
          step: Steps done; names the files.
          model: As it is trained, stacked or not, on its devices. It is not changed.
          workdir: Of the run.
          writer: Of the run.
        """
        pictures, written = self.make(model)
        if not hosts.is_first():
            return
        codes = np.stack([self._codes(document) for document in self.documents])
        originals = self.images.decode(codes)
        given = [self.texts.decode(self._text(d).tolist()) for d in self.documents]
        sheet = np.concatenate([_row(originals), _row(pictures)])
        root = storage.place(workdir) / FOLDER
        storage.write_bytes(root / f"{step:08d}.png", _png(sheet))
        captions = [
            {"caption": text, "written": new}
            for text, new in zip(given, written, strict=True)
        ]
        storage.write_json(root / f"{step:08d}.json", captions)
        lines = [f"{pair['caption']}\n  -> {pair['written']}" for pair in captions]
        writer.show(step, {"preview": sheet}, {"captions": "\n".join(lines)})

    def make(self, model: transformer.Transformer) -> tuple[np.ndarray, list[str]]:
        """Returns pictures uint8[N, Y, X, 3] from the captions, and captions."""
        count = len(self.documents)
        answers = engine.generate(
            transformer.unstack(model),
            [*map(self._drawing, range(count)), *map(self._caption, range(count))],
            self.vocab_info.vocab,
            engine.Shapes(rows=(count,)),
        )
        codes = np.stack([self.vocab_info.vocab.codes(x) for x in answers[:count]])
        written = [
            self.texts.decode(grammar.split(self._caption(i).plan, ids)[0].tolist())
            for i, ids in enumerate(answers[count:])
        ]
        return self.images.decode(codes), [caption.parse(text) for text in written]

    def check(self, max_length: int) -> None:
        """Refuses documents that the model has no positions for (ValueError)."""
        vocab, shapes = self.vocab_info.vocab, engine.Shapes(rows=(1,))
        for index in range(len(self.documents)):
            for request in (self._drawing(index), self._caption(index)):
                engine.check(request, vocab, shapes, max_length)

    def _drawing(self, index: int) -> prompts.Request:
        vocab = self.vocab_info.vocab
        document = self.documents[index]
        start = Document(document.segments[:1])
        ids = prompts.continued(start, vocab)
        return prompts.Request((ids,), (grammar.picture(vocab),), index, _DRAWN)

    def _caption(self, index: int) -> prompts.Request:
        vocab = self.vocab_info.vocab
        document = self.documents[index]
        span = (0, len(self._text(document)))
        if self.is_tuned:
            unseen = np.zeros((1, 1, 3), np.uint8)  # the document's codes replace it
            document = prompts.with_hole(
                caption.prompt(unseen),
                self.texts.encode,
                [self._codes(document)],
                vocab,
            )
            span = document.target or span
        ids = prompts.masked(document, [span], vocab)
        plan = prompts.text_plan(_MAX_TEXT, self.texts.vocab_size, vocab)
        return prompts.Request((ids,), plan, index, _WRITTEN)

    def _codes(self, document: Document) -> np.ndarray:
        return self.vocab_info.vocab.codes(document.segments[1].ids).astype(np.int32)

    def _text(self, document: Document) -> np.ndarray:
        return document.segments[0].ids


def load(
    root: str,
    set_name: str,
    num_documents: int,
    info: shards.SetInfo,
    *,
    is_tuned: bool,
) -> Preview:
    """Reads the tokenizers of some shards, and held-out documents to make again.

    Args:
      root: Folder of the sets.
      set_name: The set whose validation split is taken.
      num_documents: The first so many that are one text and one picture.
      info: Of the run, whose tokenizers they must be.
      is_tuned: See `Preview`.

    Raises:
      FileNotFoundError: If a tokenizer is gone.
      ValueError: If tokenizers and shards do not belong together, or there is no such
        document.
    """
    folder = pathlib.Path(root)
    made = _config_with_tokenizers(folder)
    texts = text_tokenizers.load(_beside(folder, made["tokenizer"]))
    images = image_tokenizers.ImageTokenizer.load(
        _beside(folder, made["image_tokenizer"])
    )
    if (texts.digest, images.digest) != (info.text_tokenizer, info.image_tokenizer):
        raise ValueError(
            f"the tokenizers that {folder} names are not those of its shards; restore"
            " them, or set watch.draw_every=0"
        )
    source = shards.open(folder / set_name, "validation")
    documents = _pairs(source, num_documents, info)
    return Preview(info, texts, images, documents, is_tuned)


def _pairs(
    source: shards.Source, num_documents: int, info: shards.SetInfo
) -> tuple[Document, ...]:
    kinds = (Modality.TEXT, Modality.IMAGE)
    found: list[Document] = []
    for index in range(len(source)):
        if len(found) == num_documents:
            break
        record = source.records([index])[0]
        if record is None:
            continue
        document = record.document(info.vocab)
        if tuple(segment.modality for segment in document.segments) == kinds:
            found.append(document)
    if not found:
        raise ValueError(
            f"{source.name} holds no documents of a text and a picture to preview; set"
            " watch.draw_every=0, or evaluation.set to a set that does"
        )
    return tuple(found)


def _config_with_tokenizers(folder: pathlib.Path) -> dict:
    """The config of the job `shards`, perhaps behind that of `retrieve`."""
    config = storage.read_json(folder / "config.json")
    if "image_tokenizer" in config:
        return config
    return _config_with_tokenizers(_beside(folder, config["shards"]))


def _beside(folder: pathlib.Path, name: str) -> pathlib.Path:
    """A folder that a config names; if the run was moved, the one beside this one."""
    named = pathlib.Path(name)
    return named if named.exists() else folder.absolute().parent / named.name


def _row(pictures_NYXC: np.ndarray) -> np.ndarray:
    return np.concatenate(list(pictures_NYXC), axis=1)


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()
