"""Corpora larger than memory: text is encoded into shards of chunks, which are read at random.

    DIR/preparation.json     settings; written first; the directory accepts no others
    DIR/shards/00000.*       .array_record (the chunks), .npy (their lengths), .json (counts and digest; written last)
    DIR/index.npy            the lengths of all chunks
    DIR/statistics.json      total counts; written last: its presence means that the corpus is complete

Only pipeline.py needs Apache Beam, and only for writing.
"""
