"""Stop strings across token boundaries: a byte automaton, tabulated by token.

Aho and Corasick's automaton (1975) tracks which prefix of a stop string the text ends with. Run once over every token's
bytes from every state, it becomes a table [states, vocabulary]: one look-up per token on the device.
"""

from collections.abc import Sequence

import numpy as np

START, FOUND = 0, 1  # states: no text yet; a stop string occurred


def stop_table(stops: Sequence[str], token_bytes: Sequence[bytes]) -> np.ndarray:
    """Return the state after each token, int32 [states, V]; FOUND is absorbing."""
    by_byte = _automaton([text.encode() for text in stops])
    longest = max(map(len, token_bytes))
    table = np.repeat(np.arange(len(by_byte), dtype=np.int32)[:, None], len(token_bytes), axis=1)
    for position in range(longest):
        tokens = np.array([i for i, text in enumerate(token_bytes) if len(text) > position])
        read = np.array([token_bytes[i][position] for i in tokens])
        table[:, tokens] = by_byte[table[:, tokens], read]
    return table


def cut(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first stop string."""
    ends = [position for stop in stops if (position := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]


def _automaton(stops: Sequence[bytes]) -> np.ndarray:
    """Return the transitions [states, 256]: a state is the longest prefix of a stop string that the text ends with."""
    prefixes = dict.fromkeys(stop[:length] for stop in stops for length in range(1, len(stop)))
    states = {b"": START} | {prefix: state for state, prefix in enumerate(prefixes, start=FOUND + 1)}
    transitions = np.full((len(states) + 1, 256), START, np.int32)
    transitions[FOUND] = FOUND
    alphabet = set(b"".join(stops))  # every other byte leads to START
    for prefix, state in states.items():
        for byte in alphabet:
            text = prefix + bytes([byte])
            longest = next(suffix for start in range(len(text) + 1) if (suffix := text[start:]) in states)
            transitions[state, byte] = FOUND if text.endswith(tuple(stops)) else states[longest]
    return transitions
