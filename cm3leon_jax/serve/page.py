"""The page itself, in Gradio: what to do, where a picture comes from, a gallery.

What the buttons do is `actions`; here they are laid out and tied to it. What is wrong
with a request is shown as a note, and the page goes on.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from cm3leon_jax.serve import actions
from cm3leon_jax.serve import studio as studios
from cm3leon_jax.serve.studio import Shown, Studio

TITLE = "CM3Leon: try the model"
STYLE = """
.pixels img { image-rendering: pixelated; }
#made .grid-wrap { max-height: none; overflow: visible; }
#made .thumbnail-lg { aspect-ratio: 1; }
#gallery .grid-container { grid-template-columns: repeat(auto-fill, 120px) !important; }
#gallery .thumbnail-lg { width: 120px; height: 120px; }
#gallery .grid-wrap { margin-top: 28px; }
#origin table { width: 100%; border-collapse: collapse; }
#origin table, #origin tr { border: none; }
#origin td { padding: 3px 10px 3px 0; vertical-align: top; border: none; }
#origin td:first-child { opacity: 0.6; white-space: nowrap; }
#origin .row { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 8px; }
#origin figure { margin: 0; max-width: 150px; font-size: 0.85em; }
#origin img { width: 96px; image-rendering: pixelated; }
footer { display: none !important; }
"""
_BRUSH = 48  # pixels across
_SECONDS = 0.1  # between two looks at least: a browser leaves out what comes faster


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What the page begins with.

    Attributes:
      temperature: Of pictures; texts are the most probable ones.
      top_p: Of drawings.
      guidance: Of drawings from text.
      edit_guidance: Of the instruction, when editing.
      edit_image_guidance: Of the picture, when editing.
      examples: Texts to draw, shown below the box.
    """

    temperature: float
    top_p: float
    guidance: float
    edit_guidance: float
    edit_image_guidance: float
    examples: tuple[str, ...]


def build(studio: Studio, defaults: Defaults) -> Any:
    """Returns the page as `gradio.Blocks`; `open_page` serves it.

    Raises:
      ValueError: If gradio is not installed.
    """
    gr = _gradio()
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(
            "# Draw, describe, edit\nSay what to draw. What was made can be edited, asked"
            " about and filled in by the buttons below it; *where it comes from* stands"
            " beside it. Your own pictures go into the other tabs."
        )
        with gr.Row():
            with gr.Column(scale=3), gr.Tabs() as tabs:
                draw = _draw_tab(gr, studio, defaults)
                describe = _describe_tab(gr)
                fill = _fill_tab(gr, defaults)
                edit = _edit_tab(gr, defaults)
            with gr.Column(scale=2):
                made = _made_column(gr)
        kept = gr.Gallery(
            value=studio.gallery,
            label="Gallery: what was made here, the newest first. Choose one to go on"
            " with it",
            columns=8,
            height=240,
            allow_preview=False,
            elem_id="gallery",
            elem_classes="pixels",
        )
        _tie_making(gr, studio, draw, fill, edit, [*made["shown"], kept])
        _tie_writing(gr, studio, describe, made)
        given = [describe["picture"], fill["picture"], edit["picture"]]
        _tie_choosing(gr, studio, given, made, kept, tabs)
    return page


def open_page(
    page: Any, studio: Studio, host: str, port: int, *, block: bool = True
) -> str:
    """Serves a page until it is interrupted; if not `block`, returns its address.

    Args:
      page: From `build`.
      studio: What the page works with.
      host: Address to listen at; 127.0.0.1 answers this machine alone.
      port: 0 takes a free one.
      block: Whether to wait until it is interrupted.
    """
    limits = studio.limits
    page.queue(max_size=limits.max_waiting, default_concurrency_limit=1)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port or None,
        share=False,
        show_error=True,
        quiet=True,
        max_file_size=int(limits.max_upload_mb * 1e6),
        allowed_paths=[str(studio.folder)],
        prevent_thread_lock=True,
        css=STYLE,
    )
    if block:
        print(f"the page: {address}", flush=True)
        page.block_thread()
    return address


def _gradio() -> Any:
    try:
        return importlib.import_module("gradio")
    except ImportError as error:
        raise ValueError(
            "the page needs the package gradio; install cm3leon-jax[serve]"
        ) from error


def _draw_tab(gr: Any, studio: Studio, defaults: Defaults) -> dict[str, Any]:
    with gr.Tab("Draw", id="draw"):
        text = gr.Textbox(label="What to draw", lines=2, elem_id="draw-text")
        if defaults.examples:
            gr.Examples([[each] for each in defaults.examples], [text], label="Try")
        most = studio.limits.max_pictures
        count = gr.Slider(1, most, value=1, step=1, label="Pictures")
        retrieve = gr.Slider(
            0,
            2,
            value=0,
            step=1,
            label="Documents to look at first",
            elem_id="documents",
            visible=studio.has_bank,
        )
        button = gr.Button("Draw", variant="primary", elem_id="draw-go")
        with gr.Accordion("More", open=False):
            guidance = gr.Slider(
                0, 10, value=defaults.guidance, step=0.5, label="Follow the text"
            )
            temperature = _temperature(gr, defaults)
            top_p = gr.Slider(
                0.05, 1, value=defaults.top_p, step=0.05, label="Likeliest share (p)"
            )
            seed = _seed(gr)
    inputs = [text, count, guidance, temperature, top_p, seed, retrieve]
    return {"inputs": inputs, "button": button, "text": text}


def _describe_tab(gr: Any) -> dict[str, Any]:
    with gr.Tab("Describe and ask", id="describe"):
        picture = _given(gr, "describe-picture")
        with gr.Row():
            caption = gr.Button("Describe", variant="primary", elem_id="describe-go")
            caption_long = gr.Button("Describe at length")
        question = gr.Textbox(label="Question", elem_id="question")
        answer = gr.Button("Ask", variant="primary", elem_id="ask-go")
        text = gr.Textbox(label="The model says", elem_id="said", interactive=False)
    buttons = {"caption": caption, "caption_long": caption_long, "answer": answer}
    return {"picture": picture, "question": question, "text": text} | buttons


def _fill_tab(gr: Any, defaults: Defaults) -> dict[str, Any]:
    with gr.Tab("Fill in", id="fill"):
        picture = gr.ImageEditor(
            label="Paint over what is to be drawn anew",
            type="numpy",
            image_mode="RGBA",
            format="png",
            sources=("upload", "clipboard"),
            transforms=(),
            layers=False,
            brush=gr.Brush(default_size=_BRUSH, colors=["#ff00ff"], color_mode="fixed"),
            height=480,
            elem_id="fill-picture",
        )
        label = "What the whole picture is to show (or empty)"
        text = gr.Textbox(label=label, elem_id="fill-text")
        button = gr.Button("Fill in", variant="primary", elem_id="fill-go")
        with gr.Accordion("More", open=False):
            inputs = [picture, text, _temperature(gr, defaults), _seed(gr)]
    return {"picture": picture, "inputs": inputs, "button": button}


def _edit_tab(gr: Any, defaults: Defaults) -> dict[str, Any]:
    with gr.Tab("Edit", id="edit"):
        picture = _given(gr, "edit-picture")
        text = gr.Textbox(label="What to change", elem_id="edit-text")
        button = gr.Button("Edit", variant="primary", elem_id="edit-go")
        with gr.Accordion("More", open=False):
            guidance = gr.Slider(
                0, 15, value=defaults.edit_guidance, step=0.5, label="Follow the text"
            )
            kept = defaults.edit_image_guidance
            image_guidance = gr.Slider(
                0, 5, value=kept, step=0.1, label="Follow the picture"
            )
            extra = [_temperature(gr, defaults), _seed(gr)]
    inputs = [picture, text, guidance, image_guidance, *extra]
    return {"picture": picture, "inputs": inputs, "button": button}


def _given(gr: Any, name: str) -> Any:
    return gr.Image(
        label="The picture",
        type="numpy",
        format="png",
        sources=["upload", "clipboard"],
        height=320,
        elem_id=name,
        elem_classes="pixels",
    )


def _temperature(gr: Any, defaults: Defaults) -> Any:
    return gr.Slider(0, 2, value=defaults.temperature, step=0.05, label="Variety")


def _seed(gr: Any) -> Any:
    return gr.Textbox(label="Seed", placeholder="empty: another one each time")


def _made_column(gr: Any) -> dict[str, Any]:
    picture = gr.Gallery(
        label="Made",
        columns=2,
        height="auto",
        format="png",
        object_fit="contain",
        elem_id="made",
        elem_classes="pixels",
    )
    file = gr.State("")
    with gr.Row():
        edit = gr.Button("Edit it", elem_id="hand-edit")
        describe = gr.Button("Ask about it", elem_id="hand-describe")
        fill = gr.Button("Fill in a part", elem_id="hand-fill")
    gr.Markdown("### Where it comes from")
    origin = gr.HTML(actions.origin(Shown([])), elem_id="origin")
    with gr.Accordion("As JSON (it is inside the PNG, too)", open=False):
        record = gr.Code(language="json", elem_id="origin-json")
    buttons = {"edit": edit, "describe": describe, "fill": fill}
    return {"shown": [picture, origin, record, file], "hand": buttons, "file": file}


def _tie_making(
    gr: Any, studio: Studio, draw: Any, fill: Any, edit: Any, outputs: list[Any]
) -> None:
    """Ties the buttons that make pictures; `outputs` as `_values` has them."""

    def making(action: Callable[..., Iterator[Shown]]) -> Callable[..., Iterator[list]]:
        """An action as Gradio calls it; what is wrong becomes a note."""

        def run(*values):
            """Yields what the page shows, no faster than a browser can."""
            try:
                last = -_SECONDS
                for shown in action(studio, *values):
                    time.sleep(max(0.0, last + _SECONDS - time.monotonic()))
                    last = time.monotonic()
                    yield _values(gr, studio, shown)
            except ValueError as error:
                raise gr.Error(str(error), print_exception=False) from error

        return run

    for trigger, action, inputs, name in (
        (draw["button"].click, actions.draw, draw["inputs"], "draw"),
        (draw["text"].submit, actions.draw, draw["inputs"], "draw_by_enter"),
        (fill["button"].click, actions.fill, fill["inputs"], "fill"),
        (edit["button"].click, actions.edit, edit["inputs"], "edit"),
    ):
        trigger(making(action), inputs, outputs, show_progress="minimal", api_name=name)


def _tie_writing(gr: Any, studio: Studio, describe: Any, made: Any) -> None:
    def writing(kind: str) -> Callable[..., list[Any]]:
        """Writes a caption or an answer; what is wrong becomes a note."""

        def run(picture, question):
            try:
                shown = actions.write(studio, kind, picture, question)
            except ValueError as error:
                raise gr.Error(str(error), print_exception=False) from error
            return [shown.text, actions.origin(shown), studios.as_json(shown.origin)]

        return run

    inputs = [describe["picture"], describe["question"]]
    outputs = [describe["text"], made["shown"][1], made["shown"][2]]
    for kind in ("caption", "caption_long", "answer"):
        describe[kind].click(writing(kind), inputs, outputs, api_name=kind)
    describe["question"].submit(
        writing("answer"), inputs, outputs, api_name="answer_by_enter"
    )


def _tie_choosing(
    gr: Any, studio: Studio, given: list[Any], made: Any, kept: Any, tabs: Any
) -> None:
    """A picture that was made, or is chosen in the gallery, goes into the tabs."""

    def hand(tab: str) -> Callable[[str], list[Any]]:
        """Puts what was made last into all tabs and opens one of them."""

        def run(path):
            if not path:
                raise gr.Error("draw something first", print_exception=False)
            picture = studios.enlarge(studio.read(path).pictures[0])
            return [*[picture] * len(given), gr.Tabs(selected=tab)]

        return run

    for tab, button in made["hand"].items():
        button.click(hand(tab), [made["file"]], [*given, tabs])

    def choose(event):
        shown = studio.read(studio.gallery()[event.index][0])
        return _values(gr, studio, shown)[:-1]

    def pick(files, event):
        return str(files[event.index][0]) if files else ""

    choose.__annotations__["event"] = pick.__annotations__["event"] = gr.SelectData
    kept.select(choose, None, made["shown"])
    made["shown"][0].select(pick, [made["shown"][0]], [made["file"]])


def _values(gr: Any, studio: Studio, shown: Shown) -> list[Any]:
    """Of: pictures, origin, JSON, file, gallery. An unfinished one shows pictures."""
    if shown.origin is None:
        drawn = [studios.enlarge(each) for each in shown.pictures]
        beside = actions.origin(shown) if shown.near else gr.skip()
        return [drawn, beside, *[gr.skip()] * 3]
    files = [str(path) for path in shown.files]
    record = studios.as_json(shown.origin)
    return [files, actions.origin(shown), record, files[0], studio.gallery()]
