"""A studio whose writer draws its seed, row by row: what the page does is what counts."""

import dataclasses

import numpy as np
import pytest

from cm3leon_jax import api
from cm3leon_jax.decoding.writer import Result
from cm3leon_jax.serve.studio import Limits, Studio
from cm3leon_jax.vocab import Vocab


class FakeWriter:
    """8-pixel pictures of the seed's grey; refuses the text "impossible"."""

    vocab = Vocab(codes_per_image=16)
    image_size = 8

    def __init__(self):
        self.orders = []

    def run(self, orders, report=None):
        self.orders += orders
        return [
            Result(text=" words")
            if order.wants_text
            else Result(picture=np.full((8, 8, 3), order.seed % 256, np.uint8))
            for order in orders
        ]

    def stream(self, orders):
        last = self.run(orders)
        for rows in (2, 4):
            yield [
                dataclasses.replace(
                    each,
                    picture=np.pad(
                        each.picture[:rows], [(0, 8 - rows), (0, 0), (0, 0)]
                    ),
                )
                for each in last
            ]
        yield last

    def check(self, order):
        if str(order.parts[0]) == "impossible":
            raise ValueError("this cannot be drawn; say something else")


@pytest.fixture
def studio(tmp_path):
    limits = Limits(max_pictures=3, max_letters=20)
    return Studio(api.Model(FakeWriter(), "0123456789abcdef"), tmp_path, limits)
