"""Corpora larger than memory: text encoded beforehand into shards of chunks, and read from them at random.

    DIR/preparation.json     what was asked for; written first, the directory refuses anything else
    DIR/shards/00000.*       .array_record (the chunks), .npy (their lengths), .json (counts and digest; written last)
    DIR/index.npy            the lengths of all chunks
    DIR/statistics.json      counts of the whole; written last: its presence means that all is there

Only pipeline.py needs Apache Beam, and only while it prepares.
"""
