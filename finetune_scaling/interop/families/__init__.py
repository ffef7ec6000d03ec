"""The families of public models that are read and written: each as data, in a file of its own."""
