"""Stop strings, wherever they fall among tokens: an automaton over bytes, tabulated by token.

Aho and Corasick's automaton (1975) tells after each byte which beginnings of the stop strings the text ends with. Run
over every token's bytes once, from every state, it becomes a table [states, vocabulary], and following a text then
costs one look-up a token, on the device.
"""

from collections import deque
from collections.abc import Sequence

import jax
import numpy as np

Array = jax.Array

START, FOUND = 0, 1  # states: nothing written yet; a stop string occurred


def stop_table(stops: Sequence[str], token_bytes: Sequence[bytes]) -> np.ndarray:
    """Table int32 [states, V]: the state after a token. FOUND is never left."""
    by_byte = _automaton([text.encode() for text in stops])
    longest = max(map(len, token_bytes))
    table = np.repeat(np.arange(len(by_byte), dtype=np.int32)[:, None], len(token_bytes), axis=1)
    for place in range(longest):
        tokens = np.array([i for i, text in enumerate(token_bytes) if len(text) > place])
        read = np.array([token_bytes[i][place] for i in tokens])
        table[:, tokens] = by_byte[table[:, tokens], read]
    return table


def follow(table: Array | None, states: Array, tokens: Array) -> Array:
    """States after these tokens, both int32 of one shape; without a table nothing is ever found."""
    return states if table is None else table[states, tokens]


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string."""
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]


def _automaton(stops: Sequence[bytes]) -> np.ndarray:
    """Transitions [states, 256]."""
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
    while waiting:  # shorter beginnings first: a state's failure is one of them
        node = waiting.popleft()
        if node != START:
            next_[node] = next_[failure[node]]
        for byte, child in children[node].items():
            failure[child] = next_[node, byte]
            if failure[child] == FOUND:  # what the text ends with there has another stop string at its own end
                continue
            next_[node, byte] = child
            if child != FOUND:
                waiting.append(child)
    return next_
