"""Data sets: raw archive -> verified uint8 store. One file a data set, one entry here."""
