"""Strings that no file of text can hold."""


def check(text: str) -> None:
    """Refuses a lone surrogate, which no UTF-8 can carry.

    Raises:
      ValueError: If there is one, naming its place.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text is not valid Unicode at character {error.start}; decode its"
            " source with errors='replace' or drop it"
        ) from error
