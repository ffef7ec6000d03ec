"""Decoding options: method, its parameters and termination."""

import dataclasses
from typing import Any, Literal

from finetune_scaling.configuration import Text
from finetune_scaling.errors import ConfigError

DecodingMethod = Literal["greedy", "beam", "sample"]
PenaltyForm = Literal["hf", "gnmt"]

_WHERE = "decoding"


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """Options of decoding. The default is greedy decoding up to the task's longest target.

    beam search (method = "beam"): `beams` hypotheses per text, of which the `n_best` best are returned. The score of
    a finished one is its log-probability divided by a penalty of its length n, eos included: n ** length_penalty (form
    "hf", as Hugging Face) or ((5 + n) / 6) ** length_penalty (form "gnmt"; Wu et al., 2016, equation 14).
    early_stopping: True ends once `beams` hypotheses are finished; False once no running one would be better at its
    current length; "never" once none can be better at any length.

    sampling (method = "sample"): logits are divided by `temperature`; then tokens are excluded that are not among the
    `top_k` most likely, not in the smallest set with probability `top_p` (Holtzman et al., 2020), or less likely than
    `min_p` times the most likely one (Nguyen et al., 2024), in this order. An example's text depends on `seed` and not
    on the rest of its batch.

    stop: strings that end a text; they and what follows are cut off. max_new_tokens: None takes the task's longest
    target. max_length_ratio: maximal number of new tokens per input token.
    """

    method: DecodingMethod = "greedy"
    beams: int = 4
    n_best: int = 1
    length_penalty: float = 1.0
    length_penalty_form: PenaltyForm = "hf"
    early_stopping: bool | Literal["never"] = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int = 0
    stop: tuple[Text, ...] = ()
    max_new_tokens: int | None = None
    max_length_ratio: float | None = None

    def __post_init__(self) -> None:
        self._check_method()
        for name in ("beams", "n_best", "top_k", "max_new_tokens"):
            _require(name, getattr(self, name), lambda value: value >= 1, "be at least 1")
        _require("n_best", self.n_best, lambda value: value <= self.beams, f"be at most beams = {self.beams}")
        _require("temperature", self.temperature, lambda value: value > 0, "be above 0; method = 'greedy' is its limit")
        _require("top_p", self.top_p, lambda value: 0 < value <= 1, "be in (0, 1]")
        _require("min_p", self.min_p, lambda value: 0 <= value <= 1, "be in [0, 1]")
        _require("seed", self.seed, lambda value: 0 <= value < 2**32, "be in [0, 2^32)")
        _require("max_length_ratio", self.max_length_ratio, lambda value: value > 0, "be above 0")
        if not all(self.stop):
            raise ConfigError(
                f"{_WHERE}.stop = {list(self.stop)} has an empty string, which would end every text. Fix: remove it"
            )

    def _check_method(self) -> None:
        """Raise ConfigError if an option belongs to another method and would have no effect."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for method, names in _OPTIONS.items():
            given = [name for name in names if getattr(self, name) != defaults[name]]
            if given and method != self.method:
                raise ConfigError(
                    f"{_WHERE}.{given[0]} = {getattr(self, given[0])!r} is for {_WHERE}.method = {method!r}, not "
                    f"{self.method!r}. Fix: remove it, or change the method"
                )

    def limit(self, longest: int) -> int:
        """Return the maximal number of new tokens, given the task's longest target."""
        return self.max_new_tokens or longest


_OPTIONS: dict[DecodingMethod, tuple[str, ...]] = {
    "beam": ("beams", "n_best", "length_penalty", "length_penalty_form", "early_stopping"),
    "sample": ("temperature", "top_k", "top_p", "min_p", "seed"),
}


def _require(name: str, value: Any, holds: Any, must: str) -> None:
    if value is not None and not holds(value):
        raise ConfigError(f"{_WHERE}.{name} = {value} must {must}")
