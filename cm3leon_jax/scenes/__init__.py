"""The built-in picture world: data that is always at hand, and judges itself.

NumPy and Pillow only, so that a data worker or a test needs no JAX. Import: vocab,
storage. Files, in reading order: `world` (what a scene is, and how rich the world is),
`emblems` (named devices), `sampling` (seed -> scene, the splits), `lettering` and
`drawing` (scene -> picture), `annotations` (boxes and maps), `language` (captions and
back), `questions`, `edits`, `judge` and `reading` (picture -> scene), `scores`
(requested against read), `rows` (all that is written about one scene), `png`.
"""
