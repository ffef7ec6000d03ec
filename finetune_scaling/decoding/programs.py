"""The compiled programs of decoding: prefill, a chunk of steps, and resizing a batch between chunks.

Within a chunk the cache has a fixed size, so that early steps attend to few slots; between chunks it grows and ended
rows are removed. A step writes K new slots per row, one for each of its texts, and changes no earlier slot: a mask says
which slots a text attends to, and beams are reordered by permuting the mask, not the cache. So the texts of a row share
the slots of their prompt and of common prefixes.

Parameters are arguments: other adapters and prompts of the same shapes use the same programs.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from finetune_scaling.decoding.search import Outputs, RowInputs, Search, Termination
from finetune_scaling.models.cache import (
    Cache,
    empty_cache,
    grow_cache,
    select_rows,
    slot_count,
    unstack_layers,
    unstacks_layers,
)
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.models.token_layout import TokenLayout, in_window
from finetune_scaling.sharding.axes import DEFAULT_RULES, AxisRules, constrain
from finetune_scaling.trees import Tree, merge
from finetune_scaling.tuning.method import TuningMethod
from finetune_scaling.tuning.partition import combine

Array = jax.Array


class Batch(NamedTuple):
    """Prompts int32 [B, L], padded on the right; their lengths int32 [B], 0 in rows of padding; other inputs."""

    prompts: Any  # arrays of JAX or NumPy, or their shapes
    lengths: Any
    row: RowInputs


class Decoding(NamedTuple):
    """The state of a batch during decoding.

    cache: keys and values of S slots; end: int32 scalar, slots in use. visible: bool [B, K, S], the slots that each
    text attends to. position: int32 [B], of the next tokens. written: int32 scalar, tokens chosen so far. search: the
    search's state. slot_positions: int32 [B, S], the position of each slot in use, if the model has windows.
    """

    cache: Cache
    end: Array
    visible: Array
    position: Array
    written: Array
    search: Any
    slot_positions: Array | None = None


@dataclasses.dataclass(frozen=True)
class TextDecoder:
    """A model, its tuning method and a decoding method. Hashable: it keys the compiled programs.

    longest: maximal number of new tokens. end_ids: ids that end a text. bidirectional_input: attention within prompts
    is bidirectional.
    """

    config: ModelConfig
    tuning: TuningMethod
    search: Search
    longest: int
    end_ids: tuple[int, ...]
    bidirectional_input: bool = False
    axes: AxisRules = DEFAULT_RULES

    @property
    def model(self) -> LanguageModel:
        return LanguageModel(self.config, self.tuning.adapter, self.axes)

    def slots(self, width: int) -> int:
        """Return the number of slots that prompts of `width` tokens need until the end."""
        return self.tuning.prompt_length + width + self.search.width * self.longest


class Programs(NamedTuple):
    """Compiled functions.

    prepare(trainable, frozen) -> params, the parameters as the other functions take them
    prefill(params, batch, table, slots) -> the batch after its first tokens, with a cache of `slots` slots
    chunk(params, decoding, table) -> the batch when its cache is full or all rows have ended, and its texts
    resize(decoding, rows int32 [R], slots) -> those rows with a cache of `slots` slots
    """

    prepare: Callable[[Tree, Tree], Params]
    prefill: Callable[..., Decoding]
    chunk: Callable[..., tuple[Decoding, Outputs]]
    resize: Callable[..., Decoding]


@functools.lru_cache(maxsize=64)
def make_programs(decoder: TextDecoder, unstacked: bool) -> Programs:
    """Build the programs of a decoder; unstacked: whether layers are unstacked (models/cache.py)."""

    config, derived = decoder.config, decoder.tuning.derived
    unstack = jax.jit(lambda params: unstack_layers(params, config.layers))
    derive = None if derived is None else jax.jit(functools.partial(derived, config))

    def prepare(trainable: Tree, frozen: Tree) -> Params:
        params = combine(trainable, frozen)
        if derive is not None:
            params = merge(params, derive(params))
        return unstack(params) if unstacked else params  # stacked layers are used without a copy

    return Programs(
        prepare=prepare,
        prefill=jax.jit(functools.partial(_prefill, decoder, unstacked), static_argnames="slots"),
        chunk=jax.jit(functools.partial(_chunk, decoder), donate_argnums=1),
        resize=jax.jit(functools.partial(_resize, decoder.axes), static_argnames="slots"),
    )


@functools.lru_cache(maxsize=64)
def make_unchunked_program(decoder: TextDecoder) -> Callable[[Tree, Tree, Batch], Outputs]:
    """Build prefill and all steps as one program, which needs at least as much memory as the chunks."""

    def generate_unchunked(trainable: Tree, frozen: Tree, batch: Batch) -> Outputs:
        params, unstacked = decoder.tuning.model_params(decoder.config, combine(trainable, frozen)), unstacks_layers()
        params = unstack_layers(params, decoder.config.layers) if unstacked else params
        decoding = _prefill(decoder, unstacked, params, batch, None, decoder.slots(batch.prompts.shape[1]))
        decoding = _advance_until(decoder, params, decoding, None, decoder.longest)
        return _replicated(decoder.search.outputs(decoding.search), decoder.axes)

    return jax.jit(generate_unchunked)


def _prefill(
    decoder: TextDecoder, unstacked: bool, params: Params, batch: Batch, table: Array | None, slots: int
) -> Decoding:
    rows, width = batch.prompts.shape
    model, tuning, search = decoder.model, decoder.tuning, decoder.search
    real = jnp.arange(width) < batch.lengths[:, None]
    layout = TokenLayout(
        positions=jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), (rows, width)),
        segments=real.astype(jnp.int32),
        prefix=real if decoder.bidirectional_input else None,
    )
    embeddings, layout = tuning.embed(model, params, batch.prompts, layout)
    cache = empty_cache(decoder.config, decoder.axes, rows, slots, unstacked)
    hidden, filled = model.forward(params, embeddings, layout, cache)
    assert filled is not None
    last = tuning.prompt_length + jnp.maximum(batch.lengths, 1) - 1
    logits = model.unembed(params, jnp.take_along_axis(hidden, last[:, None, None], axis=1))  # [B, 1, V]
    logits = jnp.broadcast_to(logits, (rows, search.width, logits.shape[-1]))
    written = jnp.zeros((), jnp.int32)
    termination = Termination(decoder.end_ids, table)
    state, _ = search.advance(
        search.begin(batch.row, batch.lengths == 0, decoder.longest), logits, termination, written
    )
    end = tuning.prompt_length + width
    visible = jnp.pad(layout.segments != 0, ((0, 0), (0, slots - end)))
    return Decoding(
        cache=filled,
        end=jnp.int32(end),
        visible=jnp.broadcast_to(visible[:, None], (rows, search.width, slots)),
        position=tuning.prompt_length + batch.lengths,
        written=written + 1,
        search=state,
        slot_positions=None if decoder.config.window is None else jnp.pad(layout.positions, ((0, 0), (0, slots - end))),
    )


def _chunk(decoder: TextDecoder, params: Params, decoding: Decoding, table: Array | None) -> tuple[Decoding, Outputs]:
    steps = (slot_count(decoding.cache) - decoding.end) // decoder.search.width
    until = jnp.minimum(decoding.written + steps, decoder.longest)
    decoding = _advance_until(decoder, params, decoding, table, until)
    return decoding, _replicated(decoder.search.outputs(decoding.search), decoder.axes)


def _advance_until(
    decoder: TextDecoder, params: Params, decoding: Decoding, table: Array | None, until: Array | int
) -> Decoding:
    """Decode until `until` tokens are written or all rows have ended."""
    unfinished = lambda state: (state.written < until) & ~decoder.search.outputs(state.search).ended.all()  # noqa: E731
    return jax.lax.while_loop(unfinished, functools.partial(_advance, decoder, params, table), decoding)


def _advance(decoder: TextDecoder, params: Params, table: Array | None, decoding: Decoding) -> Decoding:
    model, width = decoder.model, decoder.search.width
    tokens = decoding.search.token
    own = jnp.broadcast_to(jnp.eye(width, dtype=bool), (tokens.shape[0], width, width))
    visible = jax.lax.dynamic_update_slice_in_dim(decoding.visible, own, decoding.end, axis=2)
    positions = jnp.broadcast_to(decoding.position[:, None], tokens.shape)
    slot_positions, visible_locally = decoding.slot_positions, None
    if slot_positions is not None and model.config.window is not None:
        slot_positions = jax.lax.dynamic_update_slice_in_dim(slot_positions, positions, decoding.end, axis=1)
        visible_locally = visible & in_window(positions[:, :, None], slot_positions[:, None], model.config.window)
    embeddings = model.embed(params, tokens)
    hidden, cache = model.extend(params, embeddings, positions, visible, decoding.cache, decoding.end, visible_locally)
    logits = model.unembed(params, hidden)
    termination = Termination(decoder.end_ids, table)
    state, parent = decoder.search.advance(decoding.search, logits, termination, decoding.written)
    return Decoding(
        cache=cache,
        end=decoding.end + width,
        visible=visible if parent is None else jnp.take_along_axis(visible, parent[..., None], axis=1),
        position=decoding.position + 1,
        written=decoding.written + 1,
        search=state,
        slot_positions=slot_positions,
    )


def _resize(axes: AxisRules, decoding: Decoding, rows: Array, slots: int) -> Decoding:
    def take(leaf: Array) -> Array:
        return constrain(jnp.take(leaf, rows, axis=0), axes, "batch", *[None] * (leaf.ndim - 1))

    def grow(leaf: Array) -> Array:
        return jnp.pad(take(leaf), [(0, 0)] * (leaf.ndim - 1) + [(0, slots - leaf.shape[-1])])

    return decoding._replace(
        cache=grow_cache(select_rows(decoding.cache, rows), slots),
        visible=grow(decoding.visible),
        position=take(decoding.position),
        search=jax.tree.map(take, decoding.search),
        slot_positions=jax.tree.map(grow, decoding.slot_positions),
    )


def _replicated(texts: Outputs, axes: AxisRules) -> Outputs:
    """Replicate the texts, so that every process can read them."""
    return jax.tree.map(lambda leaf: constrain(leaf, axes, *[None] * leaf.ndim), texts)
