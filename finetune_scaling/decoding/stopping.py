"""Stop strings across token boundaries: a byte automaton, tabulated by token.

Aho and Corasick's automaton (1975) tracks which prefixes of the stop strings the text ends with. Run once over every
token's bytes from every state, it becomes a table [states, vocabulary]: one look-up per token on the device.
"""

from collections import deque
from collections.abc import Sequence

import jax
import numpy as np

Array = jax.Array

START, FOUND = 0, 1  # states: no text yet; a stop string occurred


def stop_table(stops: Sequence[str], token_bytes: Sequence[bytes]) -> np.ndarray:
    """Return the state after each token, int32 [states, V]; FOUND is absorbing."""
    by_byte = _automaton([text.encode() for text in stops])
    longest = max(map(len, token_bytes))
    table = np.repeat(np.arange(len(by_byte), dtype=np.int32)[:, None], len(token_bytes), axis=1)
    for place in range(longest):
        tokens = np.array([i for i, text in enumerate(token_bytes) if len(text) > place])
        read = np.array([token_bytes[i][place] for i in tokens])
        table[:, tokens] = by_byte[table[:, tokens], read]
    return table


def follow(table: Array | None, states: Array, tokens: Array) -> Array:
    """Return the states after these tokens, int32 of the same shape; without a table, states do not change."""
    return states if table is None else table[states, tokens]


def cut(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first stop string."""
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]


def _automaton(stops: Sequence[bytes]) -> np.ndarray:
    """Return the transitions [states, 256] of the automaton."""
    children: list[dict[int, int]] = [{}, {}]  # of START and FOUND
    for stop in stops:
        node = START
        for byte in stop[:-1]:
            if byte not in children[node]:
                children[node][byte] = len(children)
                children.append({})
            node = children[node][byte]
        children[node][stop[-1]] = FOUND
    next_ = np.zeros((len(children), 256), np.int32)
    next_[FOUND] = FOUND
    failure = [START] * len(children)
    waiting = deque([START])
    while waiting:  # shorter prefixes first: a state's failure is one of them
        node = waiting.popleft()
        if node != START:
            next_[node] = next_[failure[node]]
        for byte, child in children[node].items():
            failure[child] = next_[node, byte]
            if failure[child] == FOUND:  # a suffix of this prefix is another stop string
                continue
            next_[node, byte] = child
            if child != FOUND:
                waiting.append(child)
    return next_
