"""Sharding of arrays over a device mesh, and the processes of a distributed program."""
