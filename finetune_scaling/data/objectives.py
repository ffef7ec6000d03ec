"""Training objectives as pure functions from token ids to one unpadded training sequence.

Causal language modelling, prefix language modelling, and UL2's mixture of denoisers (Tay et al. 2022, arXiv 2205.05131)
for a decoder-only model: the corrupted text is the input, the masked spans are the target of the same sequence.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import numpy as np

from finetune_scaling.configuration import suggestion
from finetune_scaling.data.tokenizers.interface import MODES, SpecialTokens
from finetune_scaling.errors import ConfigError

Ids = np.ndarray  # int32[n]


class TokenSequence(NamedTuple):
    """One training sequence of n tokens, each predicting the next: targets[i] follows tokens[i].

    tokens, targets: int32[n]; weights: float32[n], 1 where the target counts in the loss;
    prefix: bool[n], True on decoder inputs that every later and earlier position may attend to.
    """

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    prefix: np.ndarray


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """One component of UL2's mixture.

    mode R or X: spans of `mean_span` tokens on average are masked until `rate` of the tokens are.
    mode S: prefix language modelling; the last k tokens are the target, k uniform with mean `rate` of the text.
    weight: share in the mixture, relative to the other weights.
    """

    mode: Literal["R", "X", "S"]
    rate: float
    mean_span: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"denoiser mode {self.mode!r} is unknown{suggestion(self.mode, MODES)}")
        if not 0 < self.rate < 1 or self.weight <= 0:
            raise ConfigError(f"denoiser {self}: rate must lie between 0 and 1, and weight above 0")
        if self.mode == "S" and self.rate > 0.5:
            raise ConfigError(f"denoiser {self}: a prefix denoiser's rate is at most 0.5 (any split equally likely)")
        if self.mode != "S" and self.mean_span < 1:
            raise ConfigError(f"denoiser {self}: mean_span must be at least 1 token")


UL2_DENOISERS = (
    Denoiser("R", rate=0.15, mean_span=3, weight=0.125),
    Denoiser("R", rate=0.15, mean_span=8, weight=0.125),
    Denoiser("X", rate=0.5, mean_span=3, weight=0.125),
    Denoiser("X", rate=0.5, mean_span=8, weight=0.125),
    Denoiser("X", rate=0.15, mean_span=64, weight=0.125),
    Denoiser("X", rate=0.5, mean_span=64, weight=0.125),
    Denoiser("S", rate=0.25, weight=0.25),
)


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """The pretraining objective; `denoisers` is read by ul2 only, `bidirectional_input` by prefix_lm and ul2."""

    name: Literal["causal", "prefix_lm", "ul2"] = "ul2"
    bidirectional_input: bool = True
    denoisers: tuple[Denoiser, ...] = UL2_DENOISERS

    def __post_init__(self) -> None:
        if self.name == "ul2" and not self.denoisers:
            raise ConfigError("objective.denoisers is empty; give ul2 at least one denoiser")


def causal(ids: Ids, special: SpecialTokens, *, ends: bool = True) -> TokenSequence:
    """Predicts every token of `ids` [n] from those before it, then eos unless the text goes on (`ends` False)."""
    return prefix_lm(ids[:0], ids, special, bidirectional=False, ends=ends)


def prefix_lm(
    input_ids: Ids, target_ids: Ids, special: SpecialTokens, *, bidirectional: bool, ends: bool = True
) -> TokenSequence:
    """Predicts `target_ids` [m] and eos from `input_ids` [n]; the length is n + m + 1, or n + m where `ends` is False.

    s = input + target + eos; tokens = bos + s[:-1]; targets = s; weights are 1 from the first target on.
    Where `bidirectional`, prefix is True on bos and the input, provided that there is an input. A model without bos
    has the same sequence without its first position: what nothing comes before is not predicted.
    """
    start = len(input_ids)
    targets = np.empty(start + len(target_ids) + ends, np.int32)
    targets[:start] = input_ids
    targets[start : start + len(target_ids)] = target_ids
    if ends:
        targets[-1] = special.eos_id
    tokens = np.empty_like(targets)
    tokens[:1] = special.bos_id or 0  # 0 where there is no bos: it goes with its position
    tokens[1:] = targets[:-1]
    weights = np.ones(len(targets), np.float32)
    weights[:start] = 0
    prefix = np.zeros(len(targets), np.bool_)
    prefix[: start + 1] = bidirectional and start > 0
    whole = TokenSequence(tokens, targets, weights, prefix)
    return whole if special.bos_id is not None else TokenSequence(*(field[1:] for field in whole))


def split_prefix(
    ids: Ids, rate: float, special: SpecialTokens, rng: np.random.Generator, *, bidirectional: bool, mode: str = ""
) -> TokenSequence:
    """Prefix LM over one text: the last k of its n >= 1 tokens are the target, k uniform on 1 .. about 2 rate n."""
    longest = max(1, min(len(ids), round(2 * rate * len(ids))))
    start = len(ids) - int(rng.integers(1, longest + 1))
    input_ids = np.append(special.mode_ids[mode], ids[:start]) if mode else ids[:start]
    return prefix_lm(input_ids, ids[start:], special, bidirectional=bidirectional)


def denoise(
    ids: Ids, denoiser: Denoiser, special: SpecialTokens, rng: np.random.Generator, *, bidirectional: bool
) -> TokenSequence:
    """Span corruption (Raffel et al. 2020, section 3.1.4) of `ids` [n], n >= 1, for a decoder-only model.

    input = mode token, then the text with each masked span replaced by a sentinel of its own;
    target = for each span its sentinel and its tokens; then eos. The length is n + 2 spans + 2.
    A text too short for the denoiser's spans has fewer and shorter ones, at least one masked token and, from two
    tokens on, at least one that is kept (a single token is masked whole).
    """
    noise, spans = _noise_and_spans_of_one(len(ids), denoiser)
    masked, first = _noise_mask(len(ids), noise, spans, rng)
    sentinels = np.asarray(special.sentinel_ids[:spans], np.int32)
    with_sentinels = np.array(ids, np.int32)
    with_sentinels[first] = sentinels
    input_ids = np.append(special.mode_ids[denoiser.mode], with_sentinels[~masked | first])
    masked_positions = np.flatnonzero(masked)
    span_of = np.cumsum(first[masked_positions])  # 1-based: as many sentinels come before
    target_ids = np.empty(noise + spans, np.int32)
    target_ids[np.arange(noise) + span_of] = ids[masked_positions]
    target_ids[np.flatnonzero(first[masked_positions]) + np.arange(spans)] = sentinels
    return prefix_lm(input_ids, target_ids, special, bidirectional=bidirectional)


def ul2(ids: Ids, config: ObjectiveConfig, special: SpecialTokens, rng: np.random.Generator) -> TokenSequence:
    """One draw from UL2's mixture over `ids` [n]: a denoiser by weight, then its noise, both from `rng`."""
    choice = int(sample_denoisers(1, config, rng)[0])
    return apply_objective(ids, choice, config, special, rng)


def sample_denoisers(count: int, config: ObjectiveConfig, rng: np.random.Generator) -> np.ndarray:
    """Indices [count] into config.denoisers, by weight; zeros for objectives without a mixture."""
    if config.name != "ul2":
        return np.zeros(count, np.int32)
    weights = np.array([denoiser.weight for denoiser in config.denoisers])
    return rng.choice(len(weights), size=count, p=weights / weights.sum()).astype(np.int32)


def apply_objective(
    ids: Ids,
    variant: int,
    config: ObjectiveConfig,
    special: SpecialTokens,
    rng: np.random.Generator,
    *,
    ends: bool = True,
) -> TokenSequence:
    """The training sequence of `ids` [n] under the objective; `variant` is the denoiser, `ends` as in `causal`."""
    if config.name == "causal":
        return causal(ids, special, ends=ends)
    if config.name == "prefix_lm":
        return split_prefix(ids, 0.5, special, rng, bidirectional=config.bidirectional_input)
    denoiser = config.denoisers[variant]
    if denoiser.mode == "S":
        return split_prefix(ids, denoiser.rate, special, rng, bidirectional=config.bidirectional_input, mode="S")
    return denoise(ids, denoiser, special, rng, bidirectional=config.bidirectional_input)


def sequence_lengths(lengths: np.ndarray, variants: np.ndarray, config: ObjectiveConfig) -> np.ndarray:
    """Tokens [N] that texts of `lengths` [N] take under the objective, eos counted, without applying it."""
    if config.name != "ul2":
        return lengths + 1
    result = lengths + 2  # mode token and eos
    for index, denoiser in enumerate(config.denoisers):
        if denoiser.mode != "S":
            chosen = variants == index
            result[chosen] += 2 * noise_and_spans(lengths[chosen], denoiser)[1]
    return result


def max_text_tokens(length: int, config: ObjectiveConfig) -> int:
    """The most tokens of text that fit a sequence of `length` whatever the denoiser; ConfigError where none do."""
    variants = np.arange(len(config.denoisers) if config.name == "ul2" else 1)
    for size in range(length, 0, -1):
        if sequence_lengths(np.full(len(variants), size), variants, config).max() <= length:
            return size
    raise ConfigError(f"length = {length} is too short for the objective {config.name}; take at least 8")


def required_sentinels(length: int, config: ObjectiveConfig) -> int:
    """Sentinels that a tokenizer must have for sequences of `length` tokens."""
    if config.name != "ul2":
        return 0
    size = np.asarray(max_text_tokens(length, config))
    return max((int(noise_and_spans(size, d)[1]) for d in config.denoisers if d.mode != "S"), default=0)


def noise_and_spans(lengths: np.ndarray | int, denoiser: Denoiser) -> tuple[np.ndarray, np.ndarray]:
    """Masked tokens and spans that a denoiser takes from texts of `lengths` (any shape, each >= 1)."""
    lengths = np.asarray(lengths)
    noise = np.clip(np.rint(lengths * denoiser.rate), 1, np.maximum(lengths - 1, 1)).astype(lengths.dtype)
    most = np.maximum(np.minimum(noise, lengths - noise), 1)
    spans = np.clip(np.rint(noise / denoiser.mean_span), 1, most).astype(lengths.dtype)
    return noise, spans


@functools.lru_cache(maxsize=16384)
def _noise_and_spans_of_one(length: int, denoiser: Denoiser) -> tuple[int, int]:
    noise, spans = noise_and_spans(length, denoiser)
    return int(noise), int(spans)


def _noise_mask(length: int, noise: int, spans: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Masked positions and the first of each span, bool [length] each.

    Kept and masked runs alternate. Unlike T5's mask, which always keeps the first token and masks the last one, the
    text may begin and end with either: a short text, which has one span, would otherwise always lose its end.
    """
    runs = np.empty(2 * spans + 1, np.int64)
    kept = _random_parts(length - noise + 2, spans + 1, rng)
    kept[[0, -1]] -= 1
    runs[0::2] = kept
    runs[1::2] = _random_parts(noise, spans, rng)
    masked = np.repeat(np.arange(2 * spans + 1) % 2 == 1, runs)
    first = np.zeros(length, np.bool_)
    first[np.cumsum(runs)[0:-1:2]] = True
    return masked, first


def _random_parts(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """`parts` positive integers that add up to `total`, every such tuple equally likely."""
    edges = np.empty(parts + 1, np.int64)
    edges[0], edges[-1] = 0, total
    edges[1:-1] = np.sort(rng.permutation(total - 1)[: parts - 1]) + 1
    return edges[1:] - edges[:-1]
