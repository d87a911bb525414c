"""The argument of a config file: `configs/pretrain.py:7b,debug=true`."""

from typing import Any


def parse_arg(arg: str | None, *, variants: tuple[str, ...] = (), **defaults: Any):
    """Returns the choices that a config's argument makes, strictly.

    An argument is a comma-separated list of `name=value`, of bare names of booleans
    (which become true), and of at most one bare variant.

        parse_arg("7b,debug", variants=("350m", "7b"), debug=False)
        {"variant": "7b", "debug": True}

    Args:
      arg: What stands after the colon, or None.
      variants: Names allowed as a bare word; the first is the default.
      **defaults: Further names with their default; values are parsed to its type.

    Returns:
      A dict with every name of `defaults`, and "variant" if there are variants.

    Raises:
      ValueError: If a name is unknown or a value has another type.
    """
    choices = dict(defaults)
    if variants:
        choices["variant"] = variants[0]
    for word in filter(None, (arg or "").split(",")):
        name, equals, value = word.partition("=")
        if not equals and name in variants:
            choices["variant"] = name
        elif name in defaults:
            choices[name] = _value(name, value if equals else "true", defaults[name])
        else:
            known = ", ".join([*variants, *defaults])
            raise ValueError(f"unknown config argument {word!r}; known: {known}")
    return choices


def _value(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError(f"config argument {name} is true or false, got {text!r}")
        return text.lower() in ("true", "1")
    try:
        return type(default)(text)
    except ValueError as error:
        kind = type(default).__name__
        raise ValueError(f"config argument {name} is {kind}, got {text!r}") from error


def splits(is_small: bool) -> dict[str, int]:
    """How many rows are held out of a folder that has no split folders.

    The same numbers in every config that reads the folder, or its jobs would train on
    each other's test rows.
    """
    if is_small:
        return {"num_validation": 50, "num_test": 300}
    return {"num_validation": 2_000, "num_test": 5_000}


def source() -> dict[str, Any]:
    """How a folder of people's pictures is read, and what of it is taken."""
    return {
        # auto: by what lies there. Or tfds, imagefolder, coco, tar, parquet, jsonl,
        # folder (a .txt beside each picture).
        "reader": "auto",
        "licences": (),  # the only ones taken, "" for unknown; none given: all
        "source": "",  # name for rows without a column `source`
        "keep_uncaptioned": False,  # pictures without text as documents of their own
        "text_column": "",  # empty: text, caption, TEXT or prompt
        "image_column": "",  # of parquet and TFDS; empty: the only one there is
    }
