"""Training objectives: pure functions from token ids to one unpadded training sequence.

Causal language modelling, prefix language modelling, and UL2's mixture of denoisers (Tay et al. 2022, arXiv 2205.05131)
for a decoder-only model: the corrupted text is the input, the masked spans are the target of the same sequence.
"""

import dataclasses
import functools
import math
from typing import Literal, NamedTuple

import numpy as np

from finetune_scaling.data.tokenizers.interface import SpecialTokens
from finetune_scaling.errors import ConfigError

Ids = np.ndarray  # int32[n]


class TokenSequence(NamedTuple):
    """One training sequence of n tokens, each predicting the next: targets[i] follows tokens[i].

    tokens, targets: int32[n]; weights: float32[n], 1 where the target counts in the loss;
    prefix: bool[n], True on inputs that all positions may attend to.
    """

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    prefix: np.ndarray


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """One component of UL2's mixture.

    mode R or X: a fraction `rate` of the tokens is masked, in spans of `mean_span` tokens on average.
    mode S: prefix language modelling; the last k tokens are the target, k uniform with mean `rate` of the text.
    weight: relative weight in the mixture.
    """

    mode: Literal["R", "X", "S"]
    rate: float
    mean_span: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        checks = (
            ("rate", 0 < self.rate < 1, "be between 0 and 1"),
            ("rate", self.mode != "S" or self.rate <= 0.5, "be at most 0.5 in mode S, where every split is as likely"),
            ("mean_span", self.mode == "S" or self.mean_span >= 1, f"be at least 1 token in mode {self.mode}"),
            ("weight", 0 < self.weight < math.inf, "be positive"),
        )
        for name, valid, requirement in checks:
            if not valid:
                raise ConfigError(f"objective.denoisers: {name} = {getattr(self, name)} must {requirement}")


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
    """The pretraining objective; `denoisers` is used by ul2, `bidirectional_input` by prefix_lm and ul2."""

    name: Literal["causal", "prefix_lm", "ul2"] = "ul2"
    bidirectional_input: bool = True
    denoisers: tuple[Denoiser, ...] = UL2_DENOISERS

    def __post_init__(self) -> None:
        if self.name == "ul2" and not self.denoisers:
            raise ConfigError("objective.denoisers is empty; ul2 needs at least one denoiser")

    @property
    def bidirectional(self) -> bool:
        """Whether inputs are bidirectional (prefix LM)."""
        return self.bidirectional_input and self.name != "causal"


def causal(ids: Ids, special: SpecialTokens, *, append_eos: bool = True) -> TokenSequence:
    """Return the sequence that predicts every token of `ids` [n] from the preceding ones, and eos if `append_eos`."""
    return prefix_lm(ids[:0], ids, special, bidirectional=False, append_eos=append_eos)


def prefix_lm(
    input_ids: Ids, target_ids: Ids, special: SpecialTokens, *, bidirectional: bool, append_eos: bool = True
) -> TokenSequence:
    """Return the sequence, of length n + m + append_eos, that predicts `target_ids` [m] and eos from `input_ids` [n].

    s = input + target + eos; tokens = bos + s[:-1]; targets = s; weights are 1 from the first target on.
    If `bidirectional` and the input is not empty, prefix is True on bos and the input. Without bos, the first position
    is dropped, because no token precedes it.
    """
    start = len(input_ids)
    targets = np.empty(start + len(target_ids) + append_eos, np.int32)
    targets[:start] = input_ids
    targets[start : start + len(target_ids)] = target_ids
    if append_eos:
        targets[-1] = special.eos_id
    tokens = np.empty_like(targets)
    tokens[:1] = special.bos_id or 0  # without bos, this position is dropped below
    tokens[1:] = targets[:-1]
    weights = np.ones(len(targets), np.float32)
    weights[:start] = 0
    prefix = np.zeros(len(targets), np.bool_)
    prefix[: start + 1] = bidirectional and start > 0
    sequence = TokenSequence(tokens, targets, weights, prefix)
    return sequence if special.bos_id is not None else TokenSequence(*(field[1:] for field in sequence))


def split_prefix(
    ids: Ids,
    rate: float,
    special: SpecialTokens,
    rng: np.random.Generator,
    *,
    bidirectional: bool,
    append_eos: bool = True,
    mode: str = "",
) -> TokenSequence:
    """Return a prefix LM sequence of one text: the last k of n >= 1 tokens are the target, k uniform on 1..2 rate n."""
    max_target = max(1, min(len(ids), round(2 * rate * len(ids))))
    start = len(ids) - int(rng.integers(1, max_target + 1))
    input_ids = np.append(special.mode_ids[mode], ids[:start]) if mode else ids[:start]
    return prefix_lm(input_ids, ids[start:], special, bidirectional=bidirectional, append_eos=append_eos)


def denoise(
    ids: Ids,
    denoiser: Denoiser,
    special: SpecialTokens,
    rng: np.random.Generator,
    *,
    bidirectional: bool,
    append_eos: bool = True,
) -> TokenSequence:
    """Return a span corruption sequence (Raffel et al. 2020, section 3.1.4) of `ids` [n], n >= 1, for a decoder.

    input = mode token, then the text with each masked span replaced by a distinct sentinel;
    target = for each span its sentinel and its tokens; then eos. The length is n + 2 spans + 2.
    Short texts have fewer and shorter spans: at least one token is masked and, if n >= 2, at least one is kept.
    """
    noise, spans = _noise_and_spans_of_one(len(ids), denoiser)
    masked, first = _noise_mask(len(ids), noise, spans, rng)
    sentinels = np.asarray(special.sentinel_ids[:spans], np.int32)
    with_sentinels = np.array(ids, np.int32)
    with_sentinels[first] = sentinels
    input_ids = np.append(special.mode_ids[denoiser.mode], with_sentinels[~masked | first])
    masked_positions = np.flatnonzero(masked)
    span_of = np.cumsum(first[masked_positions])  # 1-based: the number of sentinels before the token
    target_ids = np.empty(noise + spans, np.int32)
    target_ids[np.arange(noise) + span_of] = ids[masked_positions]
    target_ids[np.flatnonzero(first[masked_positions]) + np.arange(spans)] = sentinels
    return prefix_lm(input_ids, target_ids, special, bidirectional=bidirectional, append_eos=append_eos)


def sample_denoisers(count: int, config: ObjectiveConfig, rng: np.random.Generator) -> np.ndarray:
    """Sample indices [count] into config.denoisers by weight; zeros for objectives without a mixture."""
    if config.name != "ul2":
        return np.zeros(count, np.int32)
    weights = np.array([denoiser.weight for denoiser in config.denoisers])
    return rng.choice(len(weights), size=count, p=weights / weights.sum()).astype(np.int32)


def apply_objective(
    ids: Ids,
    denoiser_index: int,
    config: ObjectiveConfig,
    special: SpecialTokens,
    rng: np.random.Generator,
    *,
    append_eos: bool = True,
) -> TokenSequence:
    """Return the training sequence of `ids` [n]; denoiser_index is used by ul2.

    append_eos: False for a chunk that its document continues after, since eos means the end of a text.
    """
    if config.name == "causal":
        return causal(ids, special, append_eos=append_eos)
    both_ways = config.bidirectional_input
    if config.name == "prefix_lm":
        return split_prefix(ids, 0.5, special, rng, bidirectional=both_ways, append_eos=append_eos)
    denoiser = config.denoisers[denoiser_index]
    if denoiser.mode == "S":
        return split_prefix(ids, denoiser.rate, special, rng, bidirectional=both_ways, append_eos=append_eos, mode="S")
    return denoise(ids, denoiser, special, rng, bidirectional=both_ways, append_eos=append_eos)


def sequence_lengths(lengths: np.ndarray, denoisers: np.ndarray, config: ObjectiveConfig) -> np.ndarray:
    """Return the lengths [N] of the sequences of texts of `lengths` [N] with eos; denoisers: indices [N]."""
    if config.name != "ul2":
        return lengths + 1
    result = lengths + 2  # mode token and eos
    for index, denoiser in enumerate(config.denoisers):
        if denoiser.mode != "S":
            chosen = denoisers == index
            result[chosen] += 2 * noise_and_spans(lengths[chosen], denoiser)[1]
    return result


def max_text_tokens(length: int, config: ObjectiveConfig) -> int:
    """Return the length of the longest text that fits `length` under every denoiser. Raises ConfigError if none."""
    denoisers = np.arange(len(config.denoisers) if config.name == "ul2" else 1)
    for size in range(length, 0, -1):
        if sequence_lengths(np.full(len(denoisers), size), denoisers, config).max() <= length:
            return size
    raise ConfigError(f"length = {length} is too short for the objective {config.name}; set at least 8")


def required_sentinels(length: int, config: ObjectiveConfig) -> int:
    """Return the number of sentinels that a tokenizer must have for sequences of `length` tokens."""
    if config.name != "ul2":
        return 0
    size = np.asarray(max_text_tokens(length, config))
    return max((int(noise_and_spans(size, d)[1]) for d in config.denoisers if d.mode != "S"), default=0)


def noise_and_spans(lengths: np.ndarray | int, denoiser: Denoiser) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of masked tokens and of spans of texts of `lengths` (any shape, each >= 1)."""
    lengths = np.asarray(lengths)
    noise = np.clip(np.rint(lengths * denoiser.rate), 1, np.maximum(lengths - 1, 1)).astype(lengths.dtype)
    max_spans = np.maximum(np.minimum(noise, lengths - noise), 1)
    spans = np.clip(np.rint(noise / denoiser.mean_span), 1, max_spans).astype(lengths.dtype)
    return noise, spans


@functools.lru_cache(maxsize=16384)
def _noise_and_spans_of_one(length: int, denoiser: Denoiser) -> tuple[int, int]:
    noise, spans = noise_and_spans(length, denoiser)
    return int(noise), int(spans)


def _noise_mask(length: int, noise: int, spans: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sample the masked positions and the first position of each span, bool [length] each.

    Kept and masked segments alternate. T5's mask always keeps the first token and masks the last; here a text may begin
    and end with either, because a short text, which has one span, would otherwise always lose its end.
    """
    segments = np.empty(2 * spans + 1, np.int64)
    kept = _random_composition(length - noise + 2, spans + 1, rng)
    kept[[0, -1]] -= 1
    segments[0::2] = kept
    segments[1::2] = _random_composition(noise, spans, rng)
    masked = np.repeat(np.arange(2 * spans + 1) % 2 == 1, segments)
    first = np.zeros(length, np.bool_)
    first[np.cumsum(segments)[0:-1:2]] = True
    return masked, first


def _random_composition(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Sample `parts` positive integers that sum to `total`, uniformly (a random composition)."""
    edges = np.empty(parts + 1, np.int64)
    edges[0], edges[-1] = 0, total
    edges[1:-1] = np.sort(rng.permutation(total - 1)[: parts - 1]) + 1
    return edges[1:] - edges[:-1]
