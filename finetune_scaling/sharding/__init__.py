"""Where arrays live: the mesh of devices, the rules that divide arrays over it, and the processes that share a run."""
