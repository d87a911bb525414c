"""Laws of the engine, with random weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cm3leon_jax import sharding
from cm3leon_jax.decoding import engine, grammar, loop, prompts, sampling, scoring
from cm3leon_jax.decoding.prompts import Request
from cm3leon_jax.decoding.sampling import Sampling

SHAPES = engine.Shapes(rows=(8,), prompt_lengths=(32,), steps=(24,), num_pieces=(12,))


# Jitted whole: op by op, every op would be compiled by itself.
_forward = jax.jit(lambda model, *rows: model.head(model(*rows)))
_extend = jax.jit(lambda model, *rows: model.extend(*rows))
_head = jax.jit(lambda model, x_BLD: model.head(x_BLD))
_prefill = jax.jit(loop.prefill, static_argnums=3)


def _prompt(vocab, seed, length):
    rng = np.random.default_rng(seed)
    return np.concatenate([[vocab.EOS], rng.integers(4, vocab.size, length - 1)])


def _random_plan(vocab, rng):
    """A few pieces of every sort, as interleaved documents and infills have them."""
    plan = []
    for _ in range(rng.integers(1, 4)):
        kind = rng.integers(4)
        if kind == 0:
            plan.append(grammar.codes(int(rng.integers(1, 6)), vocab))
        elif kind == 1:
            stop = vocab.break_id if rng.integers(2) else vocab.end_of_infill_id
            plan.append(grammar.text(int(rng.integers(1, 6)), 20, stop))
        elif kind == 2:
            plan.append(grammar.mark(vocab.sentinel_id(int(rng.integers(8)))))
        else:
            plan.append(grammar.text(1, 20, vocab.EOS))
    return tuple(plan)


def test_random_weights_never_write_an_ill_formed_answer(model, vocab):
    """Thousands of steps over random plans and settings, all streams and filters."""
    rng = np.random.default_rng(0)
    settings = [
        (1, Sampling()),
        (1, Sampling(temperature=3.0, top_k=3, top_p=0.9)),
        (2, Sampling(guidance=4.0, temperature=2.0)),
        (2, Sampling(contrast_k=2, contrast_alpha=0.3, amateur_temperature=0.7)),
        (3, Sampling(guidance=7.5, image_guidance=1.5)),
    ]
    requests = []
    for number in range(480):
        streams, how = settings[number % len(settings)]
        ids = [_prompt(vocab, number + s, 2 + number % 30) for s in range(streams)]
        plan = _random_plan(vocab, rng)
        requests.append(Request(tuple(ids), plan, number, how))
    answers = engine.generate(model, requests, vocab, SHAPES)
    assert sum(map(len, answers)) > 2_000
    for request, answer in zip(requests, answers, strict=True):
        grammar.split(request.plan, answer)  # raises unless well formed


@pytest.mark.parametrize("length", [2, 20])
def test_cached_guided_decoding_equals_the_full_forward_pass(model, vocab, length):
    """Greedy, guided, left padded beside a longer row; re-scored without a cache."""
    how = Sampling(temperature=0.0, guidance=3.0)
    streams = (_prompt(vocab, 1, length), prompts.unconditional(vocab))
    other = (_prompt(vocab, 2, 31), prompts.unconditional(vocab))
    plan = (grammar.picture(vocab),)
    answer, _ = engine.generate(
        model,
        [Request(streams, plan, 0, how), Request(other, plan, 1, how)],
        vocab,
        SHAPES,
    )
    logits = []
    for stream in streams:
        ids = np.concatenate([stream, answer])[None].astype(np.int32)
        positions = jnp.arange(ids.shape[1])[None]
        every = np.asarray(_forward(model, ids, positions, jnp.ones_like(ids)))[0]
        every = every[:, vocab.image_start : vocab.control_start]
        logits.append(every[len(stream) - 1 : -1])
    guided = logits[1] + 3.0 * (logits[0] - logits[1])
    np.testing.assert_array_equal(answer, vocab.image_start + guided.argmax(axis=-1))


def _teacher_forced(model, prompts_, answer):
    """Logits before each id of an answer, float32[R, T, V], through the cache."""
    rows, longest = len(prompts_), max(map(len, prompts_))
    lengths = np.array([len(prompt) for prompt in prompts_])
    padded = np.zeros((rows, longest), np.int32)
    for row, prompt in enumerate(prompts_):
        padded[row, longest - len(prompt) :] = prompt
    cache = _prefill(model, padded, lengths, longest + len(answer))
    fed, logits = padded[:, -1:], []
    for step, chosen in enumerate(answer):
        x_R1D, cache = _extend(model, fed, (lengths - 1 + step)[:, None], cache)
        logits.append(np.asarray(_head(model, x_R1D))[:, 0])
        fed = np.full((rows, 1), chosen, np.int32)
    return np.stack(logits, axis=1)


def test_every_step_equals_the_full_forward_pass_at_every_batch_size(model, vocab):
    """Left padding, a guidance row; beside them all sequences packed in one row."""
    streams = [
        _prompt(vocab, seed, length) for seed, length in ((1, 3), (2, 9), (3, 20))
    ]
    streams.append(prompts.unconditional(vocab))
    answer = vocab.image_ids(np.arange(9)).astype(np.int32)
    whole = [np.concatenate([stream, answer]) for stream in streams]
    packed = [
        np.concatenate(each)[None].astype(np.int32)
        for each in zip(
            *(
                (ids, np.arange(len(ids)), np.full(len(ids), number + 1))
                for number, ids in enumerate(whole)
            ),
            strict=True,
        )
    ]
    full = np.asarray(_forward(model, *packed))[0]
    ends = np.cumsum([len(ids) for ids in whole])
    expected = np.stack([full[end - 10 : end - 1] for end in ends])
    together = _teacher_forced(model, streams, answer)
    np.testing.assert_allclose(together, expected, rtol=1e-5, atol=1e-5)
    for rows in (1, 8):
        chosen = [number % 4 for number in range(rows)]
        other = _teacher_forced(model, [streams[number] for number in chosen], answer)
        np.testing.assert_allclose(other, together[chosen], rtol=1e-5, atol=1e-5)


def test_extend_with_left_padding_equals_the_full_forward_pass(model, vocab):
    prompt = _prompt(vocab, 3, 9).astype(np.int32)
    padded = np.concatenate([[vocab.PAD] * 5, prompt]).astype(np.int32)
    positions = np.maximum(np.arange(14) - 5, 0)[None]
    cache = model.init_cache(1, 14)
    valid = (np.arange(14) >= 5)[None]
    rows = (padded[None, :-1], positions[:, :-1], cache, valid[:, :-1])
    _, cache = _extend(model, *rows)
    last_BLD, _ = _extend(model, padded[None, -1:], positions[:, -1:], cache)
    ones = np.ones((1, 9), np.int32)
    full_BLV = _forward(model, prompt[None], np.arange(9)[None], ones)
    np.testing.assert_allclose(
        model.head(last_BLD)[0, 0], full_BLV[0, -1], rtol=1e-5, atol=1e-5
    )


def _requests(vocab, seeds, how=Sampling(), length=9):  # noqa: B008 - frozen
    """Draws, texts and regions in turn, one prompt and seed each."""
    plans = [
        (grammar.picture(vocab),),
        (grammar.text(12, 20, vocab.end_of_infill_id),),
        (
            grammar.codes(2, vocab),
            grammar.mark(vocab.break_id),
            grammar.codes(3, vocab),
        ),
    ]
    streams = 1 + how.is_guided
    return [
        Request(
            tuple(_prompt(vocab, seed + s, length + seed % 5) for s in range(streams)),
            plans[seed % 3],
            seed,
            how,
        )
        for seed in seeds
    ]


def test_answers_do_not_depend_on_batch_neighbours(model, vocab):
    requests = _requests(vocab, range(8))
    together = engine.generate(model, requests, vocab, SHAPES)
    for index in (0, 1, 2, 7):
        strangers = _requests(vocab, range(100 + index, 103 + index))
        mixed = [*strangers, requests[index]]
        answer = engine.generate(model, mixed, vocab, SHAPES)[-1]
        np.testing.assert_array_equal(answer, together[index])


def test_answers_depend_on_the_seed(model, vocab):
    request = _requests(vocab, [0])[0]
    others = [dataclasses.replace(request, seed=seed) for seed in range(8)]
    answers = engine.generate(model, others, vocab, SHAPES)
    assert len({answer.tobytes() for answer in answers}) == 8


def test_greedy_does_not_depend_on_the_seed(model, vocab):
    request = _requests(vocab, [1], Sampling(temperature=0.0))[0]
    others = [dataclasses.replace(request, seed=seed) for seed in range(8)]
    answers = engine.generate(model, others, vocab, SHAPES)
    assert len({answer.tobytes() for answer in answers}) == 1


def test_top_p_of_one_is_plain_and_guidance_of_one_is_conditional(model, vocab):
    plain = engine.generate(model, _requests(vocab, range(6)), vocab, SHAPES)
    filtered = _requests(vocab, range(6), Sampling(top_k=vocab.size))  # sorts, keeps
    for expected, got in zip(
        plain, engine.generate(model, filtered, vocab, SHAPES), strict=True
    ):
        np.testing.assert_array_equal(got, expected)
    for request, expected in zip(_requests(vocab, range(3)), plain, strict=False):
        # Three streams whose two scales are near 1: guided, yet the conditional.
        near = Sampling(guidance=1.0, image_guidance=1.0 + 1e-7)
        neither = prompts.unconditional(vocab)
        streams = (request.streams[0], neither, neither)
        steered = dataclasses.replace(request, streams=streams, sampling=near)
        got = engine.generate(model, [steered], vocab, SHAPES)[0]
        np.testing.assert_array_equal(got, expected)


def test_another_length_in_the_bucket_does_not_compile_again(model, vocab):
    engine.generate(model, _requests(vocab, [0], length=9), vocab, SHAPES)
    before = loop.decode._cache_size()
    how = Sampling(temperature=0.7)
    engine.generate(model, _requests(vocab, [1, 2], how, length=14), vocab, SHAPES)
    assert loop.decode._cache_size() == before


@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_a_mesh_of_8_devices_writes_what_one_writes(model, vocab, axes):
    """Rows shared out; and the model cut, too: two heads on as many devices."""
    mesh = sharding.make_mesh(sharding.MeshConfig(**{"fsdp": 1} | axes))
    placed = engine.place(model, mesh)
    cut = placed.blocks[0].up_DF[...].addressable_shards[0].data.size
    assert cut * mesh.size == model.blocks[0].up_DF[...].size * axes["data"]
    requests = _requests(vocab, range(7))
    if "tensor" in axes:
        requests += _requests(vocab, (0, 3, 6), Sampling(guidance=3.0))
    finished = []
    shapes = dataclasses.replace(SHAPES, rows=(6,))  # rounded up to 8
    shared = engine.generate(placed, requests, vocab, shapes, finished.append, mesh)
    alone = engine.generate(model, requests, vocab, SHAPES)
    assert sum(finished) == len(requests)
    for one, other in zip(shared, alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_that_a_mesh_cannot_cut_is_refused(model):
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=1, tensor=4))
    with pytest.raises(ValueError, match="heads=2 must be a multiple of.*tensor=4"):
        engine.place(model, mesh)


def test_samples_that_share_their_prompt_are_those_that_do_not(model, vocab):
    """Guided, so that the second stream is shared too; one prompt is another's."""
    how = Sampling(guidance=3.0)
    neither = prompts.unconditional(vocab)
    plan = (grammar.picture(vocab),)
    requests = [
        Request((_prompt(vocab, seed % 2, 20), neither), plan, seed, how)
        for seed in range(6)
    ]
    apart = engine.generate(model, requests, vocab, SHAPES)
    sharing = dataclasses.replace(SHAPES, share_from=1)
    inputs, kind = engine._inputs(
        requests, engine.check(requests[0], vocab, sharing, 96), sharing
    )
    assert kind.num_prompts == 4  # two prompts, the unconditional one, padding rows
    assert inputs.which_R.shape == (16,)
    together = engine.generate(model, requests, vocab, sharing)
    np.testing.assert_array_equal(together, apart)


def test_a_stream_of_looks_ends_in_what_generate_writes(model, vocab):
    how = Sampling(guidance=2.0, top_p=0.9)
    requests = _requests(vocab, (0, 3), how)  # pictures of 9 codes
    looks = list(engine.stream(model, requests, vocab, 4, SHAPES))
    assert [len(look[0]) for look in looks] == [4, 8, 9]
    whole = engine.generate(model, requests, vocab, SHAPES)
    for look in looks:
        for so_far, ids in zip(look, whole, strict=True):
            np.testing.assert_array_equal(so_far, ids[: len(so_far)])


def test_requests_that_are_not_alike_are_not_streamed(model, vocab):
    requests = [_requests(vocab, [0])[0], _requests(vocab, [0], Sampling(top_k=3))[0]]
    with pytest.raises(ValueError, match="2 requests of 2 shapes"):
        next(engine.stream(model, requests, vocab, 4, SHAPES))


def test_scores_equal_the_full_forward_pass(model, vocab):
    prompt, continuation = _prompt(vocab, 4, 6), _prompt(vocab, 5, 5)
    short = scoring.scores(
        model, [prompt, prompt[:2]], [continuation, continuation[:1]], SHAPES
    )
    ids = np.concatenate([prompt, continuation]).astype(np.int32)[None]
    logits = np.asarray(_forward(model, ids, np.arange(11)[None], np.ones_like(ids)))[0]
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = log_probs[np.arange(5, 10), continuation]
    np.testing.assert_allclose(short[0], expected, rtol=1e-5, atol=1e-5)
    assert len(short[1]) == 1


def test_a_prompt_without_room_is_refused(model, vocab):
    long = Request((_prompt(vocab, 0, 90),), (grammar.picture(vocab),))
    with pytest.raises(ValueError, match="99 ids.*96 positions.*shorten"):
        engine.generate(model, [long], vocab, engine.DEFAULT_SHAPES)


def test_contrast_with_guidance_is_refused():
    with pytest.raises(ValueError, match="contrast_k=4 and guidance=3.0"):
        Sampling(contrast_k=4, guidance=3.0)


@pytest.mark.parametrize(
    "wrong", [{"top_p": 0.0}, {"top_k": -1}, {"temperature": -1.0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        sampling.Sampling(**wrong)
